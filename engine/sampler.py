"""Batched sampling with a KV cache: prompts of different lengths in, tokens and their log-probs
out.

Rows stand in places (places.py), those of equal texts in one until they draw different tokens. A
text is read once for all of its rows that come in together; its keys and values begin in the first
column of the place's cache, and each step appends one column to each text. Rows that have ended
make the batch smaller; once enough have, waiting ones come in.

    token[t] ~ softmax(logits[t-1] / temperature)         logp[t] = log of that softmax at token[t]

What a row draws depends on its own seed, prompt and position alone (draw.py). A row ends with a
stop token, or with a stop string, however that is cut into tokens: each token moves an automaton
that has read the string so far. A decode step is recorded, and then replayed without Python
(record.py). On CUDA the host asks only now and then who has ended, so that each row has a place of
its own from the beginning; and of a text just the columns that are there are read
(engine/kernels.py), where a CPU reads those of the longest and hides some by a mask.
Left out on purpose: paged caches, speculative decoding, several GPUs.
"""

import math
from dataclasses import dataclass, fields
from itertools import zip_longest
from os.path import commonprefix  # of any sequences

import torch
import torch.nn.functional as F

from engine import graphs
from engine.packing import micro_batches
from engine.rng import draw, mix, row_seeds, uniform
from engine.slots import HABITS, Cache, Places, View, Window, places_for
from model import GPT

PREFILL = {"cpu": 1024, "cuda": 32768}  # tokens of prompts that are read at a time
SHARED = 32     # of a common beginning that are read apart; fewer are not worth it
REFILL = 0.5    # waiting rows come in when at most this share of the batch is left


@dataclass
class Rollout:
    """N = prompts x group_size sequences; row i answers prompt group[i]. T is the longest's
    length."""

    tokens: torch.Tensor     # (N, T) int64: prompt, response, then padding
    logp: torch.Tensor       # (N, T) of each token of the response when it was drawn; else 0
    entropy: torch.Tensor    # (N, T) of the distribution it was drawn from, nats; else 0
    mask: torch.Tensor       # (N, T) 1.0 where the policy chose the token, end of text included
    group: torch.Tensor      # (N,) index of the prompt
    truncated: torch.Tensor  # (N,) True where max_new_tokens came before the end of text

    def to(self, device) -> "Rollout":
        return Rollout(*(getattr(self, f.name).to(device) for f in fields(self)))

    def responses(self) -> list[list[int]]:
        """Token ids of each response, the end of text included."""
        rows = zip(self.tokens.cpu(), self.mask.bool().cpu(), strict=True)
        return [tokens[mask].tolist() for tokens, mask in rows]


def join(rollouts: list, pad: int) -> Rollout:
    """One Rollout of several, of which some may be None, one after the other."""
    rollouts = [r for r in rollouts if r is not None]
    width, groups, columns = max(r.tokens.shape[1] for r in rollouts), 0, {}
    for r in rollouts:
        for name, fill in (("tokens", pad), ("logp", 0), ("entropy", 0), ("mask", 0)):
            x = getattr(r, name)
            columns.setdefault(name, []).append(F.pad(x, (0, width - x.shape[1]), value=fill))
        columns.setdefault("group", []).append(r.group + groups)
        columns.setdefault("truncated", []).append(r.truncated)
        groups += int(r.group.max()) + 1
    return Rollout(**{name: torch.cat(parts) for name, parts in columns.items()})


@dataclass
class Work:
    """What is to be sampled: row i continues text i // group_size, P texts and N rows in all."""

    texts: list[list[int]]  # prompt and given beginning
    group_size: int
    seeds: torch.Tensor     # (N,) of each row
    offsets: torch.Tensor   # (P,) tokens of the response that are given
    states: torch.Tensor    # (P,) of the automaton after them
    how: tuple              # temperature, top_k, top_p


def generate(model: GPT, prompts: list[list[int]], group_size: int = 1, max_new_tokens: int = 96,
             temperature: float = 1.0, seed=0, *, stop, pad: int, strings=None, prefixes=None,
             top_k: int = 0, top_p: float = 1.0, max_rows: int = 0,
             on_token=None) -> Rollout:
    """Samples group_size responses to each prompt, up to and with a token of `stop` (an id or
    several), or with the token that completes a stop string: strings (V, S) says to which state a
    token moves the automaton from each of S, of which the last is the end (tokenizer.stop_table).

    At most max_rows rows (0: 512 on a CPU, 1024 on a GPU) are decoded at once, fewer where memory
    would not hold them. seed: an int,
    or a list with the own seed of each row. prefixes: for each prompt the beginning of its
    response, to be continued; it is not in the mask, and what follows is drawn as if it had been
    drawn before. on_token(id) is called for each token of a single row. Raises ValueError for no
    prompts, an empty prompt, one that leaves no room in the context, ids outside the vocabulary, a
    negative temperature, a top_k or top_p that keeps nothing.
    """
    stops = [stop] if isinstance(stop, int) else list(stop)
    prefixes = prefixes or [[]] * len(prompts)
    texts = [prompt + prefix for prompt, prefix in zip(prompts, prefixes, strict=True)]
    check(model.config, texts, group_size, max_new_tokens, temperature, top_k, top_p)
    device = model.embedding.weight.device
    if isinstance(seed, int):
        rows = torch.arange(len(texts) * group_size, device=device)
        seed = row_seeds(rows, seed)
    work = Work(texts, group_size, mix(torch.as_tensor(seed, device=device)),
                torch.tensor([len(p) for p in prefixes], device=device),
                after(strings, prefixes, device), (temperature, top_k, top_p))
    out = decode(model, work, max_new_tokens, stops, strings, max_rows, on_token)
    return assemble(texts, group_size, out, pad)


def after(strings, prefixes, device):
    """The automaton's states (P,) once the given beginnings of the responses have been read."""
    state = torch.zeros(len(prefixes), dtype=torch.int64, device=device)
    for column in zip_longest(*prefixes, fillvalue=-1) if strings is not None else ():
        token = torch.tensor(column, device=device)
        state = torch.where(token < 0, state, strings[token.clamp(min=0), state])
    return state


@torch.inference_mode()
def decode(model, work: Work, max_new_tokens: int, stops, strings, max_rows: int,
           on_token) -> dict:
    """Draws all rows: tokens, logp and entropy (N, max_new_tokens), how many are `drawn` (N,), and
    which are `truncated` (N,)."""
    device, n, longest = work.seeds.device, len(work.seeds), max(map(len, work.texts))
    look_every, ratio, graphs, most = HABITS[device.type]
    max_rows = max_rows or most
    together, look_every = look_every == 1, 1 if on_token else look_every
    batch = places_for(model, min(n, max_rows), longest + max_new_tokens, max_new_tokens)
    batch.begin(stops, strings, max_new_tokens)
    out = {name: torch.zeros(n, max_new_tokens, dtype=getattr(batch, name).dtype, device=device)
           for name in ("tokens", "logp", "entropy")}
    out["drawn"] = torch.zeros(n, dtype=torch.int64, device=device)
    out["truncated"] = torch.zeros(n, dtype=torch.bool, device=device)
    most, admitted = min(n, max_rows, len(batch.row)), 0
    sizes = [len(batch.row) if graphs else most]  # for graphs always the same ones
    while sizes[-1] > 1:
        sizes.append(max(1, int(sizes[-1] * ratio)))
    while admitted < n or batch.taken:
        if admitted < n and batch.taken <= REFILL * most:
            rows = torch.arange(admitted, min(n, admitted + most - batch.taken), device=device)
            admit(model, batch, work, rows, together)
            admitted += len(rows)
        else:
            size = min(s for s in sizes if s >= batch.taken)
            for _ in range(look_every):
                advance(model, batch, size, work.how)
        if on_token:
            on_token(batch.last[0].item())
        living = batch.living()
        shrink = not living or (
            any(living <= s < batch.taken for s in sizes)          # a smaller batch will do
            or admitted < n and living <= REFILL * most)           # others wait to come in
        if shrink:
            batch.settle(out, living)
        if shrink or not batch.apart:
            batch.part()
        if shrink:
            batch.measure()
    return out


def check(config, prompts, group_size, max_new_tokens, temperature, top_k, top_p) -> None:
    if not prompts or not all(prompts):
        raise ValueError("there is nothing to sample from: no prompts, or an empty one")
    if group_size < 1 or max_new_tokens < 1 or not 0 <= temperature < math.inf:
        raise ValueError("group_size and max_new_tokens must be at least 1, temperature a number "
                         "from 0 on")
    if top_k < 0 or not 0 < top_p <= 1:
        raise ValueError("top_k must be at least 0 and top_p above 0 and at most 1")
    longest = max(map(len, prompts))
    if longest + max_new_tokens > config.context:
        raise ValueError(f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit "
                         f"the context of {config.context}")
    if not all(0 <= token < config.vocab_size for prompt in prompts for token in prompt):
        raise ValueError(f"a prompt holds ids outside the vocabulary of {config.vocab_size}")


def prefill(model, texts, begun: Cache | None = None):
    """Reads P texts, padded on the right to the longest; or what comes after their first b tokens,
    where a cache of one row has read these. Returns their cache, of as many columns, and the hidden
    states (P, D) of their last tokens. Padding comes after all that is real, which does not see it.
    """
    device, width = model.embedding.weight.device, max(map(len, texts))
    b = 0 if begun is None else begun.keys.shape[3]
    tokens = torch.tensor([[*text[b:]] + [0] * (width - len(text)) for text in texts],
                          device=device)                                      # (P, width - b)
    last = torch.tensor([len(text) - b - 1 for text in texts], device=device)
    cache = Cache(model.config, len(texts), width, device, model.embedding.weight.dtype)
    column, visible = torch.arange(width, device=device), None
    if begun is not None:
        cache.keys[..., :b, :], cache.values[..., :b, :] = begun.keys, begun.values
        visible = (column <= column[b:, None])[None, None]                    # (1, 1, T, width)
    hidden = model(tokens, column[b:].expand(len(texts), -1), cache.window(len(texts), width),
                   visible)
    return cache, hidden[torch.arange(len(texts), device=device), last]


def read(model, batch: Places, texts, stands) -> torch.Tensor:
    """Reads each of P texts once, and what all begin with, such as worked examples, once for all;
    and copies its cache to the new places. stands (S,) says whose text each of these holds. Returns
    the hidden states (P, D) of the texts' last tokens."""
    weight = model.embedding.weight
    hidden = weight.new_empty(len(texts), weight.shape[1])
    b = min(len(commonprefix(texts)), min(map(len, texts)) - 1) if len(texts) > 1 else 0
    begun = prefill(model, [texts[0][:b]])[0] if b >= SHARED else None
    # of like length: little is padding
    for part in micro_batches(list(map(len, texts)), PREFILL[weight.device.type]):
        once, hidden[part] = prefill(model, [texts[i] for i in part], begun)
        rank = stands.new_full((len(texts),), -1)
        rank[part] = torch.arange(len(part), device=rank.device)
        source, width = rank[stands], once.keys.shape[3]
        to = batch.used + (source >= 0).nonzero()[:, 0]
        for store, found in ((batch.cache.keys, once.keys), (batch.cache.values, once.values)):
            store[:, to, :, :width] = found[:, source[source >= 0]]
    return hidden


def admit(model, batch: Places, work: Work, rows, together: bool) -> None:
    """Rows (M,), numbers in a row, come in: together those of equal texts in one place, or each in
    its own."""
    text, different = rows // work.group_size, {}
    first, last = int(text[0]), int(text[-1])
    number = [different.setdefault(tuple(x), len(different)) for x in work.texts[first:last + 1]]
    place, texts = torch.tensor(number, device=rows.device)[text - first], list(different)
    stands = torch.arange(len(texts), device=rows.device)
    if not together:
        place, stands = torch.arange(len(rows), device=rows.device), place
    hidden = read(model, batch, texts, stands)
    at, new = (slice(n, n + len(x)) for n, x in ((batch.taken, rows), (batch.used, stands)))
    lengths = torch.tensor([len(text) for text in texts], device=rows.device)
    position = torch.arange(batch.uniform.shape[1], device=rows.device) + work.offsets[text, None]
    batch.uniform[at] = uniform(work.seeds[rows, None], position)
    batch.row[at], batch.place[at], batch.state[at] = rows, batch.used + place, work.states[text]
    batch.drawn[at], batch.alive[at] = 0, True
    batch.lengths[new] = lengths[stands] - 1  # `choose` adds the one that it draws
    batch.taken, batch.used = at.stop, new.stop
    batch.apart = batch.apart and len(stands) == len(rows)
    view = batch.view(new, at)._replace(place=None if batch.apart else place)
    choose(model, view, hidden[stands], work.how)
    batch.measure()


def choose(model, view: View, hidden, how) -> None:
    """Draws the next token of each row from the last hidden states (P, D) of the texts, with the
    row's next number of `uniform`, and writes it, its log-prob and entropy down in column `drawn`.
    A row ends with a token of `ends`, in the automaton's last state, or at the limit; in an ended
    one `drawn` and `state` stand still, so that what it goes on to draw lands behind its last.
    `last` is written where row i stands in place i; else Places.part writes it."""
    alive, drawn = view.alive, view.drawn
    u = view.uniform.gather(1, drawn[:, None])[:, 0]
    found = draw(model.logits(hidden), u, *how, place=view.place)
    for store, new in zip((view.tokens, view.logp, view.entropy), found, strict=True):
        store.scatter_(1, drawn[:, None], new[:, None])
    drawn += alive
    if view.strings is not None:
        view.state.copy_(torch.where(alive, view.strings[found[0], view.state], view.state))
        alive &= view.state < view.strings.shape[1] - 1
    alive &= ~view.ends[found[0]] & (drawn < view.limit)
    view.lengths.add_(1)
    if view.place is None:
        view.last.copy_(found[0])
        view.lengths.mul_(alive)  # of an ended row nothing is read any more


def step(model, view: View, how) -> None:
    """Reads the places' last tokens and draws the rows' next ones: all in place, and without asking
    for a number, so that it can be recorded. A text sees its own columns and its last token; where
    `columns` is None and there is a window, those are all."""
    window, mask = Window(view.keys, view.values, lengths=view.lengths), None
    if view.begin is not None:
        window = Window(view.keys, view.values, (view.begin + view.lengths[:, None]).flatten(),
                        view.all_keys, view.all_values)
    if view.columns is not None:
        mask = (view.columns <= view.lengths[:, None])[:, None, None]         # (P, 1, 1, S)
    hidden = model(view.last, view.lengths, window, mask)
    choose(model, view, hidden, how)


def advance(model, batch: Places, size: int, how) -> None:
    """A step of decoding. Where it is a graph it is of `size` rows, each in its own place."""
    view = batch.next(size, size) if batch.graphs else batch.next(batch.used, batch.taken)
    graphs.run(step, model, batch, view, how)
    batch.advance()


def assemble(texts, group_size, out, pad) -> Rollout:
    """Puts prompts and responses side by side, padding on the right, as training wants them."""
    device, lengths = out["tokens"].device, out["drawn"][:, None]
    starts = torch.tensor([[len(p)] for p in texts], device=device)
    starts = starts.repeat_interleave(group_size, dim=0)
    width = int((starts + lengths).max())
    padded = torch.tensor([(p + [pad] * width)[:width] for p in texts], device=device)
    source = torch.arange(width, device=device) - starts  # (N, width): column of the response
    mask = (source >= 0) & (source < lengths)
    source = source.clamp(0, out["tokens"].shape[1] - 1)
    padded = padded.repeat_interleave(group_size, dim=0)
    tokens = torch.where(mask, out["tokens"].gather(1, source), padded)
    logp, entropy = (out[name].gather(1, source) * mask for name in ("logp", "entropy"))
    group = torch.arange(len(texts), device=device).repeat_interleave(group_size)
    return Rollout(tokens, logp, entropy, mask.float(), group, out["truncated"].clone())
