"""engine/: each kernel computes what its plain form does, and so does the sampler on all of them.
Triton's interpreter runs them on the CPU; bench/gpu.py checks them on a GPU."""

import pytest
import torch
import torch.nn.functional as F

import model
import tokenizer
from engine import graphs, kernels, logprob, rng, sampler, slots

needs_triton = pytest.mark.skipif(kernels.triton is None, reason="needs triton")
# the interpreter multiplies the bits of bfloat16, so float16 stands for it here
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setattr(kernels, "INTERPRETED", True)


def test_kernels_are_for_devices_and_moments_that_can_use_them(interpreted):
    x = torch.ones(1)
    assert not kernels.usable(x)  # a gradient may be wanted
    with torch.no_grad():
        assert kernels.usable(x) == (kernels.triton is not None)
        kernels.INTERPRETED = False
        assert not kernels.usable(x)


# --- each kernel

@needs_triton
@DTYPES
@pytest.mark.parametrize("heads, kv_heads, d, capacity", [
    (9, 3, 64, 200), (14, 2, 64, 70), (4, 4, 24, 130), (8, 1, 80, 40), (4, 2, 8, 5)])
def test_attend_rotates_appends_and_attends(dtype, heads, kv_heads, d, capacity):
    torch.manual_seed(0)
    n, group = 5, heads // kv_heads
    lengths = torch.tensor([0, 1, capacity - 1, capacity // 2, min(64, capacity - 1)])
    q, k, v = torch.randn(n, heads + 2 * kv_heads, d).to(dtype).split((heads, kv_heads, kv_heads),
                                                                      dim=1)
    cos, sin = torch.randn(n, 2, d).split(1, dim=1)
    keys, values = torch.randn(2, n, kv_heads, capacity, d).to(dtype)
    want_keys, want_values = keys.clone(), values.clone()
    hidden = torch.arange(capacity) > lengths[:, None]
    keys[hidden[:, None].expand(-1, kv_heads, -1)] = 1e4  # what stands behind is not read
    with torch.no_grad():
        out = kernels.decode_attention(q, k, v, cos, sin, keys, values, lengths)

    row = torch.arange(n)
    turned = [model.rotate(x, cos, sin, d).to(dtype) for x in (q, k)]
    want_keys[row, :, lengths], want_values[row, :, lengths] = turned[1], v
    scores = (turned[0].view(n, kv_heads, group, d).float() @ want_keys.float().mT) * d**-0.5
    chances = scores.masked_fill(hidden[:, None, None], -torch.inf).softmax(-1)
    want = (chances @ want_values.float()).flatten(1)
    close = dict(atol=1e-5, rtol=1e-5) if dtype == torch.float32 else dict(atol=3e-2, rtol=2e-2)
    torch.testing.assert_close(out.float(), want, **close)
    seen = ~hidden[:, None].expand(-1, kv_heads, -1)
    torch.testing.assert_close(keys[seen].float(), want_keys[seen].float(), **close)
    assert torch.equal(values, want_values)
    assert out.dtype == dtype


@needs_triton
@DTYPES
@pytest.mark.parametrize("d", [32, 100, 576])
def test_rms_norm_and_swiglu(dtype, d, interpreted):
    torch.manual_seed(0)
    x, gain, gate_up = 3 * torch.randn(4, d), torch.randn(d), 4 * torch.randn(4, 2 * d).to(dtype)
    with torch.no_grad():
        norm, gated = model.rms_norm(x, gain, d, 1e-5, dtype), model.swiglu(gate_up)
    assert norm.dtype == gated.dtype == dtype
    gate, up = gate_up.chunk(2, -1)
    torch.testing.assert_close(norm, F.rms_norm(x, (d,), gain, 1e-5).to(dtype))
    heads, gains = torch.randn(4, 5, d).to(dtype)[:, :3], torch.randn(3, d)  # rows stand apart
    with torch.no_grad():
        norm = model.rms_norm(heads, gains, d, 1e-5, dtype)
    want = F.rms_norm(heads.float(), (d,), None, 1e-5) * gains
    torch.testing.assert_close(norm, want.to(dtype), rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(gated, F.silu(gate) * up, rtol=2e-3, atol=1e-4)


@needs_triton
@pytest.mark.parametrize("vocab, temperature", [(30, 1.0), (4096, 0.6), (10_000, 0.6)])
def test_draw_draws_what_the_plain_form_draws(vocab, temperature, interpreted):
    torch.manual_seed(0)
    logits, u = 3 * torch.randn(24, vocab), torch.rand(24)
    want = rng.sample_tokens(logits, u, temperature)
    with torch.no_grad():
        found = rng.sample_tokens(logits, u, temperature)
    assert (found[0] == want[0]).float().mean() > 0.98 and found[0].dtype == torch.int64
    same = found[0] == want[0]
    torch.testing.assert_close(found[1][same], want[1][same], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[2], want[2], atol=1e-5, rtol=1e-5)
    every = (logits / temperature).log_softmax(-1)
    torch.testing.assert_close(found[1], every.gather(1, found[0][:, None])[:, 0])


@needs_triton
def test_the_ends_of_the_unit_interval_draw_tokens_that_exist(interpreted):
    logits = torch.full((3, 5000), -300.0)
    logits[:, 100] = logits[:, 4500] = 0.0
    with torch.no_grad():
        token, logp, _ = rng.sample_tokens(logits, torch.tensor([2**-24, 1 - 2**-24, 1.0]), 1.0)
    assert token[:2].tolist() == [100, 4500] and token[2] in (100, 4500)
    assert logp.tolist() == pytest.approx([-0.6931] * 3, abs=1e-4)


# --- log-probs without kept logits

def plain(states, weight, bias, chosen, temperature):
    logits = F.linear(states, weight, bias) / temperature
    every = logits.log_softmax(-1)
    return every.gather(1, chosen[:, None])[:, 0], torch.special.entr(every.exp()).sum(-1)


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=needs_triton)])
@pytest.mark.parametrize("rows", [1000, 5])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("entropy", [False, True])
def test_log_probs_without_logits_have_the_plain_gradient(fast, rows, has_bias, temperature,
                                                          entropy, monkeypatch):
    monkeypatch.setattr(kernels, "INTERPRETED", fast)
    monkeypatch.setitem(logprob.MAX_LOGITS, "cpu", 70 * rows)
    torch.manual_seed(0)
    leaves = [torch.randn(13, 16), 2 * torch.randn(70, 16)] + [torch.randn(70)] * has_bias
    chosen, weight_of = torch.randint(0, 70, (13,)), torch.randn(2, 13)
    results = []
    for form in (plain, lambda *x: logprob.ChosenLogp.apply(*x, entropy, torch.float32)):
        given = [x.clone().requires_grad_() for x in leaves]
        logp, found = form(*given, *[None] * (not has_bias), chosen, temperature)
        loss = (weight_of[0] * logp).sum() + (weight_of[1] * found).sum() * entropy
        results.append([logp.detach(), found.detach() * entropy, *torch.autograd.grad(loss, given)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-4)


def test_log_probs_of_bfloat16_factors_are_sums_in_fp32():
    """A product whose result is rounded to bfloat16 has errors of up to 1/256 of a logit."""
    torch.manual_seed(0)
    states, weight = torch.randn(50, 64), torch.randn(300, 64)
    chosen = torch.arange(50)
    exact = plain(states.bfloat16().float(), weight.bfloat16().float(), None, chosen, 1.0)[0]
    found, _ = logprob.ChosenLogp.apply(states, weight, None, chosen, 1.0, False, torch.bfloat16)
    rounded = plain(states.bfloat16(), weight.bfloat16(), None, chosen, 1.0)[0].float()
    assert (found - exact).abs().max() < 1e-4 < 1e-2 < (rounded - exact).abs().max()


# --- the sampler on all of them

STOP, PAD = 28, 29


@needs_triton
@pytest.mark.parametrize("kind, dtype", [
    ({}, torch.float16), ({"qkv_bias": True, "qk_norm": True}, torch.float32),
    ({"head_dim": 24}, torch.float32)], ids=str)
def test_the_sampler_draws_the_same_with_kernels(kind, dtype, monkeypatch):
    """As on a GPU: ragged prompts, more rows than places, stop strings, steps that are replayed on
    the tensors they were captured with."""
    torch.manual_seed(0)
    made = model.GPT(model.Config(30, context=64, layers=1, width=16, heads=4, kv_heads=2,
                                  hidden=24, tied=False, **kind))
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(8 if weight.dim() == 2 else 1)
    made.cast(dtype)
    table = tokenizer.stop_table([bytes([97 + i]) for i in range(30)], ["ab", "c"])

    def generate():
        return sampler.generate(made, [[1, 2, 3, 4, 5, 6], [7]], 3, 6, 1.0, 3, stop=STOP, pad=PAD,
                               max_rows=4, stop_table=table)
    want = generate()
    slots.release_slots(made)
    monkeypatch.setattr(kernels, "INTERPRETED", True)
    config = slots.DECODE_CONFIGS["cuda"]._replace(check_every=2)
    monkeypatch.setitem(slots.DECODE_CONFIGS, "cpu", config)
    monkeypatch.setitem(graphs.WARMUP_STEPS, "cpu", 1)
    monkeypatch.setattr(graphs, "capture", lambda step, model, batch, view, how: (
        step(model, view, how), lambda *_: step(model, view, how))[1])
    found = generate()
    if dtype == torch.float32:
        assert found.responses() == want.responses()
        torch.testing.assert_close(found.logp, want.logp, atol=1e-4, rtol=1e-4)
    assert len({len(ids) for ids in found.responses()}) > 1
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with torch.no_grad():
        off = (made.logp(found.tokens, found.mask) - found.logp).abs().sum() / found.mask.sum()
    assert off < (1e-5 if dtype == torch.float32 else 0.01)
