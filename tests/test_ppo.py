"""ppo.py against loops over Python floats: surrogate, clip, KL, weights, cuts of a batch."""

import math
import random
from types import SimpleNamespace

import pytest
import torch

import ppo

RATIOS = [0.3, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0]
OLD = -1.5


def options(**changes):
    return SimpleNamespace(**dict(clip_low=0.2, clip_high=0.2, kl_coef=0.0, kl="k3", epochs=1,
                                  minibatches=1, aggregate="token", max_new_tokens=10) | changes)


def random_batch(n=7, t=9, seed=0):
    """Rows with a prompt of one to three tokens, a response, then padding."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.zeros(n, t)
    for i in range(n):
        start = 1 + i % 3
        mask[i, start:start + 1 + (i * 2) % (t - 3)] = 1
    make = lambda: torch.randn(n, t, generator=g) * mask  # noqa: E731
    return ppo.Batch(torch.arange(n * t).view(n, t), mask, make() - 2, make(), mask / mask.sum(),
                     make() - 2)


def value_and_grad(f, logp):
    x = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    y = f(x)
    y.backward()
    return y.item(), x.grad.item()


# --- the surrogate

def surrogate_loop(ratio, advantage, low, high):
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("advantage", [2.0, -2.0, 0.0])
@pytest.mark.parametrize("low, high", [(0.2, 0.2), (0.2, 0.28), (0.5, 0.1)])
def test_surrogate_value_and_gradient(ratio, advantage, low, high):
    f = lambda x: ppo.surrogate(x, torch.tensor(OLD), torch.tensor(advantage), low, high)  # noqa: E731
    value, grad = value_and_grad(f, OLD + math.log(ratio))
    assert value == pytest.approx(surrogate_loop(ratio, advantage, low, high), abs=1e-6)
    cut = ratio > 1 + high if advantage > 0 else ratio < 1 - low
    assert grad == pytest.approx(0.0 if cut else -ratio * advantage, abs=1e-6)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("advantage", [2.0, -2.0, 0.0])
def test_clipped_is_where_the_gradient_is_gone(ratio, advantage):
    """Above counts only with a positive advantage, below only with a negative one."""
    terms = torch.tensor(OLD + math.log(ratio)), torch.tensor(OLD), torch.tensor(advantage)
    low, high = ppo.clipped(*terms)
    assert bool(high) == (ratio > 1.2 and advantage > 0)
    assert bool(low) == (ratio < 0.8 and advantage < 0)


def test_clip_fractions_count_marked_tokens_only():
    batch = random_batch()
    logp = batch.old_logp + 1.0  # every ratio is e
    _, sums = ppo.policy_loss(logp, batch, options())
    positive = sum(a > 0 and m > 0 for a, m in
                   zip(batch.advantages.flatten(), batch.mask.flatten(), strict=True))
    assert sums["clipfrac_high"] == positive and sums["clipfrac_low"] == 0
    assert sums["tokens"] == batch.mask.sum()
    _, sums = ppo.policy_loss(batch.old_logp - 1.0, batch, options())
    assert sums["clipfrac_low"] == batch.mask.sum() - positive and sums["clipfrac_high"] == 0


def test_the_first_update_has_ratio_one():
    batch = random_batch()
    loss, sums = ppo.policy_loss(batch.old_logp.clone(), batch, options())
    assert sums["clipfrac_low"] == sums["clipfrac_high"] == sums["approx_kl"] == 0
    assert sums["logp_diff"] == 0
    assert loss == pytest.approx(-float((batch.weights * batch.advantages).sum()))


def test_approx_kl_is_k3_of_the_old_policy():
    batch = random_batch()
    logp = batch.old_logp + 0.3 * torch.sin(torch.arange(9.0))
    _, sums = ppo.policy_loss(logp, batch, options())
    want = sum(math.exp(n - o) - 1 - (n - o) for n, o, m in
               zip(logp.flatten().tolist(), batch.old_logp.flatten().tolist(),
                   batch.mask.flatten().tolist(), strict=True) if m)
    assert float(sums["approx_kl"]) == pytest.approx(want, rel=1e-4)


# --- KL

@pytest.mark.parametrize("r", [-1.0, -0.1, 0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind, value, grad", [
    ("k1", lambda r: -r, lambda r: 1.0),
    ("k2", lambda r: r * r / 2, lambda r: -r),
    ("k3", lambda r: math.exp(r) - 1 - r, lambda r: 1 - math.exp(r))])
def test_kl_estimators(kind, value, grad, r):
    found = value_and_grad(lambda x: ppo.kl(x, torch.tensor(OLD + r).double(), kind), OLD)
    assert found == pytest.approx((value(r), grad(r)), abs=1e-6)


@pytest.mark.parametrize("kind, unbiased", [("k1", True), ("k2", False), ("k3", True)])
def test_expectation_of_the_estimators_is_the_kl(kind, unbiased):
    """Exact expectation over a small vocabulary, so no sampling noise."""
    p, q = (torch.tensor(x).log_softmax(0) for x in ([0.0, 1.0, 2.0], [1.0, 0.5, 0.0]))
    exact = float((p.exp() * (p - q)).sum())
    found = float((p.exp() * ppo.kl(p, q, kind)).sum())
    assert (abs(found - exact) < 1e-6) == unbiased


def test_an_unknown_estimator_is_an_error():
    with pytest.raises(KeyError):
        ppo.kl(torch.zeros(1), torch.zeros(1), "k4")


def test_the_loss_adds_the_kl_to_the_reference():
    batch = random_batch()
    logp = batch.old_logp - 0.1
    plain, _ = ppo.policy_loss(logp, batch, options())
    with_kl, _ = ppo.policy_loss(logp, batch, options(kl_coef=0.5, kl="k2"))
    extra = 0.5 * (batch.weights * (batch.ref_logp - logp) ** 2 / 2).sum()
    assert float(with_kl - plain) == pytest.approx(float(extra), rel=1e-4)


# --- weights

def weights_loop(mask, how, max_tokens):
    """The three denominators, token by token."""
    n, total = len(mask), sum(map(sum, mask))
    out = []
    for row in mask:
        share = {"token": total, "sequence": n * (sum(row) or 1), "constant": n * max_tokens}[how]
        out.append([m / share for m in row])
    return out


@pytest.mark.parametrize("how", ["token", "sequence", "constant"])
def test_token_weights(how):
    mask = random_batch().mask
    want = torch.tensor(weights_loop(mask.tolist(), how, 10))
    assert torch.allclose(ppo.token_weights(mask, how, 10), want)


@pytest.mark.parametrize("how, total", [("token", 1.0), ("sequence", 1.0), ("constant", 4 / 20)])
def test_the_denominators_differ(how, total):
    mask = torch.tensor([[0.0, 1, 0, 0], [0, 1, 1, 1]])
    weights = ppo.token_weights(mask, how, 10)
    assert float(weights.sum()) == pytest.approx(total)
    ratio = float(weights[0].sum() / weights[1].sum())
    assert ratio == pytest.approx({"token": 1 / 3, "sequence": 1.0, "constant": 1 / 3}[how])


@pytest.mark.parametrize("how", ["token", "sequence", "constant"])
def test_rows_without_tokens_give_no_nan(how):
    assert ppo.token_weights(torch.zeros(2, 3), how, 10).eq(0).all()


def test_an_unknown_aggregation_is_an_error():
    with pytest.raises(ValueError, match="mean"):
        ppo.token_weights(torch.ones(1, 1), "mean")


# --- cuts

def test_lengths_end_at_the_last_marked_token():
    batch = random_batch()
    want = [max(t + 1 for t, m in enumerate(row) if m) for row in batch.mask.tolist()]
    assert batch.lengths() == want


def test_rows_are_cut_to_the_longest_of_them():
    batch = random_batch()
    for index in ([0], [3, 1], [6, 5, 4], list(range(7))):
        part = batch.rows(torch.tensor(index))
        width = max(batch.lengths()[i] for i in index)
        assert part.tokens.shape == (len(index), width)
        for name in ("tokens", "mask", "old_logp", "advantages", "weights", "ref_logp"):
            assert torch.equal(getattr(part, name), getattr(batch, name)[index, :width])


def test_rows_without_reference_or_weights():
    batch = ppo.Batch(*(torch.ones(2, 3) for _ in range(4)))
    part = batch.rows(torch.tensor([1]))
    assert part.weights is None and part.ref_logp is None


def test_the_loss_of_the_parts_adds_up_to_that_of_the_batch():
    batch = random_batch()
    whole, sums = ppo.policy_loss(batch.old_logp + 0.1, batch, options())
    parts = [batch.rows(torch.tensor(index)) for index in ([4], [0, 6, 2], [5, 1, 3])]
    done = [ppo.policy_loss(p.old_logp + 0.1, p, options()) for p in parts]
    assert float(sum(loss for loss, _ in done)) == pytest.approx(float(whole), abs=1e-6)
    for name, total in sums.items():
        assert float(sum(s[name] for _, s in done)) == pytest.approx(float(total), abs=1e-4)


@pytest.mark.parametrize("epochs, parts", [(1, 1), (1, 3), (3, 2), (2, 7)])
def test_minibatches_cover_each_row_once_an_epoch(epochs, parts):
    batch = random_batch()
    made = list(ppo.minibatches(batch, options(epochs=epochs, minibatches=parts), random.Random(0)))
    assert len(made) == epochs * parts
    for epoch in range(epochs):
        rows = [int(p.tokens[i, 0]) // 9 for p in made[epoch * parts:(epoch + 1) * parts]
                for i in range(len(p.tokens))]
        assert sorted(rows) == list(range(7))


@pytest.mark.parametrize("how", ["token", "sequence", "constant"])
def test_a_minibatch_has_the_weights_of_its_own_tokens(how):
    for part in ppo.minibatches(random_batch(), options(minibatches=3, aggregate=how),
                                random.Random(0)):
        want = torch.tensor(weights_loop(part.mask.tolist(), how, 10))
        assert torch.allclose(part.weights, want)


def test_minibatches_are_a_function_of_the_rng():
    draw = lambda seed: torch.cat([p.tokens[:, 0] for p in ppo.minibatches(  # noqa: E731
        random_batch(), options(minibatches=3, epochs=2), random.Random(seed))])
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
