"""The slots of the fast sampler: which row stands where in the KV cache while it is sampled.

A slot holds the cache of one text. Rows with the same text share a slot until they draw different
tokens. Then the slot forks: each new text gets a slot of its own, with a copy of the cache:

    row        a  b  c  d          a  b  c  d
    drew      12 12 47 12          6  8  =  6       texts ...12 and ...47 -> 126, 128, 47=
    slot       0  0  1  0          0  2  1  0

A decode step computes texts, not rows, so a policy with low entropy is cheap to sample. The first
rows and the first slots are in use; finished rows leave when the batch is next compacted.
On CUDA every row has its own slot, because the host would have to wait for the device to know which
rows differ. Left out on purpose: sharing the prompt's cache among slots (paged attention).
Shapes: P slots, M rows in use, K key/value heads, d head dimension, S columns of the cache.
"""

import math
import mmap
from typing import NamedTuple

import torch

from engine import kernels
from engine.attention import Cached, attend, visibility_bias
from model import GPT, Config

MEMORY_BUDGET = 2**60  # bytes that slots may take: what the memory plan of a run leaves for them


class DecodeConfig(NamedTuple):
    """How a kind of device decodes."""

    check_every: int   # steps between two looks at which rows have finished; a GPU waits at each
    size_ratio: float  # of a batch size to the next larger one
    cuda_graphs: bool  # a step is a CUDA graph: all tensors stay at their addresses
    max_rows: int      # rows that are decoded at a time


DECODE_CONFIGS = {"cpu": DecodeConfig(1, 0.92, False, 512),
                  "cuda": DecodeConfig(16, 0.5, True, 1024)}


def lazy_zeros(shape: tuple, device, dtype) -> torch.Tensor:
    """torch.zeros. On a CPU a page takes memory at its first write, and most texts are far shorter
    than the cache allows."""
    if torch.device(device or "cpu").type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    like = torch.empty(0, dtype=dtype)
    memory = mmap.mmap(-1, max(1, math.prod(shape) * like.element_size()))
    return torch.frombuffer(memory, dtype=like.dtype, count=math.prod(shape)).view(shape)


class SlotCache:
    """Keys and values (layers, P, K, capacity, d), from column 0 of each slot. Allocated once and
    written in place."""

    def __init__(self, config: Config, slots: int, capacity: int, device=None, dtype=None):
        shape = (config.layers, slots, config.kv_heads, capacity, config.head_dim)
        self.keys, self.values = (lazy_zeros(shape, device, dtype) for _ in range(2))
        # index of the first column of each slot and head, in a cache flattened to rows of d (P, K)
        self.starts = torch.arange(slots * config.kv_heads, device=device).view(slots, -1)
        self.starts *= capacity

    def columns(self, slots: int, columns: int, new: int) -> Cached:
        """Attention of `new` tokens per slot that end at column `columns` of the first slots."""
        return Cached(*(x[:, :slots, :, :columns] for x in (self.keys, self.values)), new)


class StepTensors(NamedTuple):
    """What a decode step reads and writes, of M rows and the P slots they stand in."""

    lengths: torch.Tensor                # (P,) tokens in the slot's cache
    last_token: torch.Tensor             # (P,) the newest token, not in the cache yet
    slot: torch.Tensor | None            # (M,) the slot of each row; None: row i is in slot i
    n_drawn: torch.Tensor                # (M,) tokens that the row has drawn
    active: torch.Tensor                 # (M,) False for a finished row
    uniforms: torch.Tensor               # (M, steps + 1) random numbers
    tokens: torch.Tensor                 # (M, steps + 1) drawn tokens
    logp: torch.Tensor                   # (M, steps + 1)
    entropy: torch.Tensor                # (M, steps + 1)
    stop_state: torch.Tensor             # (M,) state of the stop-string automaton
    stop_table: torch.Tensor | None      # (V, states) the automaton
    is_stop: torch.Tensor                # (V,) True for a stop token
    max_new: torch.Tensor                # () largest number of tokens of a row
    keys: torch.Tensor | None = None     # of the cache, (layers, P, K, S, d)
    values: torch.Tensor | None = None
    starts: torch.Tensor | None = None   # (P, K) of the cache; None: the CUDA kernel needs none
    flat_keys: torch.Tensor | None = None    # (layers, slots * K * capacity, d)
    flat_values: torch.Tensor | None = None
    columns: torch.Tensor | None = None  # (S,) 0 .. S-1; None: all columns are visible to all


class Decode:
    """The attention object of a decode step: each token (P,) sees its slot's columns and itself.

    On CUDA one kernel rotates, appends and attends. Elsewhere the new key and value are written to
    column lengths[p] of slot p, and a bias hides the columns beyond it, if there are any."""

    def __init__(self, config: Config, step: StepTensors):
        self.groups, self.repeats = config.kv_heads, config.heads // config.kv_heads
        self.head_dim, self.step, self.positions = config.head_dim, step, step.lengths
        self.applies_rope, self.bias = step.starts is None, None
        if not self.applies_rope:
            self.index = (step.starts + step.lengths[:, None]).flatten()      # (P K,)
            if step.columns is not None:
                visible = (step.columns <= step.lengths[:, None])[:, None, None]
                self.bias = visibility_bias(visible, step.keys.dtype)         # (P, 1, 1, S)

    def __call__(self, layer: int, q, k, v, *rope):
        keys, values = self.step.keys[layer], self.step.values[layer]
        if self.applies_rope:
            return kernels.decode_attention(q, k, v, *rope, keys, values, self.step.lengths)
        self.step.flat_keys[layer].index_copy_(0, self.index, k.flatten(0, 1))
        self.step.flat_values[layer].index_copy_(0, self.index, v.flatten(0, 1))
        q = q.reshape(-1, self.groups, self.repeats, self.head_dim)           # (P, K, R, d)
        return attend(q, keys, values, self.bias, self.head_dim, 1)


class Slots:
    """The state of a batch. All tensors are made once and written in place, as CUDA graphs need,
    and kept for the model's next call."""

    def __init__(self, model: GPT, slots: int, capacity: int, steps: int):
        weight = model.embedding.weight
        device = weight.device
        ints = dict(dtype=torch.int64, device=device)
        self.cuda_graphs = DECODE_CONFIGS[device.type].cuda_graphs
        self.cache = SlotCache(model.config, slots, capacity, device, weight.dtype)
        self.columns = torch.arange(capacity, device=device)
        self.is_stop = torch.zeros(model.config.vocab_size, dtype=torch.bool, device=device)
        self.stop_table = None
        self.max_new = torch.zeros((), **ints)
        self.n_rows = self.n_slots = 0       # in use
        self.one_row_per_slot = True         # row i is in slot i
        self.max_length = 0                  # no text in use is longer
        self.equal_lengths = True            # all texts in use are equally long
        # of each slot
        self.lengths, self.last_token = torch.zeros(2, slots, **ints)
        # of each row: its number in the call, its slot, tokens drawn, state of the automaton
        self.row_id, self.slot, self.n_drawn, self.stop_state = torch.zeros(4, slots, **ints)
        self.active = torch.zeros(slots, dtype=torch.bool, device=device)
        self.uniforms = torch.zeros(slots, steps + 1, device=device)
        # a finished row draws on until it leaves; these tokens land in the column after its end
        self.tokens = torch.zeros(slots, steps + 1, **ints)
        self.logp, self.entropy = torch.zeros(2, slots, steps + 1, device=device)
        self.recorded = {}                   # recorded steps (engine/graphs.py)
        self.pool = self.stream = None
        if device.type == "cuda":
            self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def reset(self, stop_ids, stop_table, max_new_tokens: int) -> None:
        """Empties all slots."""
        self.active.zero_()
        self.is_stop.zero_()
        self.is_stop[stop_ids] = True
        # a CUDA graph also computes unused rows: they get a short text and a valid automaton state
        self.lengths.zero_()
        self.stop_state.zero_()
        self.n_rows, self.n_slots, self.max_length = 0, 0, 0
        self.one_row_per_slot = self.equal_lengths = True
        self.stop_table = stop_table
        self.max_new.fill_(max_new_tokens)

    def row_tensors(self, slots: slice, rows: slice) -> StepTensors:
        """The tensors for drawing a token, without the cache."""
        return StepTensors(
            self.lengths[slots], self.last_token[slots],
            None if self.one_row_per_slot else self.slot[rows], self.n_drawn[rows],
            self.active[rows], self.uniforms[rows], self.tokens[rows], self.logp[rows],
            self.entropy[rows], self.stop_state[rows], self.stop_table, self.is_stop, self.max_new)

    def step_tensors(self, slots: int, rows: int) -> StepTensors:
        """The tensors of the next decode step of the first slots and rows."""
        step, cache = self.row_tensors(slice(slots), slice(rows)), self.cache
        if kernels.usable(cache.keys):  # the kernel reads each slot's own columns only
            return step._replace(keys=cache.keys, values=cache.values)
        end = len(self.columns) if self.cuda_graphs else self.max_length + 1
        keys, values = (x[:, :slots, :, :end] for x in (cache.keys, cache.values))
        hides = self.cuda_graphs or not self.equal_lengths
        return step._replace(
            keys=keys, values=values, starts=cache.starts[:slots],
            flat_keys=cache.keys.flatten(1, 3), flat_values=cache.values.flatten(1, 3),
            columns=self.columns[:end] if hides else None)

    def count_step(self) -> None:
        """Notes that each text has grown by one token."""
        self.max_length = min(self.max_length + 1, len(self.columns) - 1)

    def count_active(self) -> int:
        """The number of rows that are not finished. The host waits for the device here."""
        return int(self.active[:self.n_rows].sum())

    def retire_finished(self, out: dict, n_active: int) -> None:
        """Writes finished rows to `out` and compacts: active rows move to the front."""
        active = self.active[:self.n_rows]
        finished, steps = (~active).nonzero()[:, 0], out["tokens"].shape[1]
        # 1. copy the results of finished rows
        row, drawn = self.row_id[finished], self.n_drawn[finished]
        written = torch.arange(steps, device=row.device) < drawn[:, None]
        for name in ("tokens", "logp", "entropy"):
            new = getattr(self, name)[finished, :steps]
            out[name][row] = torch.where(written, new, out[name][row])
        out["drawn"][row] = drawn
        stopped = self.is_stop[self.tokens[finished, drawn - 1]]
        if self.stop_table is not None:
            stopped |= self.stop_state[finished] == self.stop_table.shape[1] - 1
        out["truncated"][row] = ~stopped
        # 2. active rows from behind position n_active take the places of finished ones before it
        to = (~active[:n_active]).nonzero()[:, 0]
        source = n_active + active[n_active:].nonzero()[:, 0]
        for x in (self.row_id, self.slot, self.n_drawn, self.stop_state, self.active,
                  self.uniforms, self.tokens, self.logp, self.entropy):
            x[to] = x[source]
        self.active[n_active:self.n_rows] = False
        self.n_rows = n_active

    def fork(self) -> None:
        """Gives each text of the active rows a slot. One row of a slot stays in it, if the slot is
        among the first; the others move to free slots with a copy of the cache."""
        vocab, rows = len(self.is_stop), self.active[:self.n_rows].nonzero()[:, 0]
        # 1. a text is known by its slot and the token just drawn
        token = self.tokens[rows, self.n_drawn[rows] - 1]
        texts, which = (self.slot[rows] * vocab + token).unique(return_inverse=True)
        before, self.n_slots = texts // vocab, len(texts)
        # 2. the first text of each slot stays, the others take free slots
        stays = before < self.n_slots
        stays[1:] &= before[1:] != before[:-1]
        free = torch.ones(self.n_slots, dtype=torch.bool, device=rows.device)
        free[before[stays]] = False
        slot = before.clone()
        slot[~stays] = to = free.nonzero()[:, 0]
        # 3. copy the cache, layer by layer to save memory
        if len(to):
            source, end = before[~stays], self.max_length
            for layer in (*self.cache.keys, *self.cache.values):
                layer[to, :, :end] = layer[source, :, :end]
            self.lengths[to] = self.lengths[source]
        self.last_token[slot] = texts % vocab
        self.slot[:self.n_rows] = 0                         # slot 0 also stands for finished rows
        self.slot[rows] = slot[which]

    def update_lengths(self) -> None:
        """Reads the lengths from the device, after rows have left or come in."""
        lengths = self.lengths[:self.n_slots]
        self.max_length = int(lengths.max()) if self.n_slots else 0
        self.equal_lengths = bool((lengths == self.max_length).all())


class SlotPool:
    """The Slots of one model, by dtype and device, kept on the model between calls. A deep copy of
    the model starts with an empty pool."""

    def __init__(self):
        self.kept = {}  # (dtype, device) -> ((rows, capacity, steps) asked for, Slots)

    def __deepcopy__(self, memo):
        return SlotPool()


def slots_of(model: GPT, rows: int, capacity: int, steps: int) -> Slots:
    """The model's Slots for at least so many rows, columns and decode steps; fewer rows where the
    memory does not suffice."""
    config, weight = model.config, model.embedding.weight
    pool = model.__dict__.setdefault("slot_pool", SlotPool())
    key = weight.dtype, weight.device
    had, slots = pool.kept.get(key, ((0, 0, 0), None))
    pool.kept.clear()
    asked = tuple(map(max, (rows, capacity, steps), had))
    if asked != had:
        recorded = {} if slots is None or slots.cuda_graphs else slots.recorded
        slots = None  # frees its memory before more is taken
        if weight.is_cuda:
            torch.cuda.empty_cache()
        rows, capacity, steps = asked
        per_row = 2 * config.layers * config.kv_heads * config.head_dim * capacity
        logits = (48 if weight.is_cuda else 24) * config.vocab_size  # each CUDA graph keeps its own
        bytes_per_row = per_row * weight.element_size() + logits + 20 * steps
        fitting = min(free_memory(weight.device) // 2, MEMORY_BUDGET) // bytes_per_row
        slots = Slots(model, max(1, min(rows, fitting)), capacity, steps)
        slots.recorded = recorded  # records of a CPU hold for any tensors
    pool.kept[key] = (asked, slots)
    return slots


def release_slots(model: GPT) -> None:
    """Frees the memory of the model's Slots."""
    model.__dict__.pop("slot_pool", None)


def free_memory(device) -> int:
    """Bytes that can be allocated, file caches of the system included; 4 GB where the system cannot
    say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:  # Linux
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 4 * 2**30
