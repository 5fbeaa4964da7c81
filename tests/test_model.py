"""model.py: what attention may see, what the log-probs are of, and checkpoints that stay whole."""

import math
import os
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import model
import sample
from engine import attention, logprob, packing, slots
from infra import tensors
from tokenizer import Tokenizer

CONFIG = model.Config(30, context=40, layers=2, width=32, heads=4, kv_heads=2, hidden=48)
HEADS = pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["MHA", "GQA", "MQA"])


def gpt(**changes):
    """A small model whose distributions are far from uniform, so that mistakes show."""
    torch.manual_seed(0)
    made = model.GPT(replace(CONFIG, **changes))
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(6 if p.dim() == 2 else 1)
    return made


def tokens(n=3, t=10, seed=1):
    return torch.randint(0, 30, (n, t), generator=torch.Generator().manual_seed(seed))


def logp_loop(made, ids, mask, temperature):
    """The definition: token t from the logits after tokens 0..t-1, one prefix at a time."""
    out = torch.zeros(len(ids), ids.shape[1])
    for i, row in enumerate(ids):
        for t in range(1, len(row)):
            if mask[i, t]:
                logits = made.lm_head(made(row[None, :t]))[0, -1] / temperature
                out[i, t] = logits.log_softmax(-1)[row[t]]
    return out


# --- log-probs

@HEADS
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_logp_scores_each_token_from_those_before_it(kv_heads, temperature):
    made, ids = gpt(kv_heads=kv_heads), tokens()
    mask = torch.tensor([[0, 0, 1, 1, 1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
                         [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]).float()
    with torch.no_grad():
        found = made.logp(ids, mask, temperature)
        assert torch.allclose(found, logp_loop(made, ids, mask, temperature), atol=1e-4)
    assert found[mask == 0].eq(0).all() and found[mask == 1].lt(0).all()


def test_the_last_marked_token_has_a_gradient():
    """It is the end of text: left out, a model never learns to stop."""
    made, ids = gpt(tied=False), tokens(1, 6)
    ids[0, -1] = 29
    mask = torch.tensor([[0, 0, 0, 0, 0, 1.0]])
    made.logp(ids, mask).sum().backward()
    assert made.lm_head.weight.grad[29].abs().sum() > 0


def test_unmarked_tokens_have_no_gradient():
    made, ids = gpt(), tokens()
    made.logp(ids, torch.zeros_like(ids).float()).sum().backward()
    assert all(p.grad is None or p.grad.eq(0).all() for p in made.parameters())


def test_padding_does_not_change_what_comes_before_it():
    made, ids = gpt(), tokens(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1.0]] * 2)
    longer = F.pad(ids, (0, 4), value=7)
    with torch.no_grad():
        found = made.logp(longer, F.pad(mask, (0, 4)))
        assert torch.allclose(found[:, :6], made.logp(ids, mask), atol=1e-5)


# --- the parts

@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e-2, 1.0])
def test_rms_norm_is_x_over_its_root_mean_square(scale):
    g = torch.Generator().manual_seed(0)
    x, gain = scale * torch.randn(5, 32, generator=g), torch.rand(32, generator=g)
    found = []
    for norm in (lambda x, gain: model.rms_norm(x, gain, 32, 1e-5),
                 lambda x, gain: x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * gain):
        a, b = x.clone().requires_grad_(), gain.clone().requires_grad_()
        y = norm(a, b)
        found.append((y.detach(), *torch.autograd.grad(y.pow(3).sum() + y.sum(), (a, b))))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("t", [3, attention.SHORT + 1], ids=["plain", "fused"])
def test_attention_is_a_softmax_of_scaled_products(t):
    """Two heads share one key head: their queries are further rows."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 1, 2 * t, 8, generator=generator)
    k, v = torch.randn(2, 2, 1, t, 8, generator=generator)
    mask = torch.ones(t, t).tril().log().repeat(2, 1)[None, None]             # 0 or -inf
    for hidden in (mask, None):
        scores = (q @ k.transpose(2, 3)) / 8**0.5 + (0 if hidden is None else hidden)
        want = scores.exp() / scores.exp().sum(-1, keepdim=True) @ v
        found = attention.attend(q, k, v, hidden, 8, t)
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("t", [1, 3])
def test_sharp_attention_under_a_mask(t):
    g = torch.Generator().manual_seed(0)
    q, k, v = (20 * torch.randn(2, 2, n, 8, generator=g) for n in (t, 5, 5))
    mask = torch.zeros(2, 1, t, 5)
    mask[1, :, :, :3] = -torch.inf
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert torch.allclose(attention.attend(q, k, v, mask, 8, t), want, rtol=1e-4, atol=1e-3)


def turned(x, position):
    made = gpt()
    return model.rotate(x, *made.rope_cache[position], x.shape[-1])


@pytest.mark.parametrize("a, b", [(0, 3), (5, 8), (34, 37), (7, 7), (30, 2)])
def test_rotary_scores_depend_on_the_distance_only(a, b):
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 8, generator=g) for _ in range(2))
    score = (turned(q, a) * turned(k, b)).sum()
    assert torch.allclose(score, (turned(q, a + 2) * turned(k, b + 2)).sum(), atol=1e-4)
    farther = (turned(q, a) * turned(k, b + 1)).sum()
    assert not torch.allclose(score, farther, atol=1e-3)


@pytest.mark.parametrize("i, rate", [(0, 1.0), (1, 0.1), (3, 0.001)])
def test_a_pair_is_turned_as_in_llama(i, rate):
    x = torch.zeros(1, 1, 8)
    x[0, 0, i] = 1
    want = torch.zeros(1, 1, 8)
    want[0, 0, i], want[0, 0, i + 4] = math.cos(5 * rate), math.sin(5 * rate)
    assert torch.allclose(turned(x, 5), want, atol=1e-6)


def test_rotation_keeps_lengths_and_position_zero_is_none():
    x = torch.randn(2, 3, 1, 8)
    assert torch.allclose(turned(x, 17).norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.equal(turned(x, 0), x)


@HEADS
def test_shifted_positions_change_nothing(kv_heads):
    made, ids = gpt(kv_heads=kv_heads), tokens()
    with torch.no_grad():
        shifted = made(ids, attention.Causal(3, 10, start=20))
        assert torch.allclose(shifted, made(ids), atol=1e-3)


@HEADS
def test_a_token_sees_no_later_one(kv_heads):
    made, ids = gpt(kv_heads=kv_heads), tokens()
    other = ids.clone()
    other[:, 6] = (other[:, 6] + 1) % 30
    with torch.no_grad():
        a, b = made(ids), made(other)
    assert torch.allclose(a[:, :6], b[:, :6], atol=1e-5)
    assert ((a[:, 6:] - b[:, 6:]).abs().amax(-1) > 1e-3).all()  # each later one sees the change


def test_what_writes_into_the_residual_stream_starts_smaller():
    torch.manual_seed(0)
    made = model.GPT(model.Config(300, layers=8))
    for name, weight in made.named_parameters():
        if weight.dim() == 2:
            want = 0.02 / 4 if name.endswith(("out", "down")) else 0.02
            assert float(weight.detach().std()) == pytest.approx(want, rel=0.02), name
        else:
            assert weight.eq(1).all(), name


@HEADS
def test_grouped_heads_share_their_keys(kv_heads):
    """GQA equals multi-head attention whose key and value heads are written out several times."""
    made, full = gpt(kv_heads=kv_heads), gpt(kv_heads=4)
    state = made.state_dict()
    for name in [n for n in state if n.endswith("qkv")]:
        q, k, v = state[name].view(32, -1, 8).split((4, kv_heads, kv_heads), 1)
        parts = (q, k.repeat_interleave(4 // kv_heads, 1), v.repeat_interleave(4 // kv_heads, 1))
        state[name] = torch.cat(parts, 1).flatten(1)
    full.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(made(tokens()), full(tokens()), atol=1e-4)


@HEADS
def test_leaving_out_padding_changes_nothing(kv_heads):
    """Neither the hidden states of what is real nor their gradients, whatever the padding holds."""
    made, ids = gpt(kv_heads=kv_heads), tokens()
    real = torch.arange(10) < torch.tensor([[10], [4], [7]])
    grads = []
    for found in (made(ids)[real], made.packed(ids, real), made.packed(ids.where(real, 0), real)):
        made.zero_grad()
        (found * torch.arange(1.0, found.numel() + 1).view_as(found).sin()).sum().backward()
        grads.append([found.detach()] + [p.grad for p in made.parameters() if p.grad is not None])
    for other in grads[1:]:
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(grads[0], other, strict=True))


def counted(made) -> list:
    """How many tokens each call of the model computes, as it comes."""
    counts = []
    made.blocks[0].register_forward_hook(lambda _, given, __: counts.append(len(given[0])))
    return counts


def beginnings(ids, real) -> set:
    """All different beginnings of the rows, by a loop."""
    return {tuple(row[:k + 1]) for row, n in zip(ids.tolist(), real.sum(1).tolist(), strict=True)
            for k in range(n)}


@given(st.integers(1, 6), st.lists(st.integers(0, 10), min_size=1, max_size=9), st.integers(0, 99))
def test_what_rows_begin_with_alike_is_computed_once(letters, lengths, seed):
    """In any order and with any padding: states and gradients are those of each row alone, and as
    many tokens are computed as there are different beginnings."""
    ids = tokens(len(lengths), 10, seed) % letters
    real = torch.arange(10) < torch.tensor(lengths)[:, None]
    made, found = gpt(), []
    counts = counted(made)
    for states in (made(ids)[real], made.packed(ids, real)):
        made.zero_grad()
        (states * torch.arange(1.0, states.numel() + 1).view_as(states).sin()).sum().backward()
        found.append((states, torch.cat([p.grad.flatten() for p in made.parameters()
                                         if p.grad is not None])))
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().sum() <= 1e-4 * one.abs().sum()
    padding = 0 in lengths  # attention wants a token of an empty row
    assert counts == [10 * len(lengths), len(beginnings(ids, real)) + padding]


def test_alike_answers_cost_an_update_one():
    """Sixteen answers that part after 9 of 12 tokens: 9 + 16 * 3 less those that go on alike."""
    made = gpt()
    counts = counted(made)
    ids = torch.cat((tokens(1, 9).expand(16, 9), tokens(16, 3, seed=2)), 1)
    mask = (torch.arange(12) >= 4).float().expand(16, 12)
    loss = made.logp(ids, mask).sum().detach()
    alone = sum(made.logp(ids[i:i + 1], mask[i:i + 1]).sum().detach() for i in range(16))
    assert float(loss) == pytest.approx(float(alone), abs=1e-2)
    assert counts[0] == len(beginnings(ids[:, :-1], torch.ones(16, 11).long())) < 9 + 32
    assert counts[1:] == [11] * 16  # the last token of a row is never read


def test_what_comes_after_the_last_marked_token_is_not_computed():
    made, ids = gpt(), tokens()
    counts = counted(made)
    mask = torch.zeros(3, 10)
    mask[0, 3], mask[1, 4:7], mask[2, 2] = 1, 1, 1
    made.hidden_states(ids, mask)
    real = torch.arange(9) < torch.tensor([[3], [6], [2]])
    assert counts == [len(beginnings(ids[:, :-1], real))]


def continued(made, ids, first=4):
    """Hidden states of the tokens after the first ones, which a cache holds."""
    n, t = ids.shape
    cache = slots.SlotCache(made.config, n, t)
    with torch.no_grad():
        made(ids[:, :first], cache.columns(n, first, first))
        return made(ids[:, first:], cache.columns(n, t, t - first))


@HEADS
def test_attention_of_short_rows_equals_that_of_long_ones(kv_heads, monkeypatch):
    """Plain products and the fused kernel: causal, forward and back, and after a cache."""
    made, ids = gpt(kv_heads=kv_heads), tokens(t=12)
    found = []
    for short in (0, 128):
        monkeypatch.setattr(attention, "SHORT", short)
        hidden = made(ids)
        gradients = torch.autograd.grad(hidden.pow(3).sum(), list(made.blocks.parameters()))
        found.append((hidden, continued(made, ids), *gradients))
    assert len(found[0]) > 6
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


@HEADS
def test_what_the_fused_kernel_gives_may_lie_as_on_cuda(kv_heads, monkeypatch):
    """In memory it is (N, T, heads, d) there, and cannot be viewed as rows that share a head."""
    made, ids, fused = gpt(kv_heads=kv_heads), tokens(), F.scaled_dot_product_attention
    monkeypatch.setattr(attention, "SHORT", 0)
    want = torch.cat((made(ids), continued(made, ids)), 1)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **how: fused(
        *args, **how).transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(torch.cat((made(ids), continued(made, ids)), 1), want)


def test_numbers_too_small_to_matter_are_none():
    """They would slow attention down."""
    assert not (torch.full((100,), 1e-40) * 1).any()


@HEADS
def test_cached_equals_uncached(kv_heads):
    """Token by token with the plain cache, and several tokens at once after a filled one."""
    made, ids = gpt(kv_heads=kv_heads), tokens()
    cache, parts = sample.KVCache(made.config, 3, 10), []
    with torch.no_grad():
        want = made(ids)
        for first, last in ((0, 4), *((t, t + 1) for t in range(4, 10))):
            parts.append(made(ids[:, first:last], cache.next_tokens(last - first)))
            cache.lengths = cache.lengths + last - first
        assert torch.allclose(torch.cat(parts, 1), want, atol=1e-4)
        assert torch.allclose(continued(made, ids), want[:, 4:], atol=1e-4)


# --- head and sizes

def test_a_tied_head_is_the_embedding():
    tied, untied = gpt(), gpt(tied=False)
    assert tied.lm_head.weight is tied.embedding.weight
    assert untied.lm_head.weight is not untied.embedding.weight
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert count(untied) - count(tied) == 30 * 32


@pytest.mark.parametrize("size, low, high", [("nano", 100_000, 200_000),
                                             ("tiny", 500_000, 2_000_000),
                                             ("small", 10_000_000, 30_000_000)])
def test_sizes(size, low, high):
    with torch.device("meta"):
        made = model.GPT(model.Config(Tokenizer.toy().n_vocab, **model.SIZES[size]))
    assert low < sum(p.numel() for p in made.parameters()) < high


# --- micro-batches

@pytest.mark.parametrize("limit", [1, 10, 25, 64, 1000])
def test_micro_batches_are_a_partition_within_the_budget(limit):
    lengths = [5, 9, 1, 9, 30, 2, 2, 7, 8, 1]
    cut = packing.micro_batches(lengths, limit)
    assert sorted(i for part in cut for i in part) == list(range(10))
    for part in cut:
        assert len(part) == 1 or len(part) * max(lengths[i] for i in part) <= limit


def test_micro_batches_hold_as_much_as_the_budget_allows():
    assert len(packing.micro_batches([4] * 8, 16)) == 2
    assert packing.micro_batches([], 10) == []
    assert packing.micro_batches([1, 9, 9, 1], 18) == [[1, 2], [0, 3]]


def test_a_micro_batch_is_as_wide_as_its_own_longest_row():
    assert packing.micro_batches([8, 2, 2, 2, 2], 8) == [[0], [1, 2, 3, 4]]


def test_place_leaves_the_first_column_and_gaps_alone():
    mask = torch.tensor([[1.0, 0, 1, 0, 1], [0, 1, 0, 0, 1]])
    found = packing.scatter_to_mask(torch.tensor([1.0, 2, 3, 4]), mask)
    assert found.tolist() == [[0, 0, 1, 0, 2], [0, 3, 0, 0, 4]]


# --- checkpoints

@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_from_its_file(tmp_path, tied):
    made = gpt(tied=tied)
    tensors.save(tmp_path / "a.pt", model.to_state(made))
    back = model.from_state(tensors.load(tmp_path / "a.pt"))
    assert back.config == made.config and (back.lm_head.weight is back.embedding.weight) == tied
    assert torch.equal(back(tokens()), made(tokens()))
    assert os.listdir(tmp_path) == ["a.pt"]


def test_other_precision_leaves_the_angles_alone():
    made, ids = gpt(), tokens()
    with torch.no_grad():
        want = made(ids)
        found = made.cast(torch.bfloat16)(ids)
    assert made.rope_cache.dtype == torch.float32 and found.dtype == torch.bfloat16
    assert (found - want).abs().mean() < 0.05 * want.abs().mean()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_under_autocast_the_residual_stream_stays_in_fp32(checkpointing):
    """Else each block would round it to 8 bits; products are rounded, so results are only near."""
    made, ids, streams, products = gpt(), tokens(), [], []
    made.checkpointing = checkpointing
    for block in made.blocks:
        block.register_forward_hook(lambda _, __, x: streams.append(x.dtype))
        block.attention.register_forward_hook(lambda _, __, y: products.append(y.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found = made(ids)
    assert set(streams) == {torch.float32} == {found.dtype} and set(products) == {torch.bfloat16}
    want = made(ids)
    assert 1e-5 < (found - want).abs().max() < 0.05 * want.abs().max()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_entropy_is_that_of_what_a_token_was_drawn_from(temperature):
    made, ids, mask = gpt(), tokens(), torch.ones(3, 10)
    mask[:, :2] = mask[1, 7:] = 0
    _, found = made.logprobs(ids, mask, temperature)
    chances = (made.lm_head(made(ids))[:, :-1] / temperature).softmax(-1)
    want = F.pad(torch.special.entr(chances).sum(-1), (1, 0)) * mask
    assert torch.allclose(found, want, atol=1e-4) and want.max() > 0.5


def test_the_entropy_has_a_gradient():
    made, found = gpt(), []
    states, chosen = torch.randn(4, 32), torch.tensor([1, 2, 3, 4])
    logits = made.lm_head(states) / 0.7
    for entropy in (made.logprobs_of(states, chosen, 0.7, True)[1],
                    torch.special.entr(logits.softmax(-1)).sum(-1)):
        found.append(torch.autograd.grad(entropy.sum(), made.lm_head.weight)[0])
    assert found[1].abs().max() > 1e-2 and torch.allclose(*found, atol=1e-4)


def test_unlikely_tokens_have_finite_log_probs_and_gradients():
    made = gpt(tied=False)
    torch.nn.init.zeros_(made.lm_head.weight)
    made.lm_head.bias = torch.nn.Parameter(torch.zeros(30))
    made.lm_head.bias.data[0] = 200.0
    logp, entropy = made.logprobs_of(torch.ones(2, 32), torch.tensor([0, 1]), 1.0, True)
    assert logp.tolist() == pytest.approx([0.0, -200.0]) and entropy.tolist() == [0, 0]
    assert torch.autograd.grad(logp.sum(), made.lm_head.bias)[0].isfinite().all()


def test_log_probs_of_a_bfloat16_model_are_fp32():
    made = gpt().cast(torch.bfloat16)
    states, chosen = torch.randn(64, 32).bfloat16(), torch.arange(64) % 30
    with torch.no_grad():
        logp, entropy = made.logprobs_of(states, chosen, 0.7, True)
        logits = states.float() @ made.lm_head.weight.float().T
        want = (logits / 0.7).log_softmax(-1).gather(1, chosen[:, None])[:, 0]
    assert logp.dtype == entropy.dtype == torch.float32 and torch.allclose(logp, want, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_by_parts_and_checkpointed_blocks_are_the_same(monkeypatch, temperature):
    made, ids, mask = gpt(), tokens(3, 12), torch.ones(3, 12)
    mask[:, :4] = mask[1, 9:] = 0

    def found():
        made.zero_grad()
        logp, entropy = made.logprobs(ids, mask, temperature)
        (logp.sum() + entropy.sum()).backward()
        return [logp.detach(), entropy.detach(), *(p.grad.clone() for p in made.parameters())]
    want = found()
    largest = []
    measure = logprob.token_logprobs
    monkeypatch.setattr(logprob, "token_logprobs", lambda logits, *rest: (
        largest.append(len(logits)), measure(logits, *rest))[1])
    monkeypatch.setitem(model.MAX_LOGITS, "cpu", 5 * 30)
    made.checkpointing = True
    for a, b in zip(found(), want, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert max(largest) == 5
