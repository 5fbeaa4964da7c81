"""Right solutions of part 3, written in other ways. They run with the names of the true modules."""

import math

import torch


def padded_lists(pairs, pad_id=0):
    longest = max(len(a) + len(b) for a, b in pairs)
    tokens = [a + b + [pad_id] * (longest - len(a) - len(b)) for a, b in pairs]
    mask = [[0.0] * len(a) + [1.0] * len(b) + [0.0] * (longest - len(a) - len(b))
            for a, b in pairs]
    return torch.tensor(tokens), torch.tensor(mask)


def logprobs_by_logsumexp(self, hidden, chosen, temperature, entropy, dtype=None):
    logits = self.logits(hidden, dtype) / temperature
    log_total = torch.logsumexp(logits, dim=1)
    picked = logits[torch.arange(len(chosen)), chosen] - log_total
    if not entropy:
        return picked, None
    p = torch.softmax(logits, dim=1)
    return picked, log_total - (p * logits).sum(1)


def wilson_as_roots(successes, n, z=1.96):
    """The bounds are the roots q of (p - q)^2 = z^2 q (1 - q) / n."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    a, b, c = 1 + z**2 / n, -(2 * p + z**2 / n), p**2
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return max(0.0, (-b - root) / (2 * a)), min(1.0, (-b + root) / (2 * a))


def pass_at_k_product(n, c, k):
    if k < 1 or k > n or c < 0 or c > n:
        raise ValueError("k is not in 1..n, or c not in 0..n")
    wrong = 1.0
    for i in range(k):
        wrong *= (n - c - i) / (n - i)
    return 1.0 - max(0.0, wrong)


SOLUTIONS = {"padded": [padded_lists], "GPT.logprobs_of": [logprobs_by_logsumexp],
             "wilson": [wilson_as_roots], "pass_at_k": [pass_at_k_product]}
