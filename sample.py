"""Batched sampling with a KV cache: prompts of different lengths in, tokens and their log-probs
out.

Rows stand in places; a place holds the cache of one text. A prompt is read once, and all samples of
it stand in its place until they draw different tokens: then each new text has a place of its own,
with a copy of the cache. So what is computed is texts, not rows, and the surer a policy, the fewer
they are. All places write the same cache column at each step, so a prompt is placed to end there,
whatever its length; what stands before its start is hidden by a mask. Places that nobody stands in
any more are closed, and once enough rows have ended, waiting ones come in. Columns that nobody
looks at are moved out.

    token[t] ~ softmax(logits[t-1] / temperature)         logp[t] = log of that softmax at token[t]

What a row draws depends on its own seed, prompt and position alone (draw.py). A row ends with a
stop token, or with a stop string, however that is cut into tokens: each token moves an automaton
that has read the string so far. On CUDA a decode step is a graph, one for each size of batch and
window, and the host asks only now and then who has ended; so there each row has a place of its own
from the beginning. Left out on purpose: paged caches, speculative decoding, several GPUs.
"""

import os
import sys
import weakref
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from draw import draw, mix, uniform
from model import GPT, Cache


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
        return [t[m].tolist() for t, m in zip(self.tokens, self.mask.bool(), strict=True)]


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


# How to decode on a kind of device: after how many steps to look who has ended (a look makes a GPU
# wait) and, where that is each step, who has parted; the ratio of neighbouring batch sizes; to how
# many columns the window is rounded up.
HABITS = {"cpu": (1, 0.92, 1), "cuda": (16, 0.5, 128)}
REFILL = 0.5   # waiting rows come in when at most this share of the batch is left
MOST_ROWS = 1024
SLACK = 32     # columns that no living row looks at are moved out once they are so many


class Places:
    """The batch being decoded: rows, and the places where their texts stand. All its tensors are
    made once and written in place, as CUDA graphs need it, and kept for the model's next call."""

    def __init__(self, model: GPT, places: int, capacity: int, steps: int):
        weight = model.embedding.weight
        device = weight.device
        ints = dict(dtype=torch.int64, device=device)
        self.cache = Cache(model.config, places, capacity, device, weight.dtype,
                           HABITS[device.type][2])
        self.columns = torch.arange(capacity, device=device)
        self.ends = torch.zeros(model.config.vocab_size, dtype=torch.bool, device=device)
        self.strings = None                                     # the automaton of stop strings
        self.limit = torch.zeros((), **ints)
        self.used = 0                                           # places that someone stands in
        self.apart = True                                       # does row i stand in place i?
        self.ragged = False                                     # does any text start late?
        # of each place: its text's first column and last token
        self.start, self.last = torch.zeros(2, places, **ints)
        # of each row: its number, place, how many it has drawn, the state of its automaton
        self.row, self.place, self.drawn, self.state = torch.zeros(4, places, **ints)
        self.alive = torch.zeros(places, dtype=torch.bool, device=device)
        self.uniform = torch.zeros(places, steps + 1, device=device)
        # what it has drawn; what an ended row goes on to draw lands behind that
        self.tokens = torch.zeros(places, steps + 1, **ints)
        self.logp, self.entropy = torch.zeros(2, places, steps + 1, device=device)
        self.graphs = {}
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def begin(self, stops, strings, max_new_tokens: int, longest: int) -> None:
        """Empties all places; prompts of at most `longest` tokens will end in that column."""
        self.alive.zero_()
        self.ends.zero_()
        self.ends[stops] = True
        self.used, self.apart = 0, True
        if strings is not self.strings:
            self.strings, self.graphs = strings, {}
        self.limit.fill_(max_new_tokens)
        self.cache.advance(longest - self.cache.length)


KEPT = weakref.WeakKeyDictionary()  # model -> {precision and device: (what was asked for, Places)}


def places_for(model: GPT, *asked: int) -> Places:
    """The model's Places for at least the (rows, capacity, steps) asked for; fewer rows where
    memory would not hold them."""
    config, weight = model.config, model.embedding.weight
    kind = weight.dtype, weight.device
    had, places = KEPT.pop(model, {}).get(kind, ((0, 0, 0), None))
    asked = tuple(map(max, asked, had))
    if asked != had:
        places = None  # so that its memory is free
        rows, capacity, steps = asked
        keys = config.layers * config.kv_heads * config.head * capacity
        a_row = 2 * keys * weight.element_size() + 16 * config.vocab_size + 20 * steps
        fit = max(1, free_memory(weight.device) // 2 // a_row)
        places = Places(model, min(rows, fit), capacity, steps)
    KEPT[model] = {kind: (asked, places)}
    return places


def free_memory(device) -> int:
    """Bytes; where the system cannot say, 4 GB."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30


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
             top_k: int = 0, top_p: float = 1.0, max_rows: int = MOST_ROWS,
             on_token=None) -> Rollout:
    """Samples group_size responses to each prompt, up to and with a token of `stop` (an id or
    several), or with the token that completes a stop string: strings (V, S) says to which state a
    token moves the automaton from each of S, of which the last is the end (tokenizer.stop_table).

    At most max_rows rows are decoded at once, fewer where memory would not hold them. seed: an int,
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
        seed = rows + mix(torch.tensor(seed, device=device))
    work = Work(texts, group_size, mix(torch.as_tensor(seed, device=device)),
                torch.tensor([len(p) for p in prefixes], device=device),
                torch.tensor([after(strings, prefix) for prefix in prefixes], device=device),
                (temperature, top_k, top_p))
    out = decode(model, work, max_new_tokens, stops, strings, max_rows, on_token)
    return assemble(texts, group_size, out, pad)


def after(strings, prefix: list[int]) -> int:
    """The automaton's state once a given beginning of the response has been read."""
    state = 0
    for token in prefix if strings is not None else []:
        state = int(strings[token, state])
    return state


@torch.inference_mode()
def decode(model, work: Work, max_new_tokens: int, stops, strings, max_rows: int,
           on_token) -> dict:
    """Draws all rows: tokens, logp and entropy (N, max_new_tokens), how many are `drawn` (N,), and
    which are `truncated` (N,)."""
    device, n, longest = work.seeds.device, len(work.seeds), max(map(len, work.texts))
    look_every, ratio, block = HABITS[device.type]
    look_every = 1 if on_token else look_every
    capacity = -(-(longest + max_new_tokens + SLACK + look_every) // block) * block
    batch = places_for(model, min(n, max_rows), capacity, max_new_tokens)
    batch.begin(stops, strings, max_new_tokens, longest)
    out = {name: torch.zeros(n, max_new_tokens, dtype=getattr(batch, name).dtype, device=device)
           for name in ("tokens", "logp", "entropy")}
    out["drawn"] = torch.zeros(n, dtype=torch.int64, device=device)
    out["truncated"] = torch.zeros(n, dtype=torch.bool, device=device)
    sizes = [min(n, max_rows, len(batch.row))]
    while sizes[-1] > 1:
        sizes.append(max(1, int(sizes[-1] * ratio)))
    admitted = taken = 0
    while admitted < n or taken:
        if admitted < n and taken <= REFILL * sizes[0]:
            rows = torch.arange(admitted, min(n, admitted + sizes[0] - taken), device=device)
            admit(model, batch, work, rows, taken, look_every == 1)
            admitted, taken = admitted + len(rows), taken + len(rows)
        else:
            size = min(s for s in sizes if s >= taken)
            for _ in range(look_every):
                advance(model, batch, *((batch.used, taken) if look_every == 1 else (size, size)),
                        work.how)
        if on_token:
            on_token(batch.last[0].item())
        living = int(batch.alive[:taken].sum())  # here the host waits for the device
        shrink = not living or (
            any(living <= s < taken for s in sizes)                # a smaller batch will do
            or admitted < n and living <= REFILL * sizes[0]        # others wait to come in
            or batch.cache.length + look_every > capacity)         # no columns are left
        if shrink:
            settle(batch, out, taken, living)
            taken = living
        if shrink or not batch.apart:
            part(batch, taken)
        if shrink:
            make_room(batch, longest)
    return out


def check(config, prompts, group_size, max_new_tokens, temperature, top_k, top_p) -> None:
    if not prompts or not all(prompts):
        raise ValueError("there is nothing to sample from: no prompts, or an empty one")
    if group_size < 1 or max_new_tokens < 1 or temperature < 0:
        raise ValueError("group_size and max_new_tokens must be at least 1, temperature at least 0")
    if top_k < 0 or not 0 < top_p <= 1:
        raise ValueError("top_k must be at least 0 and top_p above 0 and at most 1")
    longest = max(map(len, prompts))
    if longest + max_new_tokens > config.context:
        raise ValueError(f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit "
                         f"the context of {config.context}")
    if not all(0 <= token < config.vocab_size for prompt in prompts for token in prompt):
        raise ValueError(f"a prompt holds ids outside the vocabulary of {config.vocab_size}")


def prefill(model, texts):
    """Reads texts, padded on the left to the longest. Returns their cache and the hidden states
    (P, D) of their last tokens."""
    device, width = model.embedding.weight.device, max(map(len, texts))
    padding = torch.tensor([width - len(text) for text in texts], device=device)
    tokens = torch.tensor([[0] * (width - len(text)) + text for text in texts], device=device)
    column = torch.arange(width, device=device)
    visible = (column <= column[:, None]) & (column >= padding[:, None, None])  # (P, width, width)
    visible |= torch.eye(width, dtype=torch.bool, device=device)  # padding sees itself: no NaN
    cache = Cache(model.config, len(texts), width, device, model.embedding.weight.dtype)
    positions = (column - padding[:, None]).clamp(min=0)
    return cache, model(tokens, positions, cache, visible[:, None])[:, -1]


def admit(model, batch: Places, work: Work, rows, taken: int, together: bool) -> None:
    """Rows (M,), numbers in a row, come in as those from `taken` on. Each of their texts is read
    once, and its cache copied to one place, or to one for each of its rows, so that it ends in the
    last column in use."""
    first, last = int(rows[0]) // work.group_size, int(rows[-1]) // work.group_size
    texts = work.texts[first:last + 1]
    once, hidden = prefill(model, texts)
    text, at = rows // work.group_size, slice(taken, taken + len(rows))
    place = text - first if together else torch.arange(len(rows), device=rows.device)
    stands = torch.arange(len(texts), device=rows.device) if together else text - first
    new, end = slice(batch.used, batch.used + len(stands)), batch.cache.length
    width = once.keys.shape[3]
    for store, read in ((batch.cache.keys, once.keys), (batch.cache.values, once.values)):
        store[:, new, :, end - width:end] = read[:, stands]
    lengths = torch.tensor([len(text) for text in texts], device=rows.device)
    position = torch.arange(batch.uniform.shape[1], device=rows.device) + work.offsets[text, None]
    batch.uniform[at] = uniform(work.seeds[rows, None], position)
    batch.row[at], batch.place[at], batch.state[at] = rows, batch.used + place, work.states[text]
    batch.drawn[at], batch.alive[at] = 0, True
    batch.start[new] = end - lengths[stands]
    batch.apart = batch.apart and len(stands) == len(rows)
    batch.used = new.stop
    batch.ragged = bool(batch.start[:batch.used].any())
    choose(model, batch, at, hidden[stands], None if batch.apart else place, work.how)


def choose(model, batch: Places, at: slice, hidden, place, how) -> None:
    """Draws the next token of some rows, and writes it down. hidden (P, D) are the last hidden
    states of texts, place (M,) says which of them each row continues; None: each its own."""
    alive, drawn = batch.alive[at], batch.drawn[at]
    u = batch.uniform[at].gather(1, drawn[:, None])[:, 0]
    found = draw(model.head(hidden), u, *how, place=place)
    for store, new in zip((batch.tokens, batch.logp, batch.entropy), found, strict=True):
        store[at].scatter_(1, drawn[:, None], new[:, None])
    if place is None:
        batch.last[at] = found[0]
    drawn += alive
    if batch.strings is not None:
        state = batch.state[at]
        state.copy_(torch.where(alive, batch.strings[found[0], state], state))
        alive &= state < batch.strings.shape[1] - 1
    alive &= ~batch.ends[found[0]] & (drawn < batch.limit)


def part(batch: Places, taken: int) -> None:
    """Each text that living rows now have gets a place: one that continues the text of a place
    stays there, others go where nobody stands, with a copy of the cache. The first places are
    used."""
    vocab, rows = len(batch.ends), batch.alive[:taken].nonzero()[:, 0]
    token = batch.tokens[rows, batch.drawn[rows] - 1]
    texts, which = (batch.place[rows] * vocab + token).unique(return_inverse=True)
    before, batch.used = texts // vocab, len(texts)
    stays = before < batch.used
    stays[1:] &= before[1:] != before[:-1]
    free = torch.ones(batch.used, dtype=torch.bool, device=rows.device)
    free[before[stays]] = False
    place = before.clone()
    place[~stays] = to = free.nonzero()[:, 0]
    if len(to):
        source, end = before[~stays], batch.cache.length
        for store in (batch.cache.keys, batch.cache.values):
            store[:, to, :, :end] = store[:, source, :, :end]
        batch.start[to] = batch.start[source]
    batch.last[place] = texts % vocab
    batch.place[:taken] = 0                             # of those that have ended
    batch.place[rows] = place[which]


def step(model, batch: Places, places: int, rows: int, how) -> None:
    """Reads the last tokens of the first places and draws the next ones of the first rows: all in
    place and without a question to the device, so that it can be a CUDA graph."""
    start, column = batch.start[:places, None], batch.cache.column
    mask = None
    if batch.ragged or batch.cache.block > 1:
        columns = batch.columns[:batch.cache.window()]
        mask = ((columns >= start) & (columns <= column))[:, None, None]      # (places, 1, 1, S)
    position = (column - start).clamp(max=model.config.context - 1)           # of an ended row
    hidden = model(batch.last[:places, None], position, batch.cache, mask)
    choose(model, batch, slice(rows), hidden[:, 0], None if batch.apart else batch.place[:rows],
           how)


def advance(model, batch: Places, places: int, rows: int, how) -> None:
    """A step of decoding. On CUDA the first one of a kind runs as it is, which warms up its
    kernels, the second is captured as a graph, and from then on that is replayed."""
    key = places, batch.cache.window(), how, model.embedding.weight.data_ptr()
    if batch.cache.keys.device.type != "cuda":
        step(model, batch, places, rows, how)
    elif key not in batch.graphs:
        step(model, batch, places, rows, how)
        batch.graphs[key] = None
    else:
        if batch.graphs[key] is None:
            batch.graphs[key] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(batch.graphs[key], pool=batch.pool):
                step(model, batch, places, rows, how)
        batch.graphs[key].replay()
    batch.cache.advance(1)


def settle(batch: Places, out: dict, taken: int, living: int) -> None:
    """Writes ended rows into `out`, and moves the living ones from behind row `living` to where
    ended ones stood before it."""
    alive = batch.alive[:taken]
    ended, steps = (~alive).nonzero()[:, 0], out["tokens"].shape[1]
    row, drawn = batch.row[ended], batch.drawn[ended]
    written = torch.arange(steps, device=row.device) < drawn[:, None]
    for name in ("tokens", "logp", "entropy"):
        new = getattr(batch, name)[ended, :steps]
        out[name][row] = torch.where(written, new, out[name][row])
    out["drawn"][row] = drawn
    stopped = batch.ends[batch.tokens[ended, drawn - 1]]
    if batch.strings is not None:
        stopped |= batch.state[ended] == batch.strings.shape[1] - 1
    out["truncated"][row] = ~stopped
    to, source = (~alive[:living]).nonzero()[:, 0], living + alive[living:].nonzero()[:, 0]
    for x in (batch.row, batch.place, batch.drawn, batch.state, batch.alive, batch.uniform,
              batch.tokens, batch.logp, batch.entropy):
        x[to] = x[source]
    batch.alive[living:taken] = False


def make_room(batch: Places, longest: int) -> None:
    """Moves out the first columns when no text stands there; the longest prompt must still fit in
    what stays."""
    cache, used = batch.cache, batch.used
    first = cache.length - longest
    if used:
        first = min(first, int(batch.start[:used].min()))
    if first >= SLACK or not used:
        for store in (cache.keys, cache.values):
            store[:, :used, :, :cache.length - first] = (
                store[:, :used, :, first:cache.length].clone())
        batch.start.sub_(first)
        cache.advance(-first)
    batch.ragged = bool(batch.start[:used].any())


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
    return Rollout(tokens, logp, entropy, mask.float(), group, out["truncated"])


if __name__ == "__main__":
    from evaluate import main  # the command line, which builds on this file
    sys.exit(main())
