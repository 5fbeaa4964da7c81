"""One token from its logits: the draw that sampling repeats, and where its random numbers are
from.

    token ~ softmax(logits / temperature)         logp = log of that softmax at the token

A row draws by inverting the cumulative distribution at one uniform number, a hash of its own seed
and position (splitmix64): no stream of random numbers is shared, so that what a row draws does not
depend on who shares the batch, on their order, or on the device. Left out on purpose: penalties for
repetition, min-p, everything else that makes the distribution another one than what is trained.
"""

import torch

from engine import kernels


def mix(x: torch.Tensor) -> torch.Tensor:
    """splitmix64's finalizer: int64 -> well-mixed int64, the same on every device."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))


def row_seeds(rows: torch.Tensor, seed: int) -> torch.Tensor:
    """The own seeds of rows, by their numbers, where the whole batch has one."""
    return rows + mix(torch.tensor(seed, device=rows.device))


def uniform(seeds: torch.Tensor, position) -> torch.Tensor:
    """Numbers in (0, 1) with 23 random bits, a pure function of seeds and position (an int or a
    tensor; the two are broadcast). Never 0, which would draw the first token however unlikely."""
    bits = (mix(seeds + (position + 1) * 0x9E3779B97F4A) >> 41) & (2**23 - 1)
    return (bits.float() + 0.5) / 2**23


def draw(logits: torch.Tensor, u: torch.Tensor, temperature: float, top_k: int = 0,
         top_p: float = 1.0, place: torch.Tensor | None = None):
    """Tokens (N,), their log-probs (N,) and the entropies (N,) of softmax(logits / temperature),
    for uniform numbers u (N,) and logits (N, V), or logits (P, V) of which place (N,) says whose
    each is. Temperature 0 is greedy, its log-prob and entropy those of the untempered distribution.
    With top_k or top_p, the distribution is that of what they keep of it."""
    if temperature and not top_k and top_p == 1 and place is None and kernels.usable(logits):
        return kernels.draw(logits, u, temperature)
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
        token = token if place is None else token[place]
    else:
        token = invert(probs.cumsum(-1), u, place)
    if place is None:
        return token, logp.gather(-1, token[:, None])[:, 0], entropy
    return token, logp[place, token], entropy[place]


def invert(cumulative, u, place=None):
    """The first index (N,) at which cumulative (N, V), which grows to about 1, exceeds u (N,) times
    its last; with place (N,), in the row of cumulative (P, V) that it says."""
    if place is None:
        wanted = u[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, wanted, right=True)[:, 0]
    # one search in all rows in a row, each two higher than the one before: of 2**12 rows fp64 can
    # tell apart what differs by 2**-40
    wanted = (u * cumulative[:, -1][place]).double() + 2 * place
    rows = torch.arange(cumulative.shape[0], device=u.device)
    all_rows = cumulative.double().add_(2 * rows[:, None]).flatten()
    return torch.searchsorted(all_rows, wanted, right=True) - place * cumulative.shape[1]


def keep_top(logits, top_k: int, top_p: float):
    """Logits (N, V) whose unlikely tokens are gone: the top_k likeliest stay (0: all), and of them
    the fewest that hold at least the share top_p of the probability (1904.09751)."""
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ordered[:, top_k:] = -1e30  # not -inf, of which 0 times is no number
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1) - probs  # what likelier tokens hold
    ordered[:, 1:] = ordered[:, 1:].masked_fill(before[:, 1:] >= top_p, -1e30)
    return torch.empty_like(logits).scatter(-1, index, ordered)
