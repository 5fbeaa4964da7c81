"""Inputs of part 3: the base, SFT, pass@k. The answers are not here."""

import torch


def padded(f):
    yield "one pair", f, [([1, 2], [3, 4])]
    yield "pairs of different lengths", f, [([1, 2, 3], [4]), ([5], [6, 7]), ([8, 9], [1, 2, 3, 4])]
    yield "another pad_id", f, [([1], [2]), ([3, 4], [5, 6])], 9
    yield ("responses that contain pad_id, also at their end", f,
           [([1, 2], [3, 0, 4, 0]), ([5], [0])])


def tiny_gpt(scale: float = 1.0):
    from model import GPT, Config
    made = GPT(Config(6, context=8, layers=1, width=4, heads=1, kv_heads=1, hidden=4))
    made.lm_head.weight.data = scale * torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    return made


def logprobs_of(f):
    def call(hidden, chosen, temperature, entropy, scale=1.0, dtype=None):
        hidden = hidden.clone().requires_grad_()
        more = () if dtype is None else (dtype,)
        logp, found = f(tiny_gpt(scale), hidden, chosen, temperature, entropy, *more)
        total = logp.flatten() @ torch.arange(1.0, 1 + logp.numel())
        if found is not None:
            total = total + found.sum() / 2
        gradient = torch.zeros(hidden.shape)
        if total.requires_grad and scale == 1 and not more:  # else coarse, or of large numbers
            gradient = torch.autograd.grad(total, hidden)[0]
        return {"the log-probs": logp, "the entropies": found,
                "the gradient with respect to hidden": gradient}
    hidden = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    chosen = torch.tensor([2, 5, 0])
    yield "temperature 1 (values and gradient)", call, hidden, chosen, 1.0, True
    yield "temperature 0.5", call, hidden, chosen, 0.5, True
    yield "temperature 2", call, hidden, chosen, 2.0, True
    yield "no entropy asked for", call, hidden, chosen, 1.0, False
    yield "logits of some hundreds", call, hidden, torch.tensor([0, 1, 2]), 1.0, False, 300.0
    yield "dtype torch.bfloat16", call, hidden, chosen, 1.0, True, 1.0, torch.bfloat16


def wilson(f):
    def call(successes, n, *z):
        low, high = f(successes, n, *z)
        return {"the lower end": low, "the upper end": high, "(low >= 0)": bool(low >= 0),
                "(high <= 1)": bool(high <= 1)}
    for successes, n in ((7, 10), (50, 100), (1, 3), (0, 10), (10, 10), (0, 0), (3, 1000), (0, 20),
                         (18, 18), (23, 23)):
        yield f"{successes} of {n}", call, successes, n
    yield "7 of 10 with z = 1", call, 7, 10, 1.0


def pass_at_k(f):
    for n, c, k in ((10, 3, 1), (10, 3, 2), (10, 3, 5), (16, 1, 8), (5, 5, 3), (4, 0, 2), (8, 6, 4),
                    (4, 4, 4), (200, 3, 100)):
        yield f"n = {n}, c = {c}, k = {k}", f, n, c, k
    for n, c, k in ((4, 2, 5), (4, 2, 0), (4, 5, 1), (4, -1, 1)):
        yield f"impossible: n = {n}, c = {c}, k = {k}", f, n, c, k


CHECKS = {"padded": padded, "GPT.logprobs_of": logprobs_of, "wilson": wilson,
          "pass_at_k": pass_at_k}
