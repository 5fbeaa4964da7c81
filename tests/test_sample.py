"""sample.py: the draws follow the softmax, their log-probs are the model's, and neither the cache
nor the company of other rows changes anything."""

import gc
import io
import math
import operator
import random
import warnings
import weakref
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import model
import sample
import tokenizer
from engine import attention, graphs, rng, sampler, slots
from engine.request import states_after

STOP, PAD = 28, 29
PROMPTS = [[1, 2, 3, 4, 5, 6], [7], [8, 9, 10], [3, 1, 4, 1]]
PIECES = [b"a", b"b", b"c", b"ab", b"bc", b"ca", b"abc", b"cab", b"bca", b"aa"] * 3
PIECES[STOP] = PIECES[PAD] = b""
CPU, GPU = slots.DECODE_CONFIGS["cpu"], slots.DECODE_CONFIGS["cuda"]
HEADS = pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["MHA", "GQA", "MQA"])


def emulated(step, model, batch, view, how):
    """record.capture for a device without CUDA graphs. As a graph does, what it returns computes on
    the very tensors, with the very numbers, shapes and weights' addresses of the step that it was
    made from, whatever it is given."""
    fields = slots.StepTensors._fields
    given = {name: x for name, x in zip(fields, view, strict=True) if x is not None}
    module = graphs.Step(step, model, given, how)
    traced = torch.jit.trace(module, tuple(given.values()), check_trace=False)

    def replay(*_):
        with torch.jit.optimized_execution(False):
            traced.forward(*given.values())
    return replay


def behave(habits, monkeypatch):
    """As a device of these habits does, whose graphs are emulated."""
    monkeypatch.setitem(slots.DECODE_CONFIGS, "cpu", habits)
    if habits.cuda_graphs:
        monkeypatch.setattr(graphs, "capture", emulated)
        monkeypatch.setitem(graphs.WARMUP_STEPS, "cpu", graphs.WARMUP_STEPS["cuda"])


def gpt(kv_heads=2, stop=0.0, seed=0):
    """A small model, far from uniform; `stop` raises the end's logit, so that rows end often."""
    torch.manual_seed(seed)
    made = model.GPT(model.Config(30, context=48, layers=2, width=32, heads=4, kv_heads=kv_heads,
                                  hidden=48, tied=False))
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(6 if p.dim() == 2 else 1)
    bias = torch.zeros(30)
    bias[STOP], bias[PAD] = stop, -1e4  # the pad is never drawn: what is padding stays clear
    made.lm_head.bias = torch.nn.Parameter(bias)
    return made


def generate(made, prompts=PROMPTS, group_size=1, max_new_tokens=12, temperature=1.0, seed=3,
             **more):
    return sampler.generate(made, prompts, group_size, max_new_tokens, temperature, seed, stop=STOP,
                           pad=PAD, **more)


def greedy_loop(made, prompt, max_new_tokens):
    """The oracle: no cache, no batch, the whole text read again for every token."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + max_new_tokens and STOP not in ids[len(prompt):]:
            ids.append(int(made.lm_head(made(torch.tensor([ids])))[0, -1].argmax()))
    return ids[len(prompt):]


def sampling_loop(made, prompt, row_seed, max_new_tokens, temperature):
    """The same for a sampled row: its uniform numbers are a function of its seed and position."""
    ids = list(prompt)
    with torch.no_grad():
        for t in range(max_new_tokens):
            logits = made.lm_head(made(torch.tensor([ids])))[:, -1]
            token, _, _ = rng.sample_tokens(logits, rng.uniform(row_seed[None], t), temperature)
            ids.append(int(token))
            if ids[-1] == STOP:
                break
    return ids[len(prompt):]


def seeds(n, seed):
    return rng.splitmix64(rng.row_seeds(torch.arange(n), seed))


def same(a, b):
    """Equal rollouts; log-probs up to the order of floating-point sums."""
    width = min(a.tokens.shape[1], b.tokens.shape[1])
    return (torch.equal(a.tokens[:, :width], b.tokens[:, :width]) and a.responses() == b.responses()
            and torch.allclose(a.logp[:, :width], b.logp[:, :width], atol=1e-4)
            and torch.equal(a.truncated, b.truncated) and torch.equal(a.group, b.group))


# --- cached = uncached, ragged = one at a time

@HEADS
@pytest.mark.parametrize("stop", [0.0, 1.8])
@pytest.mark.parametrize("module", [sample, sampler], ids=["plain", "fast"])
def test_greedy_equals_an_uncached_loop(module, kv_heads, stop):
    made = gpt(kv_heads, stop)
    found = module.generate(made, PROMPTS, 1, 12, 0.0, 3, stop=STOP, pad=PAD).responses()
    assert found == [greedy_loop(made, prompt, 12) for prompt in PROMPTS]


@HEADS
def test_greedy_equals_transformers_generate(kv_heads, monkeypatch):
    """Ragged prompts, rows that end early, and more rows than places."""
    pytest.importorskip("transformers")
    from bench.sample import as_llama
    monkeypatch.setattr(sampler, "REFILL", 0.9)
    made = gpt(kv_heads)
    made.lm_head.bias = None  # Llama has none
    rng = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 28, (n,), generator=rng).tolist() for n in (3, 9, 1, 6, 12, 2, 5)]
    free = sampler.generate(made, prompts, 1, 20, 0, stop=[], pad=PAD).responses()
    stop = next(t for t in free[0][3:] if any(t in r[5:] for r in free[1:]))
    found = sampler.generate(made, prompts, 1, 20, 0, stop=stop, pad=PAD, max_rows=3).responses()
    width = max(map(len, prompts))
    out = as_llama(made).generate(
        torch.tensor([[PAD] * (width - len(p)) + p for p in prompts]), do_sample=False,
        attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        max_new_tokens=20, eos_token_id=stop, pad_token_id=PAD)[:, width:].tolist()
    want = [r[:r.index(stop) + 1] if stop in r else r for r in out]
    assert found == want
    assert 1 < len({len(r) for r in want})  # some ended early


@HEADS
@pytest.mark.parametrize("module", [sample, sampler], ids=["plain", "fast"])
def test_sampling_equals_an_uncached_loop_of_each_row(module, kv_heads):
    """Rows end at different times, so this covers retirement too."""
    made = gpt(kv_heads, stop=1.8)
    found = module.generate(made, PROMPTS, 4, 12, 1.0, 3, stop=STOP, pad=PAD).responses()
    want = [sampling_loop(made, PROMPTS[i // 4], s, 12, 1.0) for i, s in enumerate(seeds(16, 3))]
    assert found == want
    assert len({len(r) for r in found}) > 3  # or nothing was retired


@HEADS
def test_a_ragged_batch_equals_one_prompt_at_a_time(kv_heads):
    made = gpt(kv_heads)
    together = generate(made, temperature=0)
    alone = [generate(made, [prompt], temperature=0) for prompt in PROMPTS]
    assert together.responses() == [one.responses()[0] for one in alone]
    for i, one in enumerate(alone):
        width = one.logp.shape[1]
        assert torch.allclose(together.logp[i, :width], one.logp[0], atol=1e-4)


@pytest.mark.parametrize("max_rows", [1, 3, 6, 9])
def test_the_size_of_the_batch_changes_nothing(max_rows):
    made = gpt(stop=1.8)
    assert same(generate(made, group_size=3), generate(made, group_size=3, max_rows=max_rows))


def test_retirement_happens_and_changes_nothing(monkeypatch):
    """The oracle samples each row alone, where nothing can take another's place."""
    made, calls, original = gpt(stop=1.8), [], slots.Slots.retire_finished
    monkeypatch.setattr(slots.Slots, "retire_finished", lambda *a: calls.append(1) or original(*a))
    found = generate(made, group_size=8).responses()
    assert len(calls) > 2
    assert found == [sampling_loop(made, PROMPTS[i // 8], s, 12, 1.0)
                     for i, s in enumerate(seeds(32, 3))]


@pytest.mark.parametrize("refill", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("habits", [CPU, GPU._replace(check_every=4), GPU], ids=str)
def test_waiting_rows_take_the_places_of_ended_ones(habits, refill, monkeypatch):
    """With few places, on a CPU's habits and on a GPU's, nothing that is drawn changes."""
    made, admitted, original = gpt(stop=1.8), [], sampler.admit
    behave(habits, monkeypatch)
    monkeypatch.setattr(sampler, "REFILL", refill)
    monkeypatch.setattr(sampler, "admit", lambda *a, **k: (
        admitted.append(a[1].n_rows), original(*a, **k)))
    found = generate(made, group_size=8, max_rows=6)
    assert len(admitted) > 4
    assert max(admitted) > 0 or refill == 0 or habits.check_every > 12  # all end before a look
    assert found.responses() == [sampling_loop(made, PROMPTS[i // 8], s, 12, 1.0)
                                 for i, s in enumerate(seeds(32, 3))]


@pytest.mark.parametrize("habits", [CPU, GPU], ids=["CPU", "GPU"])
@pytest.mark.parametrize("max_rows", [5, 100])
def test_prompts_are_read_a_part_at_a_time(habits, max_rows, monkeypatch):
    behave(habits, monkeypatch)
    made, parts, original = gpt(stop=1.8), [], sampler.prefill
    want = generate(made, group_size=3, max_rows=max_rows)
    monkeypatch.setitem(sampler.PREFILL_TOKENS, "cpu", 8)
    monkeypatch.setattr(sampler, "prefill", lambda model, texts, begun: (
        parts.append([len(text) for text in texts]), original(model, texts, begun))[1])
    assert same(generate(made, group_size=3, max_rows=max_rows), want)
    assert max_rows == 5 or parts == [[6], [4, 3], [1]]


@pytest.mark.parametrize("kv_heads, ends", [
    *((kv_heads, [[1, 2, 3, 4, 5, 6], [7], [8, 9, 10, 1], [3, 1]]) for kv_heads in (4, 2, 1)),
    (2, [[], [4], [4, 2, 1]]), (2, [[5], [6], [7]])])
@pytest.mark.parametrize("habits", [CPU, GPU], ids=["CPU", "GPU"])
def test_what_all_prompts_begin_with_is_read_once(kv_heads, ends, habits, monkeypatch):
    """As worked examples are; by parts, refilled, and whatever comes after."""
    behave(habits, monkeypatch)
    made, read, forward = gpt(kv_heads, stop=1.0), [], model.GPT.forward
    begun = [11, 3, 5, 2, 9, 9, 1, 20, 21, 4, 6, 2]
    prompts = [begun + end for end in ends]
    monkeypatch.setitem(sampler.PREFILL_TOKENS, "cpu", 40)
    monkeypatch.setattr(model.GPT, "forward", lambda self, tokens, *more: (
        read.append(tokens.numel() if tokens.dim() == 2 else 0), forward(self, tokens, *more))[1])
    for max_rows in (5, 100):
        found, counts = [], []
        for shared in (1000, 8):
            read.clear()
            monkeypatch.setattr(sampler, "MIN_SHARED_PREFIX", shared)
            found.append(generate(made, prompts, 4, max_rows=max_rows))
            counts.append(sum(read))
        assert same(*found) and found[0].mask.sum() > 4 * len(prompts)
        most = max(map(len, ends))
        if max_rows == 100:
            assert counts[1] <= len(begun) + len(prompts) * (most + (not all(ends))) < counts[0]


def watch_steps(monkeypatch):
    """(places, rows) of each step that is yet to come."""
    steps, original = [], sampler.step
    monkeypatch.setattr(sampler, "step", lambda model, view, how: (
        steps.append((len(view.lengths), len(view.n_drawn))), original(model, view, how)))
    return steps


def test_rows_share_a_place_until_they_draw_different_tokens(monkeypatch):
    """What a step computes is the different texts of the rows that go on, no more and no less."""
    steps = watch_steps(monkeypatch)
    out = generate(gpt(stop=1.8), group_size=40, max_new_tokens=20, temperature=0.1)
    rows = list(zip(out.group.tolist(), out.responses(), strict=True))
    texts = [len({(g, tuple(ids[:t])) for g, ids in rows if len(ids) > t}) for t in range(1, 20)]
    assert [n for n, _ in steps] == [n for n in texts if n]
    assert 2 * sum(texts) < out.mask.sum() and max(texts) > 2 * texts[0] > 4


@pytest.mark.parametrize("max_rows", [3, 100])
@pytest.mark.parametrize("habits", [CPU, GPU], ids=["CPU", "GPU"])
def test_equal_texts_are_read_once(habits, max_rows, monkeypatch):
    """Also where one is a prompt and the other a prompt with a given beginning, of which the second
    has begun the stop string; each still draws with its own seed, from its own position on."""
    behave(habits, monkeypatch)
    made, texts, original = gpt(stop=0.5), [], sampler.prefill
    table = tokenizer.stop_table(PIECES, ["ab", "bca"])
    whole, part, other = [3, 4, 5, PIECES.index(b"b")], [3, 4, 5], [7, 8, 9]
    prompts, prefixes = [whole, other, whole, part], [[], [], [], whole[3:]]
    how = dict(stop_table=table, max_new_tokens=20, max_rows=max_rows)
    want = [generate(made, [p], 8, seed=list(range(8 * i, 8 * i + 8)), prefixes=[b],
                     **how).responses() for i, (p, b) in enumerate(zip(prompts, prefixes,
                                                                       strict=True))]
    steps = watch_steps(monkeypatch)
    monkeypatch.setattr(sampler, "prefill", lambda model, some, begun: (
        texts.extend(map(list, some)), original(model, some, begun))[1])
    found = generate(made, prompts, 8, seed=list(range(32)), prefixes=prefixes, **how)
    assert found.responses() == [ids for rows in want for ids in rows]
    if max_rows == 100:
        assert sorted(texts) == [whole, other] and len(set(map(tuple, found.responses()))) > 16
    if max_rows == 100 and habits == CPU:  # as many places as different texts that go on
        begun = {(1 if i // 8 == 1 else 0, ids[0]) for i, ids in enumerate(found.responses())
                 if len(ids) > 1}
        assert steps[0][0] == len(begun)


@pytest.mark.parametrize("habits", [CPU._replace(check_every=2), GPU], ids=str)
def test_where_nobody_looks_each_row_has_its_own_place(habits, monkeypatch):
    behave(habits, monkeypatch)
    steps = watch_steps(monkeypatch)
    generate(gpt(), group_size=8)
    assert steps and all(a == b for a, b in steps)


class Unasked(TorchDispatchMode):
    """For a device that holds no data, where reading a number is an error: and so is bringing one
    from the host."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        assert {x.device.type for x in tensors} <= {"meta"}, op
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [{}, {"qkv_bias": True}, {"qk_norm": True}], ids=str)
@pytest.mark.parametrize("how", [(1.0, 0, 1.0), (0, 0, 1.0), (0.7, 5, 0.9)], ids=str)
def test_a_step_of_a_gpu_asks_nothing_of_the_host(how, kind, dtype, monkeypatch):
    """Else no CUDA graph could be made of it. The device "meta" stands in for one."""
    monkeypatch.setitem(slots.DECODE_CONFIGS, "meta", slots.DECODE_CONFIGS["cuda"])
    monkeypatch.setattr(slots, "free_memory", lambda device: 10**9)
    with torch.device("meta"):
        made = model.GPT(model.Config(30, layers=2, width=32, heads=4, kv_heads=2, hidden=48,
                                      **kind)).cast(dtype)
        table = tokenizer.stop_table([bytes([97 + i]) for i in range(30)], ["ab"]).to("meta")
    with torch.inference_mode():
        batch = slots.slots_of(made, 16, 256, 20)
        batch.reset([STOP], table, 20)
        with Unasked():
            for size in (16, 4):
                sampler.step(made, batch.step_tensors(size, size), how)
        with pytest.raises(RuntimeError):
            batch.count_active()


def test_rows_that_nobody_fills_know_their_place_in_another_automaton():
    """A GPU computes them too, and would read the new one where it has no such state."""
    made = gpt(stop=1.8)
    long, short = (tokenizer.stop_table([bytes([97 + i]) for i in range(30)], strings)
                   for strings in (["abcdefghijklm", "aab"], ["b"]))
    generate(made, group_size=8, stop_table=long)
    batch = slots.slots_of(made, 1, 1, 1)
    with torch.inference_mode():
        batch.stop_state.fill_(long.shape[1] - 1)  # as one may have been left
    generate(made, [PROMPTS[0]], stop_table=short)
    assert len(batch.stop_state) > 1 and not (batch.stop_state >= short.shape[1]).any()


def test_equal_rows_have_equal_log_probs_to_the_last_bit():
    """Training takes equal rows as one (Batch.kinds)."""
    out = generate(gpt(stop=1.8), group_size=40, temperature=0.5, max_new_tokens=20)
    seen = {}
    for key, logp in zip(zip(out.group.tolist(), map(tuple, out.responses()), strict=True),
                         out.logp, strict=True):
        assert torch.equal(seen.setdefault(key, logp), logp)
    assert 10 < len(seen) < 140


def test_a_row_draws_the_same_alone_in_company_and_in_another_order():
    made, own = gpt(stop=1.8), list(range(100, 104))
    together = generate(made, seed=own).responses()
    backwards = generate(made, PROMPTS[::-1], seed=own[::-1]).responses()[::-1]
    alone = [generate(made, [p], seed=[s]).responses()[0]
             for p, s in zip(PROMPTS, own, strict=True)]
    assert together == backwards == alone


def test_a_given_beginning_is_continued_as_if_it_had_been_drawn():
    made = gpt(stop=-1e4)
    whole = generate(made, group_size=2, max_new_tokens=10)
    cut = [r[:4] for r in whole.responses()]
    rest = generate(made, [PROMPTS[i // 2] for i in range(8)], max_new_tokens=6,
                    prefixes=cut, seed=rng.row_seeds(torch.arange(8), 3).tolist())
    assert rest.responses() == [r[4:] for r in whole.responses()]
    assert torch.equal(rest.tokens, whole.tokens)
    assert rest.mask.sum() == 8 * 6


def test_several_stops():
    made = gpt(stop=-1e4)
    out = sampler.generate(made, PROMPTS, 4, 30, 1.0, 3, stop=[5, STOP, 9], pad=PAD)
    last = [r[-1] for r in out.responses()]
    assert {5, 9} <= set(last) and not any({5, 9} & set(r[:-1]) for r in out.responses())
    assert out.truncated.tolist() == [token not in (5, 9) for token in last]




def text(ids):
    return b"".join(PIECES[i] for i in ids)


@pytest.mark.parametrize("strings", [["abcab"], ["bbb", "caca"], ["aab", "ab", "bcb"]])
@pytest.mark.parametrize("habits", [CPU, GPU], ids=["CPU", "GPU"])
def test_a_stop_string_ends_a_row_however_it_is_cut_into_tokens(strings, habits, monkeypatch):
    behave(habits, monkeypatch)
    made, table = gpt(stop=0.5), tokenizer.stop_table(PIECES, strings)
    whole = generate(made, group_size=8, max_new_tokens=20)
    cut = generate(made, group_size=8, max_new_tokens=20, stop_table=table)
    few = generate(made, group_size=8, max_new_tokens=20, stop_table=table, max_rows=5)
    assert same(cut, few)
    ended = 0
    for i, (got, ids) in enumerate(zip(cut.responses(), whole.responses(), strict=True)):
        found = [n for n in range(1, len(ids) + 1)
                 if any(string.encode() in text(ids[:n]) for string in strings)]
        assert got == ids[:found[0] if found else None]
        assert bool(cut.truncated[i]) == (not found and ids[-1] != STOP)
        ended += bool(found)
    assert 2 < ended < 32 or len(strings) == 3


def test_a_stop_string_may_begin_in_what_is_given():
    made, table = gpt(stop=-1e4), tokenizer.stop_table(PIECES, ["abca"])
    begun = [[0, 1, 2]] * 4                                     # a, b, c: any a completes it
    out = generate(made, group_size=8, max_new_tokens=20, stop_table=table, prefixes=begun)
    other = generate(made, group_size=8, max_new_tokens=20, prefixes=begun)
    now = [text(ids)[:1] == b"a" for ids in other.responses()]
    assert any(now) and [len(ids) == 1 for ids in out.responses()] == now


def test_beginnings_of_different_lengths_move_the_automaton_each_by_its_own_tokens():
    table = tokenizer.stop_table(PIECES, ["abca", "bb"])
    begun = [[0, 1, 2], [], [1], [0, 1, 2, 0, 2], [2, 0, 1], [1, 1, 2]]
    states = []
    for prefix in begun:
        states.append(0)
        for token in prefix:
            states[-1] = int(table[token, states[-1]])
    assert states_after(table, begun, "cpu").tolist() == states and len(set(states)) > 3
    assert states_after(None, begun, "cpu").tolist() == [0] * 6


def test_a_stop_string_may_end_with_the_last_token_there_is_room_for():
    made, table = gpt(stop=-1e4), tokenizer.stop_table(PIECES, ["ca"])
    lengths = [len(ids) for ids in generate(made, group_size=8, stop_table=table).responses()]
    assert min(lengths) < 12
    for n in set(lengths) - {12}:
        out = generate(made, group_size=8, max_new_tokens=n, stop_table=table)
        assert out.truncated.tolist() == [length > n for length in lengths]


def test_a_batch_is_cut_to_the_memory_there_is(monkeypatch):
    made, want = gpt(stop=1.8), generate(gpt(stop=1.8), group_size=4)
    monkeypatch.setattr(slots, "free_memory", lambda device: 40_000)
    assert same(generate(made, group_size=4), want)
    assert len(slots.slots_of(made, 1, 1, 1).row_id) < 8


@pytest.mark.parametrize("said, free", [
    ("MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable:    7000 kB\nCached: 6900 kB\n", 7_168_000),
    ("MemTotal: 9000 kB\nMemFree: 100 kB\n", 2**32), ("total: used: free:\n", 2**32),
    (None, 2**32)], ids=["Linux", "old", "odd", "other"])
def test_memory_in_which_the_system_keeps_files_is_free(said, free, monkeypatch):
    def asked(path):
        if said is None:
            raise FileNotFoundError(path)
        return io.StringIO(said)
    monkeypatch.setattr(slots, "open", asked, raising=False)
    assert slots.free_memory(torch.device("cpu")) == free


def test_a_batch_is_cut_to_what_a_run_s_plan_leaves(monkeypatch):
    monkeypatch.setattr(slots, "MEMORY_BUDGET", 40_000)
    made = gpt(stop=1.8)
    assert same(generate(made, group_size=4), generate(gpt(stop=1.8), group_size=4))
    assert len(slots.slots_of(made, 1, 1, 1).row_id) < 8


def test_graphs_are_of_few_sizes_whatever_the_number_of_rows(monkeypatch):
    """Dynamic sampling asks for another number in each step; and what is computed without being
    anybody's sees something, else it would be no number."""
    behave(GPU, monkeypatch)
    made, sizes, original = gpt(stop=1.8), set(), sampler.decode_step

    def watched(model, batch, size, how):
        assert size >= batch.n_rows and size <= len(batch.row_id)
        assert (batch.lengths[:size] < len(batch.columns)).all()
        sizes.add(size)
        original(model, batch, size, how)
    monkeypatch.setattr(sampler, "decode_step", watched)
    generate(made, [[1] * 30] * 4, group_size=8)
    for group_size in (1, 3, 5, 6, 7):
        generate(made, group_size=group_size, max_rows=25)
    assert sizes <= {32, 16, 8, 4, 2, 1} and len(sizes) > 3


def test_graphs_do_what_the_plain_steps_do_whatever_comes_between(monkeypatch):
    """One model, many calls: other rows, lengths, temperatures and stop tables; weights that change
    in place, buffers that are made again. Thousands of replays on the tensors of the capture."""
    made, plain = gpt(stop=0.5), gpt(stop=0.5)
    rng, replays = random.Random(0), []
    tables = [None, *(tokenizer.stop_table(PIECES, strings)
                      for strings in (["abcab"], ["bbb", "caca"], ["aab"]))]

    def frozen(step, model, batch, view, how):  # cheaper than `emulated`
        step(model, view, how)
        return lambda *given: replays.append(1) or step(model, view, how)
    for call in range(35):
        prompts = [[rng.randrange(28) for _ in range(rng.randint(1, 9))]
                   for _ in range(rng.randint(1, 8))]
        how = dict(group_size=rng.randint(1, 5), max_new_tokens=rng.randint(1, 36), seed=call,
                   temperature=rng.choice((0.0, 0.7, 1.0)), stop_table=rng.choice(tables),
                   max_rows=rng.choice((3, 9, 40)))
        if call % 7 == 6:
            with torch.no_grad():
                for weights in (made, plain):
                    for weight in weights.parameters():
                        weight.mul_(1.02)
        if call == 24:  # larger buffers than before: the graphs of the old ones are gone
            prompts, how = [[1] * 10] * 3, how | dict(group_size=30, max_rows=90)
        want = generate(plain, prompts, **how)
        with pytest.MonkeyPatch.context() as patch:
            behave(GPU._replace(check_every=rng.choice((2, 4, 16))), patch)
            patch.setattr(graphs, "capture", frozen)
            assert same(generate(made, prompts, **how), want), (call, how)
    assert len(replays) > 500


def test_an_interrupted_call_leaves_nothing_behind(monkeypatch):
    made, calls, original = gpt(stop=1.8), [], sampler.step
    want = generate(gpt(stop=1.8), group_size=4)

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(*args)
    monkeypatch.setattr(sampler, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(made, group_size=8, seed=77)
    assert same(generate(made, group_size=4), want)


def test_buffers_are_kept_between_calls_and_follow_the_model():
    made = gpt()
    first = generate(made)
    kept = slots.slots_of(made, 1, 1, 1)
    assert same(generate(made, PROMPTS[:2]), generate(gpt(), PROMPTS[:2]))
    assert slots.slots_of(made, 1, 1, 1) is kept
    generate(made, group_size=9)
    assert slots.slots_of(made, 1, 1, 1) is not kept
    with torch.no_grad():
        made.embedding.weight.add_(0.5)
    assert not same(first, generate(made))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 25),
       st.integers(1, 9), st.floats(-2, 3, allow_subnormal=False), st.integers(0, 10**6),
       st.sampled_from([3, 100]))
@settings(max_examples=40, deadline=None)
def test_any_batch_equals_its_rows_alone(lengths, group_size, steps, max_rows, stop, seed, after):
    made, rng = gpt(stop=stop), torch.Generator().manual_seed(seed)
    prompts = [torch.randint(0, 28, (n,), generator=rng).tolist() for n in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(graphs.WARMUP_STEPS, "cpu", after)
        found = generate(made, prompts, group_size, steps, seed=seed, max_rows=max_rows).responses()
    row = seed % len(found)
    assert found[row] == sampling_loop(made, prompts[row // group_size],
                                       seeds(len(found), seed)[row], steps, 1.0)


# --- the plain sampler defines what the fast one draws

@pytest.mark.parametrize("hundred", range(4))
def test_both_samplers_draw_the_same_tokens_in_400_random_cases(hundred):
    """Random weights, prompt lengths, group sizes, stops, temperatures, prefixes, batch sizes."""
    rng, models = random.Random(hundred), {
        (kv, stop): gpt(kv, stop, seed=kv) for kv in (4, 2, 1) for stop in (0.0, 1.8)}
    tables = [None, *(tokenizer.stop_table(PIECES, strings) for strings in (["abcab"], ["bb"]))]
    lengths = set()
    for case in range(100 * hundred, 100 * hundred + 100):
        made = models[rng.choice((4, 2, 1)), rng.choice((0.0, 1.8))]
        prompts = [[rng.randrange(28) for _ in range(rng.randint(1, 9))]
                   for _ in range(rng.randint(1, 4))]
        arguments = dict(
            group_size=rng.randint(1, 4), max_new_tokens=rng.randint(1, 6), seed=case,
            temperature=rng.choice((0.0, 0.7, 1.0)), stop=rng.choice((STOP, [STOP, 5])), pad=PAD,
            stop_table=rng.choice(tables), top_k=rng.choice((0, 0, 3)),
            prefixes=rng.choice((None, [[rng.randrange(28)] * (i % 3)
                                        for i in range(len(prompts))])))
        want = sample.generate(made, prompts, **arguments)
        found = sampler.generate(made, prompts, **arguments, max_rows=rng.choice((0, 3)))
        assert same(found, want) and torch.equal(found.mask, want.mask), (case, arguments)
        assert torch.allclose(found.entropy, want.entropy, atol=1e-4)
        lengths |= {len(ids) for ids in want.responses()}
    assert len(lengths) == 6


def test_the_plain_sampler_shows_each_token_of_a_row():
    shown = []
    out = sample.generate(gpt(stop=1.0), [[1, 2]], 1, 12, 1.0, 3, stop=STOP, pad=PAD,
                          on_token=shown.append)
    assert out.responses() == [shown]


# --- recorded steps

def record_from(steps, monkeypatch):
    monkeypatch.setitem(graphs.WARMUP_STEPS, "cpu", steps)


def records(made):
    [(_, batch)] = made.slot_pool.kept.values()
    return list(batch.recorded.values())


def identical(a, b):
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


TABLE = tokenizer.stop_table([bytes([97 + i]) for i in range(30)], ["ab", "c"])


@pytest.mark.parametrize("prompts", [PROMPTS, [[1, 2, 3]] * 5], ids=len)
@pytest.mark.parametrize("kv_heads, how", [
    (4, {}), (1, {"max_rows": 6}), (2, {}), (2, {"temperature": 0.0}),
    (2, {"temperature": 0.7, "top_p": 0.9}), (2, {"top_k": 3}), (2, {"stop_table": TABLE}),
    (2, {"max_rows": 6})], ids=lambda x: "-".join(x) if isinstance(x, dict) else str(x))
def test_a_recorded_step_does_what_it_recorded(how, prompts, kv_heads, monkeypatch):
    """Of other rows, places and columns than it was recorded with: rows part, end and come in."""
    for group_size in (1, 8):
        made, same_weights = gpt(kv_heads, stop=0.5), gpt(kv_heads, stop=0.5)
        record_from(math.inf, monkeypatch)
        want = generate(same_weights, prompts, group_size, **how)
        record_from(1, monkeypatch)
        assert identical(generate(made, prompts, group_size, **how), want)
        assert -math.inf not in records(made)
        assert any(map(callable, records(made))) or group_size == 1


@pytest.mark.parametrize("kind", [{"qkv_bias": True}, {"qk_norm": True}, {"head_dim": 16},
                                  {"tied": False}], ids=str)
def test_a_recorded_step_of_every_kind_of_model(kind, monkeypatch):
    torch.manual_seed(0)
    made = model.GPT(model.Config(30, layers=2, width=32, heads=4, kv_heads=2, hidden=48, **kind))
    want = generate(made, group_size=3)
    record_from(0, monkeypatch)
    found = generate(made, group_size=3)
    assert identical(found, want) and set(map(callable, records(made))) == {True}


def test_a_recorded_step_has_the_weights_of_today(monkeypatch):
    record_from(0, monkeypatch)
    made, other = gpt(stop=1.8), gpt(stop=1.8, seed=1)
    generate(made, group_size=8)
    before = records(made)
    made.load_state_dict(other.state_dict())
    assert identical(generate(made, group_size=8), generate(other, group_size=8))
    with torch.no_grad():
        for weights in (made, other):
            for weight in weights.parameters():
                weight.mul_(1.1)
    assert identical(generate(made, group_size=8), generate(other, group_size=8))
    assert all(map(operator.is_, before, records(made)))  # those of the first call


def test_each_way_to_draw_has_its_own_record(monkeypatch):
    record_from(1, monkeypatch)
    made = gpt(stop=0.5)
    for how in ({}, {"temperature": 0.0}, {"temperature": 2.0}, {"top_k": 2}, {"top_p": 0.5}):
        want = generate(gpt(stop=0.5), group_size=2, **how)
        assert identical(generate(made, group_size=2, **how), want)


def test_records_outlive_the_buffers_they_were_made_with(monkeypatch):
    record_from(0, monkeypatch)
    made = gpt(stop=0.5)
    generate(made)
    before, kept = records(made), slots.slots_of(made, 1, 1, 1)
    want = generate(gpt(stop=0.5), group_size=30)
    assert identical(generate(made, group_size=30), want)
    assert slots.slots_of(made, 1, 1, 1) is not kept
    assert all(map(operator.is_, before, records(made)))


class Asking(model.GPT):
    """What a reader may write: what is computed depends on a number."""

    def forward(self, *given, **more):
        x = super().forward(*given, **more)
        return 2 * x if self.norm.mean() > 1.5 else x


def test_a_step_that_asks_for_a_number_stays_as_it_is(monkeypatch):
    record_from(1, monkeypatch)
    made, texts = Asking(gpt().config), []
    for gain in (1, 2):
        torch.nn.init.constant_(made.norm, gain)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            texts.append(generate(made, PROMPTS[:1]).responses()[0])
        assert texts[-1] == sampling_loop(made, PROMPTS[0], seeds(1, 3)[0], 12, 1.0)
    assert texts[0] != texts[1] and records(made) == [-math.inf]


@pytest.mark.parametrize("kind", [gpt, lambda: Asking(gpt().config)], ids=["GPT", "Asking"])
def test_records_do_not_keep_a_model_alive(kind, monkeypatch):
    record_from(0, monkeypatch)
    made = kind()
    generate(made)
    weights = weakref.ref(made.blocks[0].down)
    del made
    gc.collect()
    assert weights() is None


# --- the log-probs are the model's

@HEADS
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.8])
def test_sampler_logp_equals_training_logp(kv_heads, temperature):
    made = gpt(kv_heads, stop=1.8)
    out = generate(made, group_size=4, temperature=temperature)
    with torch.no_grad():
        trained = made.logp(out.tokens, out.mask, temperature)
        other = made.logp(out.tokens, out.mask, temperature * 1.3)
    assert torch.allclose(out.logp, trained, atol=1e-4)
    assert not torch.allclose(out.logp, other, atol=1e-2)


def test_log_probs_are_fp32_whatever_the_weights_are(monkeypatch):
    made = gpt(stop=1.8).cast(torch.bfloat16)
    out = generate(made, group_size=4)
    monkeypatch.setattr(attention, "SHORT", 0)  # the fused kernel: by plain products they are equal
    with torch.no_grad():
        off = (out.logp - made.logp(out.tokens, out.mask)).abs().sum() / out.mask.sum()
    assert out.logp.dtype == torch.float32 and 0 < off < 0.1


def test_greedy_logp_is_that_of_temperature_one():
    made = gpt()
    out = generate(made, temperature=0)
    with torch.no_grad():
        assert torch.allclose(out.logp, made.logp(out.tokens, out.mask, 1.0), atol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.8])
def test_entropy_is_that_of_the_whole_distribution(temperature):
    made = gpt()
    out = generate(made, temperature=temperature)
    with torch.no_grad():
        logp = (made.lm_head(made(out.tokens[:, :-1])) / temperature).log_softmax(-1)
    want = -(logp.exp() * logp).sum(-1) * out.mask[:, 1:]
    assert torch.allclose(out.entropy[:, 1:], want, atol=1e-3)
    assert not torch.allclose(out.entropy, -out.logp, atol=1e-1)


# --- what a Rollout holds

def test_the_end_of_text_is_marked_and_padding_is_not():
    """Of 80 rows, so that some that have ended still wait to be retired."""
    out = generate(gpt(stop=1.0), group_size=20)
    ended = 0
    for i, prompt in enumerate(p for p in PROMPTS for _ in range(20)):
        row, start = out.tokens[i].tolist(), len(prompt)
        end = start + int(out.mask[i].sum())
        assert row[:start] == prompt
        assert out.mask[i].tolist() == [float(start <= t < end) for t in range(len(row))]
        assert row[end:] == [PAD] * (len(row) - end)
        assert STOP not in row[start:end - 1]
        assert (row[end - 1] != STOP) == bool(out.truncated[i])
        assert end - start == 12 or not out.truncated[i]
        ended += row[end - 1] == STOP
    assert 20 < ended < 80


def test_nothing_is_recorded_outside_the_response():
    out = generate(gpt(stop=1.8), group_size=4)
    for values in (out.logp, out.entropy):
        assert values[out.mask == 0].eq(0).all()
    assert out.logp[out.mask == 1].lt(0).all()


def test_rows_are_in_the_order_of_the_prompts():
    out = generate(gpt(), group_size=3, max_rows=3)
    assert out.group.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for row, group in zip(out.tokens.tolist(), out.group.tolist(), strict=True):
        assert row[:len(PROMPTS[group])] == PROMPTS[group]


def test_no_room_for_the_end_means_truncated():
    out = generate(gpt(stop=-1e4), max_new_tokens=5)
    assert out.truncated.all() and [len(r) for r in out.responses()] == [5] * 4
    out = generate(gpt(stop=1e4), max_new_tokens=1)
    assert not out.truncated.any() and out.responses() == [[STOP]] * 4


def test_the_whole_context_can_be_used():
    assert generate(gpt(stop=-1e4), [[1] * 40], max_new_tokens=8).tokens.shape == (1, 48)


def test_the_whole_context_can_be_used_where_ended_rows_go_on_for_a_while(monkeypatch):
    behave(GPU, monkeypatch)
    assert generate(gpt(stop=-1e4), [[1] * 40], max_new_tokens=8).tokens.shape == (1, 48)


def test_seeds_repeat_and_differ():
    made = gpt()
    first = generate(made, group_size=4)
    assert same(first, generate(made, group_size=4))
    assert first.responses() != generate(made, group_size=4, seed=4).responses()
    assert len({tuple(r) for r in first.responses()}) > 12  # the answers of a group differ


def test_on_token_sees_each_token_of_a_row():
    seen = []
    out = generate(gpt(stop=1.8), [[1, 2]], on_token=seen.append)
    assert [seen] == out.responses()


def test_sampling_leaves_no_graph_and_the_random_state_alone():
    made, before = gpt(), torch.random.get_rng_state()
    assert not generate(made).logp.requires_grad
    assert torch.equal(torch.random.get_rng_state(), before)


# --- draws

def critical(freedom, z=3.72):
    """The chi-square value that chance exceeds once in 10,000 (Wilson and Hilferty)."""
    return freedom * (1 - 2 / (9 * freedom) + z * (2 / (9 * freedom)) ** 0.5) ** 3


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature):
    n, logits = 100_000, torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 1.5, 0.2])
    u = rng.uniform(seeds(n, 11), 4)
    token, logp, _ = rng.sample_tokens(logits.expand(n, -1), u, temperature)
    p = (logits / temperature).softmax(-1)
    counts = torch.bincount(token, minlength=8)
    assert float(((counts - n * p) ** 2 / (n * p)).sum()) < critical(7)
    assert torch.allclose(logp, p.log()[token], atol=1e-5)


@pytest.mark.parametrize("by", ["row", "position", "seed"])
def test_uniform_numbers_are_uniform(by):
    n = 20_000
    if by == "row":
        u = rng.uniform(seeds(n, 0), 3)
    elif by == "position":
        u = torch.cat([rng.uniform(seeds(20, 5), t) for t in range(n // 20)])
    else:
        u = torch.cat([rng.uniform(seeds(4, s), 0) for s in range(n // 4)])
    assert 0 <= float(u.min()) and float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / n) ** 0.5
    assert abs(float(u.var()) - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    counts = torch.histc(u, 50, 0, 1)
    assert float(((counts - n / 50) ** 2 / (n / 50)).sum()) < critical(49)


def test_uniform_numbers_differ_over_positions_and_rows():
    u = torch.stack([rng.uniform(seeds(50, 1), t) for t in range(50)])
    assert len(u.unique()) > 2490
    lag = torch.corrcoef(torch.stack([u[:-1].flatten(), u[1:].flatten()]))[0, 1]
    assert abs(float(lag)) < 0.08


def test_mix_is_splitmix64():
    """What its authors' code gives for the seed 1234567."""
    states = [(1234567 + k * 0x9E3779B97F4A7C15 + 2**63) % 2**64 - 2**63 for k in range(1, 6)]
    assert [x % 2**64 for x in rng.splitmix64(torch.tensor(states)).tolist()] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
        16408922859458223821]


def test_uniform_numbers_are_never_zero_nor_one():
    """mix(0) is 0, so without care a number is 0.0, which draws token 0 however unlikely it is."""
    unmix = torch.tensor([-0x9E3779B97F4A])  # what uniform adds to it is 0
    assert rng.uniform(unmix, 0).tolist() == [2**-24]
    u = rng.uniform(seeds(2**20, 0), 0)
    assert 0 < float(u.min()) < 1e-5 and 1 - 1e-5 < float(u.max()) < 1


def test_the_ends_of_the_unit_interval_draw_tokens_that_exist():
    logits = torch.tensor([[-200.0, 0.0, 1.0, -200.0]]).expand(2, -1)
    token, _, _ = rng.sample_tokens(logits, torch.tensor([0.0, 1 - 2**-24]), 1.0)
    assert token.tolist() == [1, 2]


@pytest.mark.parametrize("how", [(1.0,), (0.3,), (0,), (1.0, 3), (1.0, 0, 0.8)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 8.0, 40.0])
def test_rows_that_share_their_logits_draw_as_if_each_had_its_own(how, scale):
    g = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(700, 50, generator=g)
    slot = torch.randint(0, 700, (4000,), generator=g)
    u = rng.uniform(seeds(4000, 1), 0)
    u[:500], u[500:1000] = 2**-24, 1 - 2**-24
    shared = rng.sample_tokens(logits, u, *how, slot=slot)
    for a, b in zip(shared, rng.sample_tokens(logits[slot], u, *how), strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize("slot", [None, torch.tensor([0])])
def test_probabilities_that_sum_to_less_than_one_draw_no_impossible_token(slot):
    short = 0
    for n in range(50, 150):  # likely tokens; whether their sum is below 1 is a matter of rounding
        logits = torch.cat((torch.zeros(1, n), torch.full((1, 6), -1e4)), 1)
        short += bool(logits.log_softmax(-1).exp().cumsum(-1)[0, -1] < 1 - 2**-24)
        token, logp, _ = rng.sample_tokens(logits, torch.tensor([1 - 2**-24]), 1.0, slot=slot)
        assert token < n and logp > -10
    assert short


def test_a_sum_that_rounds_above_one_does_not_reach_the_next_row():
    """2048 probabilities of 1 / 2048 and a little: their sum in fp32 is not 1."""
    p = torch.full((3, 2048), 1 / 2048)
    p[1] += 3e-10
    slot, u = torch.tensor([0, 1, 2, 1]), torch.tensor([0.0, 1 - 2**-24, 0.0, 0.0])
    assert rng.inverse_cdf(p.cumsum(-1), u, slot).tolist() == [0, 2047, 0, 0]
    assert p[1].cumsum(-1)[-1] > 1


def test_draw_is_greedy_at_temperature_zero():
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    token, logp, _ = rng.sample_tokens(logits, torch.tensor([0.0, 0.99]), 0)
    assert token.tolist() == [1, 0]
    assert torch.allclose(logp, logits.log_softmax(-1).amax(-1))


@pytest.mark.parametrize("logits, entropy", [([0.0] * 8, 2.0794415), ([50.0, 0.0, 0.0], 0.0)])
def test_entropy_of_known_distributions(logits, entropy):
    found = rng.sample_tokens(torch.tensor([logits]), torch.tensor([0.5]), 1.0)[2]
    assert float(found) == pytest.approx(entropy, abs=1e-5)


@pytest.mark.parametrize("top_k, top_p, kept", [(0, 1.0, 4), (2, 1.0, 2), (1, 1.0, 1), (0, 0.5, 1),
                                                (0, 0.65, 2), (0, 0.97, 4), (3, 0.8, 2)])
def test_top_k_and_top_p_keep_the_likeliest_and_renormalise(top_k, top_p, kept):
    """p = .6 .25 .1 .05, in another order; top_p counts shares of what top_k has left."""
    p = torch.tensor([0.1, 0.6, 0.05, 0.25])
    n = 20_000
    u = rng.uniform(seeds(n, 1), 0)
    token, logp, entropy = rng.sample_tokens(p.log().expand(n, -1), u, 1.0, top_k, top_p)
    q = torch.zeros(4)
    chosen = [1, 3, 0, 2][:kept]
    q[chosen] = p[chosen] / p[chosen].sum()
    assert sorted(token.unique().tolist()) == sorted(chosen)
    assert torch.allclose(torch.bincount(token, minlength=4) / n, q, atol=0.02)
    assert torch.allclose(logp, q.log()[token], atol=1e-5)
    assert torch.allclose(entropy, torch.special.entr(q).sum().expand(n), atol=1e-5)


def test_top_p_counts_shares_of_the_tempered_distribution():
    """p = .6 .25 .1 .05 at temperature 2: at temperature 1 the first alone would hold .83."""
    p = torch.tensor([0.1, 0.6, 0.05, 0.25])
    n = 2000
    u = rng.uniform(seeds(n, 1), 0)
    token, logp, _ = rng.sample_tokens(2 * p.log().expand(n, -1), u, 2.0, 0, 0.65)
    assert set(token.tolist()) == {1, 3}
    assert torch.allclose(logp, (p / 0.85).log()[token], atol=1e-5)


def test_top_p_counts_shares_of_what_top_k_left():
    """Of .6 .25 .1, .87 is less than the first two hold; of all four it is more."""
    p = torch.tensor([0.1, 0.6, 0.05, 0.25])
    u = rng.uniform(seeds(2000, 1), 0)
    token, _, _ = rng.sample_tokens(p.log().expand(2000, -1), u, 1.0, 3, 0.87)
    assert set(token.tolist()) == {1, 3}


# --- bad input

@pytest.mark.parametrize("change", [
    dict(prompts=[]), dict(prompts=[[]]), dict(prompts=[[1], []]), dict(prompts=[[1] * 40]),
    dict(prompts=[[30]]), dict(prompts=[[-1]]), dict(temperature=-0.1), dict(group_size=0),
    dict(temperature=float("nan")), dict(temperature=float("inf")),
    dict(max_new_tokens=0), dict(max_new_tokens=48), dict(top_p=0.0), dict(top_k=-1),
    dict(prefixes=[[1] * 40, [], [], []])], ids=str)
def test_bad_input_is_a_clear_error(change):
    with pytest.raises(ValueError, match="[a-z]{3}"):
        generate(gpt(), **change)
