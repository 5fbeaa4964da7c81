"""Matrix products of low-precision factors whose sums stay in fp32.

A GPU's matrix units multiply bf16 and add up in fp32, but a product in PyTorch rounds its result to
bf16 unless it is told otherwise (out_dtype). Logits and the residual stream need the digits: see
`logp_diff` in a run's metrics.
"""

import torch

ADDS = torch.__version__ >= "2.11"  # whether addmm adds a product of bf16 to an fp32 matrix


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x in dtype. `x.to` is skipped where it does nothing: a recorded step would repeat it."""
    return x if x.dtype == dtype else x.to(dtype)


def product(x, weight, bias, dtype: torch.dtype) -> torch.Tensor:
    """x (M, D) times the transpose of weight (V, D), and bias (V,) or None added: in fp32 (M, V),
    of factors in dtype."""
    if x.dtype != dtype or weight.dtype != dtype:
        x, weight = x.to(dtype), weight.to(dtype)
    if dtype == torch.float32:
        y = x @ weight.T
    elif x.is_cuda:
        y = torch.mm(x, weight.T, out_dtype=torch.float32)
    else:  # a CPU's product of bf16 would round to bf16
        y = x.float() @ weight.float().T
    return y if bias is None else y + bias


def add_product(total, x, y) -> torch.Tensor:
    """total + x @ y, of total (M, N) in fp32, x (M, D) and y (D, N) in one dtype. Without gradient;
    total may be written over."""
    if x.dtype == torch.float32:
        return torch.addmm(total, x, y)
    if ADDS and x.is_cuda:
        return torch.addmm(total, x, y, out_dtype=torch.float32, out=total)
    return total.add_(product(x, y.T, None, x.dtype))
