"""The fast sampler, used in training. It draws the same tokens as sample.py, several times faster.

sample.py computes every row at every step. Here
  - on a CPU, rows with the same text share a slot of the KV cache until they draw different tokens
    (engine/slots.py);
  - rows that are admitted together read each prompt once, and a common prefix of their prompts
    once, such as few-shot examples;
  - finished rows leave the batch, and waiting rows are admitted;
  - a decode step is recorded and replayed without Python (engine/graphs.py). On CUDA the record is
    a CUDA graph with Triton kernels (engine/kernels.py).

    token[t] ~ softmax(logits[t-1] / temperature)         logp[t] = log of that softmax at token[t]

A row's draws depend only on its seed, its prompt and the position (engine/rng.py), so both samplers
draw the same tokens. Left out on purpose: paged caches, speculative decoding, several GPUs.
Shapes: N rows of the call, M rows in the batch, P texts or slots, V vocabulary, D width.
"""

from os.path import commonprefix  # not only for paths: it works on any sequences

import torch

from engine import graphs
from engine.packing import micro_batches
from engine.request import Request, assemble, make_request
from engine.rng import sample_tokens, uniform
from engine.slots import DECODE_CONFIGS, Decode, SlotCache, Slots, StepTensors, slots_of
from model import GPT
from sample import Rollout

PREFILL_TOKENS = {"cpu": 1024, "cuda": 32768}  # prompt tokens that are read at a time
MIN_SHARED_PREFIX = 32  # tokens; a shorter common prefix of prompts is not read separately
REFILL = 0.5            # waiting rows are admitted if at most this share of the batch is in use


def generate(model: GPT, prompts: list[list[int]], group_size: int = 1, max_new_tokens: int = 96,
             temperature: float = 1.0, seed=0, *, stop, pad: int, stop_table=None, prefixes=None,
             top_k: int = 0, top_p: float = 1.0, max_rows: int = 0, on_token=None) -> Rollout:
    """Does what sample.generate does: same arguments, same errors, same tokens.

    At most max_rows rows are decoded at a time (0: 512 on a CPU, 1024 on a GPU), or fewer if memory
    is short."""
    request = make_request(model, prompts, group_size, max_new_tokens, temperature, seed, stop,
                           stop_table, prefixes, top_k, top_p)
    return Rollout(**assemble(request, decode(model, request, max_rows, on_token), pad))


@torch.inference_mode()
def decode(model: GPT, request: Request, max_rows: int, on_token) -> dict:
    """Draws all rows. Returns tokens, logp and entropy (N, max_new_tokens), the number of `drawn`
    tokens (N,), and which rows are `truncated` (N,)."""
    n, steps = len(request.seeds), request.max_new_tokens
    device = request.seeds.device
    config = DECODE_CONFIGS[device.type]
    max_rows = max_rows or config.max_rows
    check_every = 1 if on_token else config.check_every
    longest = max(map(len, request.texts))
    slots = slots_of(model, min(n, max_rows), longest + steps, steps)
    slots.reset(request.stop_ids, request.stop_table, steps)
    out = {name: torch.zeros(n, steps, dtype=getattr(slots, name).dtype, device=device)
           for name in ("tokens", "logp", "entropy")}
    out["drawn"] = torch.zeros(n, dtype=torch.int64, device=device)
    out["truncated"] = torch.zeros(n, dtype=torch.bool, device=device)
    capacity = min(n, max_rows, len(slots.row_id))  # rows in the batch
    admitted = 0
    # a batch shrinks in fixed steps, so that CUDA graphs of earlier calls can be reused
    sizes = [len(slots.row_id) if config.cuda_graphs else capacity]
    while sizes[-1] > 1:
        sizes.append(max(1, int(sizes[-1] * config.size_ratio)))
    while admitted < n or slots.n_rows:
        # 1. admit waiting rows, or make a few decode steps
        if admitted < n and slots.n_rows <= REFILL * capacity:
            rows = torch.arange(admitted, min(n, admitted + capacity - slots.n_rows), device=device)
            # rows can share a slot only if the host looks at them after every step
            admit(model, slots, request, rows, share=config.check_every == 1)
            admitted += len(rows)
        else:
            size = min(s for s in sizes if s >= slots.n_rows)
            for _ in range(check_every):
                decode_step(model, slots, size, request.sampling)
        if on_token:  # there is a single row, in slot 0
            on_token(slots.last_token[0].item())
        # 2. finished rows leave if a smaller batch size fits, or if waiting rows can be admitted
        n_active = slots.count_active()
        smaller_fits = any(n_active <= s < slots.n_rows for s in sizes)
        can_admit = admitted < n and n_active <= REFILL * capacity
        shrink = n_active == 0 or smaller_fits or can_admit
        if shrink:
            slots.retire_finished(out, n_active)
        # 3. rows that drew different tokens get different slots; used slots stay in front
        if shrink or not slots.one_row_per_slot:
            slots.fork()
        if shrink:
            slots.update_lengths()
    return out


def prefill(model: GPT, texts, prefix: SlotCache | None = None):
    """Reads P texts, padded on the right; no token of a text sees the padding. `prefix`: a cache of
    one slot, with the first tokens of all texts. These tokens are not read again. Returns the cache
    (P slots) and the hidden states (P, D) of the last tokens."""
    device, width = model.embedding.weight.device, max(map(len, texts))
    read = 0 if prefix is None else prefix.keys.shape[3]  # tokens that the prefix holds
    tokens = torch.tensor([list(text[read:]) + [0] * (width - len(text)) for text in texts],
                          device=device)                                      # (P, width - read)
    last = torch.tensor([len(text) - read - 1 for text in texts], device=device)
    cache = SlotCache(model.config, len(texts), width, device, model.embedding.weight.dtype)
    if prefix is not None:
        cache.keys[..., :read, :], cache.values[..., :read, :] = prefix.keys, prefix.values
    hidden = model(tokens, cache.columns(len(texts), width, width - read))
    return cache, hidden[torch.arange(len(texts), device=device), last]


def prefill_slots(model: GPT, slots: Slots, texts, text_of_slot) -> torch.Tensor:
    """Reads each of P texts once and their common prefix once. Copies the caches to the new slots.
    text_of_slot: for each new slot, the index of its text. Returns the hidden states (P, D) of the
    last tokens of the texts."""
    weight = model.embedding.weight
    hidden = weight.new_empty(len(texts), weight.shape[1])
    # 1. the common prefix, such as few-shot examples
    prefix, shared = None, 0
    if len(texts) > 1:
        shared = min(len(commonprefix(texts)), min(map(len, texts)) - 1)  # leaves a token to read
    if shared >= MIN_SHARED_PREFIX:
        prefix, _ = prefill(model, [texts[0][:shared]])
    # 2. the texts, in batches of similar length so that little is padding
    for part in micro_batches(list(map(len, texts)), PREFILL_TOKENS[weight.device.type]):
        cache, hidden[part] = prefill(model, [texts[i] for i in part], prefix)
        # 3. copy to the slots that hold these texts
        row_of_text = text_of_slot.new_full((len(texts),), -1)  # in `part`; -1: not there
        row_of_text[part] = torch.arange(len(part), device=row_of_text.device)
        row_of_slot, width = row_of_text[text_of_slot], cache.keys.shape[3]
        here = (row_of_slot >= 0).nonzero()[:, 0]
        source, target = row_of_slot[here], slots.n_slots + here
        slots.cache.keys[:, target, :, :width] = cache.keys[:, source]
        slots.cache.values[:, target, :, :width] = cache.values[:, source]
    return hidden


def admit(model: GPT, slots: Slots, request: Request, rows, share: bool) -> None:
    """Admits consecutive rows (M,) and draws their first token. share: rows with the same text
    start in one slot; else each row has its own slot."""
    # 1. the distinct texts, and the index of each row's text in that list
    prompt = rows // request.group_size
    first, last = int(prompt[0]), int(prompt[-1])
    prompts = [tuple(text) for text in request.texts[first:last + 1]]
    texts = list(dict.fromkeys(prompts))
    number = {text: i for i, text in enumerate(texts)}
    text_of_row = torch.tensor([number[text] for text in prompts], device=rows.device)
    text_of_row = text_of_row[prompt - first]                                 # (M,)
    # 2. the new slots, numbered from 0; their texts are read
    if share:
        slot, text_of_slot = text_of_row, torch.arange(len(texts), device=rows.device)
    else:
        slot, text_of_slot = torch.arange(len(rows), device=rows.device), text_of_row
    hidden = prefill_slots(model, slots, texts, text_of_slot)
    # 3. the state of the new rows and slots, behind those in use
    at = slice(slots.n_rows, slots.n_rows + len(rows))
    new = slice(slots.n_slots, slots.n_slots + len(text_of_slot))
    lengths = torch.tensor([len(text) for text in texts], device=rows.device)
    position = torch.arange(slots.uniforms.shape[1], device=rows.device)
    position = position + request.offsets[prompt, None]
    slots.uniforms[at] = uniform(request.seeds[rows, None], position)
    slots.row_id[at], slots.slot[at] = rows, slots.n_slots + slot
    slots.stop_state[at] = request.stop_states[prompt]
    slots.n_drawn[at], slots.active[at] = 0, True
    slots.lengths[new] = lengths[text_of_slot] - 1  # draw_and_record adds 1
    slots.n_rows, slots.n_slots = at.stop, new.stop
    slots.one_row_per_slot = slots.one_row_per_slot and len(text_of_slot) == len(rows)
    # 4. the first token; `slot` and hidden[text_of_slot] count the new slots from 0
    tensors = slots.row_tensors(new, at)
    tensors = tensors._replace(slot=None if slots.one_row_per_slot else slot)
    draw_and_record(model, tensors, hidden[text_of_slot], request.sampling)
    slots.update_lengths()


def draw_and_record(model: GPT, t: StepTensors, hidden, sampling: tuple) -> None:
    """Draws the next token of each row from the hidden states (P, D) of the slots' last tokens.
    Records token, log-prob and entropy in column n_drawn, all in place.

    A row finishes at a stop token, a stop string or the length limit. A finished row keeps n_drawn
    and stop_state. Its later draws are ignored. last_token is written here if row i is in slot i;
    otherwise Slots.fork writes it."""
    active, n_drawn = t.active, t.n_drawn  # views of the slots: they are changed in place
    # 1. draw
    u = t.uniforms.gather(1, n_drawn[:, None])[:, 0]
    found = sample_tokens(model.logits(hidden), u, *sampling, slot=t.slot)
    # 2. record
    for store, new in zip((t.tokens, t.logp, t.entropy), found, strict=True):
        store.scatter_(1, n_drawn[:, None], new[:, None])
    n_drawn += active
    # 3. stop
    token = found[0]
    if t.stop_table is not None:
        t.stop_state.copy_(torch.where(active, t.stop_table[token, t.stop_state], t.stop_state))
        active &= t.stop_state < t.stop_table.shape[1] - 1
    active &= ~t.is_stop[token] & (n_drawn < t.max_new)
    t.lengths.add_(1)
    if t.slot is None:
        t.last_token.copy_(token)
        t.lengths.mul_(active)  # a finished row gets length 0: the CUDA kernel reads no cache of it


def step(model: GPT, tensors: StepTensors, sampling: tuple) -> None:
    """One decode step. It works in place and copies no value to the host, so it can be recorded."""
    hidden = model(tensors.last_token, Decode(model.config, tensors))
    draw_and_record(model, tensors, hidden, sampling)


def decode_step(model: GPT, slots: Slots, size: int, sampling: tuple) -> None:
    """One decode step of all rows in use. A CUDA graph computes `size` rows, one slot per row."""
    rows = (size, size) if slots.cuda_graphs else (slots.n_slots, slots.n_rows)
    graphs.run(step, model, slots, slots.step_tensors(*rows), sampling)
    slots.count_step()
