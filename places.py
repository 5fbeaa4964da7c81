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

import weakref
from typing import NamedTuple

import torch

from model import GPT, Config, Window

# How to decode on a kind of device: after how many steps to look who has ended (a look makes a GPU
# wait) and, where that is each step, who has parted; the ratio of neighbouring batch sizes; to how
# many columns the window is rounded up.
HABITS = {"cpu": (1, 0.92, 1), "cuda": (16, 0.5, 128)}
MOST_ROWS = 1024
BUDGET = 2**60  # bytes of them at most: what a run's plan leaves for them (memory.py)
SLACK = 32     # columns where no text stands are moved out once they are so many


class Cache:
    """Keys and values of what has been read: `length` columns of `capacity` are in use.

    keys, values: (layers, N, K, capacity, d), allocated once and written in place. With blocks of
    several columns a whole number of them is read, for a step that is a CUDA graph; `column` is
    `length` as a tensor.
    """

    def __init__(self, config: Config, rows: int, capacity: int, device=None, dtype=None,
                 block: int = 1):
        shape = (config.layers, rows, config.kv_heads, capacity, config.head)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.column = torch.zeros(1, dtype=torch.int64, device=device)
        self.length, self.block = 0, block

    def advance(self, columns: int) -> None:
        """After a forward pass has appended `columns` (negative: moved back)."""
        self.length += columns
        self.column += columns

    def window(self, rows: int, new: int = 1) -> Window:
        """For the forward pass that appends `new` columns to the first rows."""
        end = min(-(-(self.length + new) // self.block) * self.block, self.keys.shape[3])
        return Window(self.keys[:, :rows, :, :end], self.values[:, :rows, :, :end],
                      self.column if self.block > 1 and new == 1 else None)


class View(NamedTuple):
    """What a step of decoding reads and writes, of M rows and the P places they stand in."""

    start: torch.Tensor                  # (P,) the first column of a place's text
    last: torch.Tensor                   # (P,) its last token
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
    column: torch.Tensor | None = None
    now: torch.Tensor | None = None      # (1,) the cache's next column
    columns: torch.Tensor | None = None  # (S,) the window's; None: nothing in it is to be hidden


class Places:
    """All tensors are made once and written in place, as CUDA graphs need it, and kept for the
    model's next call."""

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
        self.taken = self.used = 0                              # rows, and places they stand in
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
        self.recorded = {}                                      # steps: see record.run
        self.pool = self.stream = None
        if device.type == "cuda":
            self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def begin(self, stops, strings, max_new_tokens: int, longest: int) -> None:
        """Empties all places; prompts of at most `longest` tokens will end in that column."""
        self.alive.zero_()
        self.ends.zero_()
        self.ends[stops] = True
        # a step may compute rows that nobody has filled: they see something, and know their place
        # in an automaton of other stop strings
        self.start.zero_()
        self.state.zero_()
        self.taken, self.used, self.apart = 0, 0, True
        if strings is not self.strings and self.pool:  # a graph knows where they are
            self.recorded, self.pool = {}, torch.cuda.graph_pool_handle()
        self.strings = strings
        self.limit.fill_(max_new_tokens)
        self.cache.advance(longest - self.cache.length)

    def view(self, places: slice, rows: slice) -> View:
        """For `choose` alone."""
        return View(self.start[places], self.last[places], None if self.apart else self.place[rows],
                    self.drawn[rows], self.alive[rows], self.uniform[rows], self.tokens[rows],
                    self.logp[rows], self.entropy[rows], self.state[rows], self.strings, self.ends,
                    self.limit)

    def next(self, places: int, rows: int) -> View:
        """For the next step, of the first places and rows."""
        window, column = self.cache.window(places), self.cache.column
        masked = self.ragged or self.cache.block > 1
        columns = self.columns[:window.keys.shape[3]] if masked else None
        return self.view(slice(places), slice(rows))._replace(
            keys=window.keys, values=window.values, column=window.column, now=column,
            columns=columns)

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
            source, end = before[~stays], self.cache.length
            for layer in (*self.cache.keys, *self.cache.values):  # one at a time: it takes a copy
                layer[to, :, :end] = layer[source, :, :end]
            self.start[to] = self.start[source]
        self.last[place] = texts % vocab
        self.place[:self.taken] = 0                         # of those that have ended
        self.place[rows] = place[which]

    def make_room(self, longest: int) -> None:
        """Moves out the first columns where no text stands; the longest prompt must still fit in
        what stays."""
        cache, used = self.cache, self.used
        first = cache.length - longest
        if used:
            first = min(first, int(self.start[:used].min()))
        if first >= SLACK or not used:
            for layer in (*cache.keys, *cache.values):
                layer[:used, :, :cache.length - first] = (
                    layer[:used, :, first:cache.length].clone())
            self.start.sub_(first)
            cache.advance(-first)
        self.ragged = bool(self.start[:used].any())


KEPT = weakref.WeakKeyDictionary()  # model -> {precision and device: (what was asked for, Places)}


def places_for(model: GPT, *asked: int) -> Places:
    """The model's Places for at least the (rows, capacity, steps) asked for; fewer rows where
    memory would not hold them."""
    config, weight = model.config, model.embedding.weight
    kind = weight.dtype, weight.device
    had, places = KEPT.pop(model, {}).get(kind, ((0, 0, 0), None))
    asked = tuple(map(max, asked, had))
    if asked != had:
        recorded = {} if weight.is_cuda or places is None else places.recorded
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
