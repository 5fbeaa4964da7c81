"""Random numbers of sampling, and a token from its logits.

    token ~ softmax(logits / temperature)         logp = log of that softmax at the token

A row draws by inverting the cumulative distribution at one uniform number. The number is a hash
(splitmix64) of the row's own seed and of the position in the response. No stream of random numbers
is shared, so a row's draws do not depend on the other rows, their order, or the device. top-k and
top-p are for evaluation only: the loss computes log-probs over the whole distribution, so training
must sample from the whole distribution. Left out on purpose: repetition penalties and min-p.
Shapes: N rows, V vocabulary, P slots (texts that several rows may share, engine/slots.py).
"""

import torch

from engine import kernels


def splitmix64(x: torch.Tensor) -> torch.Tensor:
    """The finalizer of splitmix64: int64 -> well-mixed int64, the same on every device."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))


def row_seeds(rows: torch.Tensor, seed: int) -> torch.Tensor:
    """The seed of each row of a batch that has one seed, from the row's number."""
    return rows + splitmix64(torch.tensor(seed, device=rows.device))


def uniform(seeds: torch.Tensor, position) -> torch.Tensor:
    """Numbers in (0, 1) with 23 random bits, a pure function of seeds and position.

    position: an int or a tensor that is broadcast with seeds. 0 is never returned: it would draw
    the first token of the vocabulary however unlikely that is."""
    bits = (splitmix64(seeds + (position + 1) * 0x9E3779B97F4A) >> 41) & (2**23 - 1)
    return (bits.float() + 0.5) / 2**23


def sample_tokens(logits: torch.Tensor, u: torch.Tensor, temperature: float, top_k: int = 0,
                  top_p: float = 1.0, slot: torch.Tensor | None = None):
    """Tokens (N,), their log-probs (N,), and the entropies (N,) in nats of the distributions.

    The distribution is softmax(logits / temperature), restricted to what top_k and top_p keep. u
    (N,): uniform numbers. logits: (N, V), or (P, V) with slot (N,), the row of logits that each
    sequence uses. Temperature 0 is greedy; log-prob and entropy are then those at temperature 1.
    engine/graphs.py records decode steps on a GPU with this function in them. So neither it nor
    inverse_cdf decides in Python by a number of a tensor, or loops over rows."""
    if temperature and not top_k and top_p == 1 and slot is None and kernels.usable(logits):
        return kernels.sample_tokens(logits, u, temperature)
    logits = logits.float()
    if temperature not in (0, 1):
        logits = logits / temperature
    if top_k or top_p < 1:
        logits = keep_top(logits, top_k, top_p)
    logp = logits.log_softmax(-1)
    probs = logp.exp()
    entropy = -(probs * logp).sum(-1)
    if temperature == 0:
        token = logp.argmax(-1)
        token = token if slot is None else token[slot]
    else:
        token = inverse_cdf(probs.cumsum(-1), u, slot)
    if slot is None:
        return token, logp.gather(-1, token[:, None])[:, 0], entropy
    return token, logp[slot, token], entropy[slot]


def inverse_cdf(cumulative, u, slot=None):
    """The first index (N,) at which cumulative (N, V) exceeds u (N,) times its last entry, which is
    1 up to rounding. With slot (N,): in row slot[i] of cumulative (P, V)."""
    if slot is None:
        threshold = u[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    # one search over all rows side by side, each shifted by 2 from the row before: fp64 separates
    # differences of 2**-40 in up to 2**12 rows
    threshold = (u * cumulative[:, -1][slot]).double() + 2 * slot
    rows = torch.arange(cumulative.shape[0], device=u.device)
    all_rows = cumulative.double().add_(2 * rows[:, None]).flatten()
    return torch.searchsorted(all_rows, threshold, right=True) - slot * cumulative.shape[1]


def keep_top(logits, top_k: int, top_p: float):
    """Logits (N, V) with the unlikely tokens at -1e30. The top_k most likely tokens stay (0: all).
    Of these stays the smallest set whose probability is at least top_p (1904.09751). For
    evaluation only: training must sample from the whole distribution."""
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ordered[:, top_k:] = -1e30  # not -inf: 0 times -inf is NaN
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1) - probs  # probability of the more likely tokens
    ordered[:, 1:] = ordered[:, 1:].masked_fill(before[:, 1:] >= top_p, -1e30)
    return torch.empty_like(logits).scatter(-1, index, ordered)
