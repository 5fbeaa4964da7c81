"""What both samplers share: the checked request, and the result with prompts and responses side by
side. Shapes: P texts, N = P * group_size rows, T tokens."""

import math
from dataclasses import dataclass
from itertools import zip_longest

import torch
import torch.nn.functional as F

from engine import vision
from engine.rng import row_seeds, splitmix64


@dataclass
class Request:
    """N rows; row i continues text i // group_size of P texts."""

    texts: list[list[int]]      # prompt and given prefix of the response
    group_size: int
    max_new_tokens: int
    seeds: torch.Tensor         # (N,) well-mixed seed of each row
    offsets: torch.Tensor       # (P,) length of the given prefix
    stop_ids: list[int]
    stop_table: torch.Tensor | None
    stop_states: torch.Tensor   # (P,) state of the stop-string automaton after the prefix
    sampling: tuple             # temperature, top_k, top_p


def make_request(model, prompts, group_size, max_new_tokens, temperature, seed, stop, stop_table,
                 prefixes, top_k, top_p) -> Request:
    """Raises ValueError for no prompts, an empty prompt, one that leaves no room in the context,
    ids outside the vocabulary, a negative temperature, a top_k or top_p that keeps nothing."""
    config, device = model.config, model.embedding.weight.device
    prefixes = prefixes or [[]] * len(prompts)
    texts = [prompt + prefix for prompt, prefix in zip(prompts, prefixes, strict=True)]
    if not texts or not all(texts):
        raise ValueError("there is nothing to sample from: no prompts, or an empty one")
    if group_size < 1 or max_new_tokens < 1 or not 0 <= temperature < math.inf:
        raise ValueError("group_size and max_new_tokens must be at least 1, and temperature a "
                         "number of at least 0")
    if top_k < 0 or not 0 < top_p <= 1:
        raise ValueError("top_k must be at least 0, and top_p above 0 and at most 1")
    longest = max(map(len, texts))
    if longest + max_new_tokens > config.context:
        raise ValueError(f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit "
                         f"the context of {config.context}")
    ids = config.vocab_size + (vision.N_CODES if config.image else 0)
    if not all(0 <= token < ids for text in texts for token in text):
        raise ValueError(f"a prompt holds ids outside the vocabulary of {config.vocab_size}")
    if isinstance(seed, int):
        seed = row_seeds(torch.arange(len(texts) * group_size, device=device), seed)
    return Request(texts, group_size, max_new_tokens,
                   splitmix64(torch.as_tensor(seed, device=device)),
                   torch.tensor([len(p) for p in prefixes], device=device),
                   [stop] if isinstance(stop, int) else list(stop), stop_table,
                   states_after(stop_table, prefixes, device), (temperature, top_k, top_p))


def states_after(stop_table, prefixes, device):
    """States (P,) of the stop-string automaton after the given prefixes; zeros without a table."""
    states = torch.zeros(len(prefixes), dtype=torch.int64, device=device)
    for column in zip_longest(*prefixes, fillvalue=-1) if stop_table is not None else ():
        token = torch.tensor(column, device=device)
        states = torch.where(token < 0, states, stop_table[token.clamp(min=0), states])
    return states


def assemble(request: Request, out: dict, pad: int, *more: str) -> dict:
    """The fields of a sample.Rollout, from tokens, logp and entropy (N, max_new_tokens), drawn and
    truncated (N,). Rows are padded on the right, as training needs them. `chosen` (N,
    max_new_tokens), if there, marks the tokens that belong into the mask. more: names of further
    numbers per token."""
    device, lengths = out["tokens"].device, out["drawn"][:, None]
    # 1. prompts, one row per response
    starts = torch.tensor([[len(text)] for text in request.texts], device=device)
    starts = starts.repeat_interleave(request.group_size, dim=0)              # (N, 1)
    width = int((starts + lengths).max())
    padded = torch.tensor([(text + [pad] * width)[:width] for text in request.texts],
                          device=device).repeat_interleave(request.group_size, dim=0)
    # 2. responses behind them
    source = torch.arange(width, device=device) - starts                      # column in `out`
    mask = (source >= 0) & (source < lengths)
    source = source.clamp(0, out["tokens"].shape[1] - 1)
    tokens = torch.where(mask, out["tokens"].gather(1, source), padded)
    numbers = {name: out[name].gather(1, source) * mask for name in ("logp", "entropy", *more)}
    if "chosen" in out:  # engine/turns.py: some tokens are the environment's
        mask &= out["chosen"].gather(1, source)
    group = torch.arange(len(request.texts), device=device)
    return dict(tokens=tokens, **numbers, mask=mask.float(),
                group=group.repeat_interleave(request.group_size),
                truncated=out["truncated"].clone())


def concat_rollouts(rollouts: list, pad: int):
    """One Rollout of several, of which some may be None; groups are numbered on."""
    rollouts = [r for r in rollouts if r is not None]
    width, groups, columns = max(r.tokens.shape[1] for r in rollouts), 0, {}
    for r in rollouts:
        for name, x in vars(r).items():
            if x.dim() == 2:
                x = F.pad(x, (0, width - x.shape[1]), value=pad if name == "tokens" else 0)
            columns.setdefault(name, []).append(x + groups if name == "group" else x)
        groups += int(r.group.max()) + 1
    return type(rollouts[0])(**{name: torch.cat(parts) for name, parts in columns.items()})
