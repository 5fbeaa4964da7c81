"""Where the rows of a batch stand while they are sampled.

A place holds the cache of one text. The rows that continue it stand there together until they draw
different tokens; then each new text has a place of its own, with a copy of the cache:

    rows      a  b  c  d          a  b  c  d
    drew     12 12 47 12          6  8  =  6       texts 12 and 47 -> 126, 128, 47=
    place     0  0  1  0          0  2  1  0

So what a step computes is texts, not rows: the surer a policy, the fewer they are. The first rows
are taken and the first places used; rows that have ended leave when the batch next shrinks.
Left out on purpose: sharing what texts of one prompt have in common in the cache (paged attention).
"""

import math
import mmap
import weakref
from typing import NamedTuple

import torch

from engine import kernels
from model import GPT, Config

BUDGET = 2**60  # bytes of them at most: what a run's plan leaves for them (memory.py)


class Habits(NamedTuple):
    """How to decode on a kind of device."""

    look_every: int  # steps until the host looks who has ended (a look makes a GPU wait) and, where
    #                  that is each step, who has parted
    ratio: float     # of neighbouring batch sizes
    graphs: bool     # a step is a graph: it finds all tensors where they were, whatever is in them
    rows: int        # that are decoded at once, at most


HABITS = {"cpu": Habits(1, 0.92, False, 512), "cuda": Habits(16, 0.5, True, 1024)}


class Window(NamedTuple):
    """The part of a KV cache that a forward pass reads, and where the pass writes its own keys and
    values: into the last T columns; or, with `index`, one token a row, each at its own column."""

    keys: torch.Tensor                   # (layers, N, K, S, d)
    values: torch.Tensor                 # (layers, N, K, S, d)
    index: torch.Tensor | None = None       # (N K,) rows of all_keys[layer], all_values[layer]
    all_keys: torch.Tensor | None = None    # (layers, rows, d), the whole cache
    all_values: torch.Tensor | None = None  # (layers, rows, d)
    lengths: torch.Tensor | None = None     # (N,) tokens read, where kernels.attend decodes

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor):
        """Writes k, v (N, K, T, d), or (N, K, d) of a single token. Returns the layer's keys and
        values (N, K, S, d)."""
        keys, values = self.keys[layer], self.values[layer]
        if self.index is None:
            keys[:, :, -k.shape[2]:], values[:, :, -k.shape[2]:] = k, v
        else:
            self.all_keys[layer].index_copy_(0, self.index, k.flatten(0, 1))
            self.all_values[layer].index_copy_(0, self.index, v.flatten(0, 1))
        return keys, values


class Cache:
    """Keys and values of what has been read, (layers, N, K, capacity, d): of each row from its
    first column on. Allocated once and written in place."""

    def __init__(self, config: Config, rows: int, capacity: int, device=None, dtype=None):
        shape = (config.layers, rows, config.kv_heads, capacity, config.head)
        self.keys, self.values = (zeros(shape, device, dtype) for _ in range(2))
        # where each row and head begins among rows of d numbers (N, K)
        self.begin = torch.arange(rows * config.kv_heads, device=device).view(rows, -1) * capacity

    def window(self, rows: int, columns: int, lengths=None) -> Window:
        """The first `columns` columns of the first rows, for a forward pass that writes the last T
        of them; or, where the rows hold lengths (rows,) tokens each, one token behind these."""
        keys, values = (x[:, :rows, :, :columns] for x in (self.keys, self.values))
        if lengths is None:
            return Window(keys, values)
        index = (self.begin[:rows] + lengths[:, None]).flatten()
        return Window(keys, values, index, self.keys.flatten(1, 3), self.values.flatten(1, 3))


def zeros(shape: tuple, device, dtype) -> torch.Tensor:
    """torch.zeros; but on a CPU memory is taken where it is first written to, and most texts are
    far shorter than the cache allows."""
    if torch.device(device or "cpu").type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    like = torch.empty(0, dtype=dtype)
    memory = mmap.mmap(-1, max(1, math.prod(shape) * like.element_size()))
    return torch.frombuffer(memory, dtype=like.dtype, count=math.prod(shape)).view(shape)


class View(NamedTuple):
    """What a step of decoding reads and writes, of M rows and the P places they stand in."""

    lengths: torch.Tensor                # (P,) tokens of a place's text that the cache holds
    last: torch.Tensor                   # (P,) the text's last token, which it does not hold yet
    place: torch.Tensor | None           # (M,) where a row stands; None: row i in place i
    drawn: torch.Tensor                  # (M,) how many tokens it has drawn
    alive: torch.Tensor                  # (M,) whether it goes on
    uniform: torch.Tensor                # (M, steps + 1) its random numbers
    tokens: torch.Tensor                 # (M, steps + 1) what it has drawn
    logp: torch.Tensor                   # (M, steps + 1)
    entropy: torch.Tensor                # (M, steps + 1)
    state: torch.Tensor                  # (M,) of the automaton of stop strings
    strings: torch.Tensor | None         # (V, S) the automaton
    ends: torch.Tensor                   # (V,) whether a token is a stop
    limit: torch.Tensor                  # () most tokens of a row
    keys: torch.Tensor | None = None     # of the cache, as in its Window
    values: torch.Tensor | None = None
    begin: torch.Tensor | None = None    # (P, K) of the cache; None: kernels.attend finds its way
    all_keys: torch.Tensor | None = None
    all_values: torch.Tensor | None = None
    columns: torch.Tensor | None = None  # (S,) the window's; None: nothing in it is to be hidden


class Places:
    """All tensors are made once and written in place, as CUDA graphs need it, and kept for the
    model's next call."""

    def __init__(self, model: GPT, places: int, capacity: int, steps: int):
        weight = model.embedding.weight
        device = weight.device
        ints = dict(dtype=torch.int64, device=device)
        self.graphs = HABITS[device.type].graphs
        self.cache = Cache(model.config, places, capacity, device, weight.dtype)
        self.columns = torch.arange(capacity, device=device)
        self.ends = torch.zeros(model.config.vocab_size, dtype=torch.bool, device=device)
        self.strings = None                                     # the automaton of stop strings
        self.limit = torch.zeros((), **ints)
        self.taken = self.used = 0                              # rows, and places they stand in
        self.apart = True                                       # does row i stand in place i?
        self.longest = 0                                        # no text in use is longer
        self.even = True                                        # are they all as long?
        # of each place: its text's length and last token
        self.lengths, self.last = torch.zeros(2, places, **ints)
        # of each row: its number, place, how many it has drawn, the state of its automaton
        self.row, self.place, self.drawn, self.state = torch.zeros(4, places, **ints)
        self.alive = torch.zeros(places, dtype=torch.bool, device=device)
        self.uniform = torch.zeros(places, steps + 1, device=device)
        # what it has drawn; what an ended row goes on to draw lands behind that
        self.tokens = torch.zeros(places, steps + 1, **ints)
        self.logp, self.entropy = torch.zeros(2, places, steps + 1, device=device)
        self.recorded = {}                                      # steps: see record.run
        self.pool = self.stream = None
        if device.type == "cuda":
            self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def begin(self, stops, strings, max_new_tokens: int) -> None:
        """Empties all places."""
        self.alive.zero_()
        self.ends.zero_()
        self.ends[stops] = True
        # a step may compute rows that nobody has filled: they are short, and know their place in an
        # automaton of other stop strings
        self.lengths.zero_()
        self.state.zero_()
        self.taken, self.used, self.longest, self.apart, self.even = 0, 0, 0, True, True
        self.strings = strings
        self.limit.fill_(max_new_tokens)

    def view(self, places: slice, rows: slice) -> View:
        """For `choose` alone."""
        return View(self.lengths[places], self.last[places],
                    None if self.apart else self.place[rows],
                    self.drawn[rows], self.alive[rows], self.uniform[rows], self.tokens[rows],
                    self.logp[rows], self.entropy[rows], self.state[rows], self.strings, self.ends,
                    self.limit)

    def next(self, places: int, rows: int) -> View:
        """For the next step, of the first places and rows."""
        view, cache = self.view(slice(places), slice(rows)), self.cache
        if kernels.usable(cache.keys):  # it reads of each text what is there
            return view._replace(keys=cache.keys, values=cache.values)
        end = len(self.columns) if self.graphs else self.longest + 1
        window = cache.window(places, end)
        hidden = self.graphs or not self.even
        return view._replace(
            keys=window.keys, values=window.values, begin=cache.begin[:places],
            all_keys=cache.keys.flatten(1, 3), all_values=cache.values.flatten(1, 3),
            columns=self.columns[:end] if hidden else None)

    def advance(self) -> None:
        """After a step."""
        self.longest = min(self.longest + 1, len(self.columns) - 1)

    def living(self) -> int:
        """How many rows go on; here the host waits for the device."""
        return int(self.alive[:self.taken].sum())

    def settle(self, out: dict, living: int) -> None:
        """Writes ended rows into `out`, and moves the living ones from behind row `living` to where
        ended ones stood before it."""
        alive = self.alive[:self.taken]
        ended, steps = (~alive).nonzero()[:, 0], out["tokens"].shape[1]
        row, drawn = self.row[ended], self.drawn[ended]
        written = torch.arange(steps, device=row.device) < drawn[:, None]
        for name in ("tokens", "logp", "entropy"):
            new = getattr(self, name)[ended, :steps]
            out[name][row] = torch.where(written, new, out[name][row])
        out["drawn"][row] = drawn
        stopped = self.ends[self.tokens[ended, drawn - 1]]
        if self.strings is not None:
            stopped |= self.state[ended] == self.strings.shape[1] - 1
        out["truncated"][row] = ~stopped
        to, source = (~alive[:living]).nonzero()[:, 0], living + alive[living:].nonzero()[:, 0]
        for x in (self.row, self.place, self.drawn, self.state, self.alive, self.uniform,
                  self.tokens, self.logp, self.entropy):
            x[to] = x[source]
        self.alive[living:self.taken] = False
        self.taken = living

    def part(self) -> None:
        """Gives each text of the living rows a place. The first that continues the text of a place
        stays there, if that is among the first; the others go where nobody stands, with a copy of
        the cache."""
        vocab, rows = len(self.ends), self.alive[:self.taken].nonzero()[:, 0]
        token = self.tokens[rows, self.drawn[rows] - 1]
        texts, which = (self.place[rows] * vocab + token).unique(return_inverse=True)
        before, self.used = texts // vocab, len(texts)
        stays = before < self.used
        stays[1:] &= before[1:] != before[:-1]
        free = torch.ones(self.used, dtype=torch.bool, device=rows.device)
        free[before[stays]] = False
        place = before.clone()
        place[~stays] = to = free.nonzero()[:, 0]
        if len(to):
            source, end = before[~stays], self.longest
            for layer in (*self.cache.keys, *self.cache.values):  # one at a time: it takes a copy
                layer[to, :, :end] = layer[source, :, :end]
            self.lengths[to] = self.lengths[source]
        self.last[place] = texts % vocab
        self.place[:self.taken] = 0                         # of those that have ended
        self.place[rows] = place[which]

    def measure(self) -> None:
        """Asks the device how long the texts are, after some have left or come in."""
        lengths = self.lengths[:self.used]
        self.longest = int(lengths.max()) if self.used else 0
        self.even = bool((lengths == self.longest).all())


KEPT = weakref.WeakKeyDictionary()  # model -> {precision and device: (what was asked for, Places)}


def places_for(model: GPT, *asked: int) -> Places:
    """The model's Places for at least the (rows, capacity, steps) asked for; fewer rows where
    memory would not hold them."""
    config, weight = model.config, model.embedding.weight
    kind = weight.dtype, weight.device
    had, places = KEPT.pop(model, {}).get(kind, ((0, 0, 0), None))
    asked = tuple(map(max, asked, had))
    if asked != had:
        recorded = {} if places is None or places.graphs else places.recorded
        places = None  # so that its memory is free
        if weight.is_cuda:
            torch.cuda.empty_cache()
        rows, capacity, steps = asked
        keys = config.layers * config.kv_heads * config.head * capacity
        logits = (48 if weight.is_cuda else 24) * config.vocab_size  # graphs keep theirs
        a_row = 2 * keys * weight.element_size() + logits + 20 * steps
        fit = min(free_memory(weight.device) // 2, BUDGET) // a_row
        places = Places(model, max(1, min(rows, fit)), capacity, steps)
        places.recorded = recorded  # on a CPU they are of any tensors
    KEPT[model] = {kind: (asked, places)}
    return places


def free_memory(device) -> int:
    """Bytes that can be had, those in which the system keeps files included; where it cannot say,
    4 GB."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:  # Linux
            said = dict(line.split(":") for line in file)
        return int(said["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 4 * 2**30
