"""Log-probs of chosen tokens without keeping their logits.

The logits of a batch, M tokens times V words, are the largest tensor of training. Autograd keeps
the logits, their log-softmax and its gradient. Here the forward pass keeps the hidden states and
one number per token, the log-sum-exp; the backward pass computes the logits again, in parts:

    logp = z[chosen] - lse            z = hidden @ weight.T / temperature,  lse = log sum exp z
    H    = lse - sum p z              p = exp(z - lse)
    d logp / dz = onehot(chosen) - p              d H / dz = -p (z - lse + H)

The fused cross entropy of Liger (2410.10989) works in the same way. The factors of products are in
`dtype`; logits and everything after them are fp32. Shapes: M tokens, D width, V vocabulary.
"""

import torch

from engine import kernels
from engine.products import add_product, product

MAX_LOGITS = {"cpu": 2**25, "cuda": 2**28}  # logits in memory at a time: 128 MB, 1 GB


def token_logprobs(logits, chosen, temperature: float, entropy: bool):
    """Log-probs of chosen (M,), log-sum-exps (M,) and entropies (M,) (or zeros) of softmax(logits
    (M, V) / temperature). Overwrites the logits."""
    if kernels.usable(logits):
        return kernels.token_logprobs(logits, chosen, temperature)
    z = logits if temperature == 1 else logits.div_(temperature)
    lse, picked = z.logsumexp(-1), z.gather(1, chosen[:, None])[:, 0]
    if not entropy:
        return picked - lse, lse, torch.zeros_like(lse)
    log_p = z.sub_(lse[:, None])
    return picked - lse, lse, -(log_p.exp() * log_p).sum(-1)


def logits_gradient(logits, chosen, temperature: float, lse, entropy, grad_logp, grad_entropy,
                    dtype):
    """The gradient (M, V) in dtype with respect to the logits, from the gradients (M,) with respect
    to the log-probs and to the entropies (or None). Overwrites the logits."""
    if kernels.usable(logits):
        return kernels.logits_gradient(logits, chosen, temperature, lse, entropy, grad_logp,
                                       grad_entropy, dtype)
    log_p = (logits if temperature == 1 else logits.div_(temperature)).sub_(lse[:, None])
    factor = -grad_logp[:, None]
    if grad_entropy is not None:
        factor = factor - grad_entropy[:, None] * (log_p + entropy[:, None])
    grad = log_p.exp_().mul_(factor)
    grad.scatter_add_(1, chosen[:, None], grad_logp[:, None])
    return (grad if temperature == 1 else grad.div_(temperature)).to(dtype)


class ChosenLogp(torch.autograd.Function):
    """Log-probs of chosen (M,) under hidden states (M, D) and lm_head's weight (V, D) and bias (V,)
    or None, and entropies (M,), which are zeros unless `entropy` is True."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, chosen, temperature: float, entropy: bool,
                dtype: torch.dtype):
        ctx.temperature, ctx.dtype, found = temperature, dtype, []
        ctx.rows = max(1, MAX_LOGITS[hidden.device.type] // len(weight))
        ctx.set_materialize_grads(False)
        rounded = weight.to(dtype)  # cast once for all parts
        for x, y in zip(hidden.split(ctx.rows), chosen.split(ctx.rows), strict=True):
            found.append(token_logprobs(product(x, rounded, bias, dtype), y, temperature, entropy))
        logp, lse, entropies = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.save_for_backward(hidden, weight, bias, chosen, lse, entropies)
        return logp, entropies

    @staticmethod
    def backward(ctx, grad_logp, grad_entropy):
        hidden, weight, bias, chosen, lse, entropy = ctx.saved_tensors
        rounded, grad_hidden = weight.to(ctx.dtype), torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        grad_logp = torch.zeros_like(lse) if grad_logp is None else grad_logp
        for first in range(0, len(hidden), ctx.rows):
            at = slice(first, first + ctx.rows)
            grad = logits_gradient(
                product(hidden[at], rounded, bias, ctx.dtype), chosen[at], ctx.temperature,
                lse[at], entropy[at], grad_logp[at],
                grad_entropy[at] if grad_entropy is not None else None, ctx.dtype)
            grad_hidden[at] = grad @ rounded                                   # grad (m, V)
            grad_weight = add_product(grad_weight, grad.T, hidden[at].to(ctx.dtype))
            if bias is not None:
                grad_bias += grad.float().sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None
