"""Log-probs of chosen tokens without keeping their logits.

The logits of a batch are the largest tensor of training: M tokens times V words. Autograd would
keep them, their log-softmax and its gradient. Here the forward pass keeps the hidden states and one
number a token (the log-sum-exp), and the backward pass makes the logits again, a part at a time:

    logp = z[chosen] - lse            z = states @ weight.T / temperature,  lse = log sum exp z
    H    = lse - sum p z              p = exp(z - lse)
    d logp / dz = onehot(chosen) - p              d H / dz = -p (z - lse + H)

As the fused cross entropies of Liger (2410.10989) do. Products are of factors in `dtype`; logits
and all that follows are fp32. Shapes: M tokens, D width, V vocabulary.
"""

import torch

from engine import kernels
from engine.products import add_product, product

MOST_LOGITS = {"cpu": 2**25, "cuda": 2**28}  # in memory at a time: 128 MB, 1 GB

def measure(logits, chosen, temperature: float, entropy: bool):
    """Log-probs of chosen (M,), log-sum-exps (M,) and entropies (M,) (or zeros) of softmax(logits
    (M, V) / temperature). Writes over the logits."""
    if kernels.usable(logits):
        return kernels.measure(logits, chosen, temperature)
    z = logits if temperature == 1 else logits.div_(temperature)
    lse, picked = z.logsumexp(-1), z.gather(1, chosen[:, None])[:, 0]
    if not entropy:
        return picked - lse, lse, torch.zeros_like(lse)
    log_p = z.sub_(lse[:, None])
    return picked - lse, lse, -(log_p.exp() * log_p).sum(-1)


def gradient(logits, chosen, temperature: float, lse, entropy, grad_logp, grad_entropy, dtype):
    """The gradient (M, V), in dtype, of the logits, given those (M,) of the log-probs and of the
    entropies (or None). Writes over the logits."""
    if kernels.usable(logits):
        return kernels.gradient(logits, chosen, temperature, lse, entropy, grad_logp, grad_entropy,
                                dtype)
    log_p = (logits if temperature == 1 else logits.div_(temperature)).sub_(lse[:, None])
    factor = -grad_logp[:, None]
    if grad_entropy is not None:
        factor = factor - grad_entropy[:, None] * (log_p + entropy[:, None])
    grad = log_p.exp_().mul_(factor)
    grad.scatter_add_(1, chosen[:, None], grad_logp[:, None])
    return (grad if temperature == 1 else grad.div_(temperature)).to(dtype)


class ChosenLogp(torch.autograd.Function):
    """Log-probs of chosen (M,) under states (M, D) and the head's weight (V, D) and bias (V,) or
    None; and, where asked for, entropies (M,), else zeros."""

    @staticmethod
    def forward(ctx, states, weight, bias, chosen, temperature: float, entropy: bool,
                dtype: torch.dtype):
        ctx.temperature, ctx.dtype, found = temperature, dtype, []
        ctx.rows = max(1, MOST_LOGITS[states.device.type] // len(weight))
        ctx.set_materialize_grads(False)
        rounded = weight.to(dtype)  # once for all parts
        for x, y in zip(states.split(ctx.rows), chosen.split(ctx.rows), strict=True):
            found.append(measure(product(x, rounded, bias, dtype), y, temperature, entropy))
        logp, lse, entropies = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.save_for_backward(states, weight, bias, chosen, lse, entropies)
        return logp, entropies

    @staticmethod
    def backward(ctx, grad_logp, grad_entropy):
        states, weight, bias, chosen, lse, entropy = ctx.saved_tensors
        rounded, grad_states = weight.to(ctx.dtype), torch.empty_like(states)
        grad_weight = torch.zeros_like(weight)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        grad_logp = torch.zeros_like(lse) if grad_logp is None else grad_logp
        for first in range(0, len(states), ctx.rows):
            at = slice(first, first + ctx.rows)
            grad = gradient(product(states[at], rounded, bias, ctx.dtype), chosen[at],
                            ctx.temperature, lse[at], entropy[at], grad_logp[at],
                            grad_entropy[at] if grad_entropy is not None else None, ctx.dtype)
            grad_states[at] = grad @ rounded                                   # grad (m, V)
            grad_weight = add_product(grad_weight, grad.T, states[at].to(ctx.dtype))
            if bias is not None:
                grad_bias += grad.float().sum(0)
        return grad_states, grad_weight, grad_bias, None, None, None, None
