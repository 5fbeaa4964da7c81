"""ppo.py against loops over Python floats: surrogate, clip, KL, weights, cuts of a batch."""

import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import dapo
import grpo
import model
import ppo
from engine import critic_hints, dedup

RATIOS = [0.3, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0]
OLD = -1.5


def options(**changes):
    return SimpleNamespace(**dict(
        clip_low=0.2, clip_high=0.2, dual_clip=0.0, kl_coef=0.0, kl="k3", kl_in="loss",
        unbiased_kl=False, entropy_coef=0.0, epochs=1, minibatches=1, aggregate="token",
        max_new_tokens=10, temperature=1.0, gamma=1.0, gae_lambda=0.95,
        critic_gae_lambda=1.0, critic_warmup=0, value_clip=0.2, value_coef=1.0) | changes)


def random_batch(n=7, t=9, seed=0):
    """Rows with a prompt of one to three tokens, a response, then padding."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.zeros(n, t)
    for i in range(n):
        start = 1 + i % 3
        mask[i, start:start + 1 + (i * 2) % (t - 3)] = 1
    make = lambda: torch.randn(n, t, generator=g) * mask  # noqa: E731
    return ppo.Batch(torch.arange(n * t).view(n, t), mask, make() - 2, torch.arange(n) // 2,
                     torch.randn(n, generator=g), (torch.arange(n) % 2).float(),
                     torch.arange(n) % 3 == 0, ref_logp=make() - 2, values=make(),
                     advantages=make(), returns=make(), weights=mask / mask.sum(),
                     group_mean_others=torch.randn(n, generator=g))


def summed(f, copies=None):
    """f, a loss, with the sums of its metrics over tokens in place of the metrics."""
    def loss(*args, **more):
        batch = next(x for x in args if isinstance(x, ppo.Batch))
        value, metrics = f(*args, **more)
        assert all(x.shape == batch.mask.shape for x in metrics.values())
        ones = torch.ones(len(batch.mask)) if copies is None else copies
        return value, dedup.sum_over_tokens(metrics, batch.mask, ones)
    return loss


policy_loss = summed(ppo.policy_loss)


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


@pytest.mark.parametrize("ratio", [0.3, 0.45, 0.6, 0.79, 1.05, 1.15, 1.21, 3.0])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_clipped_has_both_bounds(ratio, advantage):
    low, high = ppo.clipped(torch.tensor(math.log(ratio)), torch.tensor(0.0),
                            torch.tensor(advantage), 0.5, 0.1)
    assert bool(low) == (ratio < 0.5 and advantage < 0)
    assert bool(high) == (ratio > 1.1 and advantage > 0)


def test_a_ratio_beyond_float32_is_no_nan():
    """exp(200) is infinite, and infinity times an advantage of 0 is NaN."""
    for far in (200.0, -200.0):
        for advantage in (0.0, 1.0, -1.0):
            logp = torch.tensor(far, requires_grad=True)
            loss = ppo.surrogate(logp, torch.tensor(0.0), torch.tensor(advantage))
            loss.backward()
            assert torch.isfinite(loss) and torch.isfinite(logp.grad)
            assert advantage or loss == 0
        assert torch.isfinite(ppo.kl(torch.tensor(far), torch.tensor(0.0)))


def test_clip_fractions_count_marked_tokens_only():
    batch = random_batch()
    logp = batch.old_logp + 1.0  # every ratio is e
    _, sums = policy_loss(logp, batch, options())
    positive = sum(a > 0 and m > 0 for a, m in
                   zip(batch.advantages.flatten(), batch.mask.flatten(), strict=True))
    assert sums["clipfrac_high"] == positive and sums["clipfrac_low"] == 0
    assert sums["tokens"] == batch.mask.sum()
    _, sums = policy_loss(batch.old_logp - 1.0, batch, options())
    assert sums["clipfrac_low"] == batch.mask.sum() - positive and sums["clipfrac_high"] == 0


def test_the_first_update_has_ratio_one():
    batch = random_batch()
    loss, sums = policy_loss(batch.old_logp.clone(), batch, options())
    assert sums["clipfrac_low"] == sums["clipfrac_high"] == sums["approx_kl"] == 0
    assert sums["logp_diff"] == 0
    assert loss == pytest.approx(-float((batch.weights * batch.advantages).sum()))


def test_approx_kl_is_k3_of_the_old_policy():
    batch = random_batch()
    logp = batch.old_logp + 0.3 * torch.sin(torch.arange(9.0))
    _, sums = policy_loss(logp, batch, options())
    want = sum(math.exp(n - o) - 1 - (n - o) for n, o, m in
               zip(logp.flatten().tolist(), batch.old_logp.flatten().tolist(),
                   batch.mask.flatten().tolist(), strict=True) if m)
    assert float(sums["approx_kl"]) == pytest.approx(want, rel=1e-4)


def test_logp_diff_is_a_distance():
    """Too likely and too unlikely do not make up for each other."""
    batch = random_batch()
    off = 0.3 * torch.sin(torch.arange(9.0))
    _, sums = policy_loss(batch.old_logp + off, batch, options())
    assert float(sums["logp_diff"]) == pytest.approx(float((off.abs() * batch.mask).sum()))


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


@pytest.mark.parametrize("kind", ppo.KL)
def test_every_kl_estimate_is_zero_between_equals_and_always_finite(kind):
    """A new estimator is among these without a further line."""
    logp = torch.tensor([-2.0, -1.0, -1e4, 0.0], requires_grad=True)
    found = ppo.kl(logp, torch.tensor([-2.0, -1.0, 0.0, -1e4]), kind)
    found.sum().backward()
    assert found[:2].tolist() == [0.0, 0.0]
    assert found.isfinite().all() and logp.grad.isfinite().all()


@pytest.mark.parametrize("kind", ppo.KL)
def test_a_log_ratio_is_clamped_and_unchanged_within(kind):
    """At 20 nats. Beyond them the estimate stays as it is, and the gradient is 0."""
    inside = torch.linspace(-20, 20, 81)
    assert torch.allclose(ppo.kl(torch.zeros(81), inside, kind), ppo.KL[kind](inside), atol=1e-5)
    for far in (20.5, 200.0, 1e4, 3e38):
        for sign in (1, -1):
            logp = torch.tensor(-sign * far, requires_grad=True)
            found = ppo.kl(logp, torch.tensor(0.0), kind)
            assert float(found.detach()) == pytest.approx(
                float(ppo.KL[kind](torch.tensor(20.0 * sign))))
            assert torch.autograd.grad(found, logp)[0] == 0


def test_the_unbiased_kl_has_the_gradient_of_the_kl():
    """Tokens are drawn by the old policy. An exact expectation over a small vocabulary."""
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0], requires_grad=True)
    old, ref = (torch.tensor(x).log_softmax(0) for x in ([0.5, 0.5, 1.0, 0.0], [1.0, 0.5, 0.0, 3]))
    logp = logits.log_softmax(0)
    exact = (logp.exp() * (logp - ref)).sum()
    [want] = torch.autograd.grad(exact, logits, retain_graph=True)

    def expected(unbiased):
        batch = ppo.Batch(None, torch.ones(1, 4), old[None], None, None, ref_logp=ref[None],
                          advantages=torch.zeros(1, 4), weights=old.exp()[None])
        loss, _ = ppo.policy_loss(logp[None], batch, options(kl_coef=1.0, unbiased_kl=unbiased))
        return loss.detach(), torch.autograd.grad(loss, logits, retain_graph=True)[0]
    loss, gradient = expected(True)
    assert torch.allclose(loss, exact.detach(), atol=1e-6)
    assert torch.allclose(gradient, want, atol=1e-6)
    assert not torch.allclose(expected(False)[1], want, atol=0.1)


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
    """The four denominators, token by token."""
    n, total = len(mask), sum(map(sum, mask))
    out = []
    for row in mask:
        share = {"token": total, "sequence": n * (sum(row) or 1), "sum": n,
                 "constant": n * max_tokens}[how]
        out.append([m / share for m in row])
    return out


@pytest.mark.parametrize("how", ["token", "sequence", "sum", "constant"])
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


@pytest.mark.parametrize("how", ["token", "sequence", "sum", "constant"])
def test_rows_without_tokens_give_no_nan(how):
    assert ppo.token_weights(torch.zeros(2, 3), how, 10).eq(0).all()


@pytest.mark.parametrize("how", ["token", "sequence", "sum", "constant"])
def test_a_row_without_tokens_still_counts_as_a_row(how):
    mask = torch.tensor([[0.0, 0, 0], [0, 1, 1], [0, 1, 0]])
    want = torch.tensor(weights_loop(mask.tolist(), how, 10))
    assert torch.allclose(ppo.token_weights(mask, how, 10), want)


def test_the_only_token_has_all_the_weight():
    for how in ("token", "sequence", "sum"):
        assert ppo.token_weights(torch.tensor([[0.0, 1.0]]), how).tolist() == [[0, 1]]


def test_constant_wants_the_most_tokens():
    with pytest.raises(ValueError, match="constant"):
        ppo.token_weights(torch.ones(1, 2), "constant")


def test_an_unknown_aggregation_is_an_error():
    with pytest.raises(ValueError, match="mean"):
        ppo.token_weights(torch.ones(1, 1), "mean")


VERL = {"token-mean": "token", "seq-mean-token-mean": "sequence", "seq-mean-token-sum": "sum",
        "seq-mean-token-sum-norm": "constant"}


@pytest.mark.parametrize("mode, how", VERL.items())
def test_the_averages_are_verl_s(mode, how):
    """agg_loss of verl's core_algos (August 2026), with the whole batch's sizes, row by row."""
    batch, scale = random_batch(), 10
    loss, mask = batch.old_logp + batch.values, batch.mask
    rows = [(row * m).sum() for row, m in zip(loss, mask, strict=True)]
    if mode == "token-mean":
        want = sum(rows) / mask.sum()
    elif mode == "seq-mean-token-mean":
        want = sum(row / m.sum() for row, m in zip(rows, mask, strict=True)) / len(rows)
    else:
        want = sum(rows) / len(rows) / (scale if mode.endswith("norm") else 1)
    assert float((ppo.token_weights(mask, how, scale) * loss).sum()) == pytest.approx(float(want),
                                                                                    rel=1e-4)


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
        for name in ("tokens mask old_logp ref_logp values advantages returns weights").split():
            assert torch.equal(getattr(part, name), getattr(batch, name)[index, :width])
        for name in ("group", "rewards", "correct", "truncated"):
            assert torch.equal(getattr(part, name), getattr(batch, name)[index])


def test_rows_without_reference_or_weights():
    batch = ppo.Batch(*(torch.ones(2, 3) for _ in range(3)), torch.ones(2), torch.ones(2))
    part = batch.rows(torch.tensor([1]))
    assert part.weights is None and part.ref_logp is None


def test_no_rows_are_a_batch_too():
    part = random_batch().rows(torch.tensor([], dtype=torch.long))
    assert len(part.tokens) == len(part.group) == 0 and part.lengths() == []
    assert list(ppo.minibatches(part, options(minibatches=4), random.Random(0))) == []


def test_concat_is_the_inverse_of_rows():
    batch = random_batch()
    parts = [batch.rows(torch.tensor(index).long()) for index in ([0], [1, 2, 3], [], [4, 5, 6])]
    whole, batch = dapo.concatenate(parts), batch.rows(torch.arange(7))
    assert torch.equal(whole.tokens * whole.mask, batch.tokens * batch.mask)
    for name in "mask old_logp group rewards correct truncated ref_logp advantages".split():
        found, want = getattr(whole, name), getattr(batch, name)
        where = batch.mask > 0 if want.dim() == 2 else slice(None)
        assert torch.equal(found[where], want[where]), name


def test_the_loss_of_the_parts_adds_up_to_that_of_the_batch():
    batch = random_batch()
    whole, sums = policy_loss(batch.old_logp + 0.1, batch, options())
    parts = [batch.rows(torch.tensor(index)) for index in ([4], [0, 6, 2], [5, 1, 3])]
    done = [policy_loss(p.old_logp + 0.1, p, options()) for p in parts]
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


def test_the_answers_to_a_question_stay_together():
    """However the rows lie, and in another order each time."""
    batch = random_batch(12)
    batch.group = torch.tensor([7, 2, 5, 0] * 3)
    made = [p.group.tolist() for p in ppo.minibatches(batch, options(minibatches=4, epochs=3),
                                                      random.Random(0))]
    assert all(part == [part[0]] * 3 for part in made)
    epochs = [tuple(part[0] for part in made[i:i + 4]) for i in (0, 4, 8)]
    assert all(sorted(epoch) == [0, 2, 5, 7] for epoch in epochs) and len(set(epochs)) > 1
    cut = [p.group.tolist() for p in ppo.minibatches(batch, options(minibatches=3),
                                                     random.Random(0))]
    assert [len(set(part)) for part in cut] == [2, 2, 2]  # 3 + 1, 2 + 2, 1 + 3


@pytest.mark.parametrize("how", ["token", "sequence", "sum", "constant"])
def test_a_minibatch_has_the_weights_of_its_own_tokens(how):
    for part in ppo.minibatches(random_batch(), options(minibatches=3, aggregate=how),
                                random.Random(0)):
        want = torch.tensor(weights_loop(part.mask.tolist(), how, 10))
        assert torch.allclose(part.weights, want)


def twice(batch):
    """The rows of a batch three, two and one times, in another order."""
    index = [i for i in range(len(batch.tokens)) for _ in range(3 - i % 3)]
    random.Random(0).shuffle(index)
    return batch.rows(torch.tensor(index)), index


def test_rows_are_duplicates_if_they_are_equal_in_everything():
    batch, index = twice(random_batch())
    first, inverse = dedup.unique_rows(batch)
    assert len(first) == 7 and [index.index(i) for i in dict.fromkeys(index)] == first.tolist()
    assert [index[i] for i in first[inverse].tolist()] == index
    for name in ("tokens", "old_logp", "rewards", "advantages", "group_mean_others"):
        other = replace(batch, **{name: getattr(batch, name).clone()})
        x = getattr(other, name)[first[2]]
        x.view(-1)[1 if x.dim() else 0] += 1e-6 if x.is_floating_point() else 1
        assert len(dedup.unique_rows(other)[0]) == 7 + ((inverse == 2).sum() > 1)


@pytest.mark.parametrize("aggregate", ["token", "sequence", "sum", "constant"])
def test_merged_rows_have_the_loss_gradient_and_metrics_of_all(aggregate):
    batch, index = twice(random_batch())
    settings = options(kl_coef=0.1, entropy_coef=0.1, aggregate=aggregate)
    batch = replace(batch, weights=ppo.token_weights(batch.mask, aggregate, 10))
    merged, copies = dedup.merge_duplicates(batch)
    assert len(merged.tokens) == 7 and copies.sum() == len(index)
    assert dedup.merge_duplicates(merged)[1].tolist() == [1] * 7
    found = []
    for part, order, times in ((batch, index, None), (merged, list(dict.fromkeys(index)), copies)):
        logp = (random_batch(seed=1).old_logp[:, :part.mask.shape[1]]).requires_grad_()
        loss, sums = summed(ppo.policy_loss, times)(logp[order], part, settings, logp[order] ** 2)
        loss.backward()
        found.append((float(loss.detach()), logp.grad, {k: float(x) for k, x in sums.items()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-7)
    assert found[0][2] == pytest.approx(found[1][2], rel=1e-5)
    assert found[0][2]["tokens"] == batch.mask.sum()


@pytest.mark.parametrize("how", ["token", "sequence", "sum", "constant"])
def test_duplicates_of_a_minibatch_are_merged(how):
    batch, index = twice(random_batch())
    [part] = ppo.minibatches(batch, options(aggregate=how), random.Random(0))
    part, copies = dedup.merge_duplicates(part)
    assert len(part.tokens) == 7 and copies.max() == 3
    if how == "token":
        assert torch.allclose(part.weights, copies[:, None] * part.mask / batch.mask.sum())
    assert float(part.weights.sum()) == pytest.approx(
        float(ppo.token_weights(batch.mask, how, 10).sum()))
    assert dedup.sum_over_tokens({}, part.mask, copies)["tokens"] == batch.mask.sum()


def test_minibatches_are_a_function_of_the_rng():
    draw = lambda seed: torch.cat([p.tokens[:, 0] for p in ppo.minibatches(  # noqa: E731
        random_batch(), options(minibatches=3, epochs=2), random.Random(seed))])
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


# --- dual clip, entropy, the KL's controller

@pytest.mark.parametrize("ratio", [*RATIOS, 5.0, 20.0])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_dual_clip_bounds_the_loss_of_a_bad_token(ratio, advantage):
    f = lambda x: ppo.surrogate(x, torch.tensor(OLD), torch.tensor(advantage), 0.2, 0.2, 3.0)  # noqa: E731
    value, grad = value_and_grad(f, OLD + math.log(ratio))
    want = surrogate_loop(ratio, advantage, 0.2, 0.2)
    assert value == pytest.approx(min(want, 6.0) if advantage < 0 else want, abs=1e-5)
    if advantage < 0 and ratio > 3:
        assert grad == 0


def test_the_loss_of_a_batch_has_the_dual_clip():
    batch = random_batch()
    logp = batch.old_logp + 1.3  # the ratio is above 3
    bound = torch.where(batch.advantages < 0, -3 * batch.advantages, -1.2 * batch.advantages)
    found, _ = ppo.policy_loss(logp, batch, options(dual_clip=3.0))
    assert float(found) == pytest.approx(float((batch.weights * bound).sum()), abs=1e-5)


def test_the_entropy_bonus_is_taken_from_the_loss():
    batch, entropy = random_batch(), torch.rand(7, 9)
    plain, _ = ppo.policy_loss(batch.old_logp, batch, options())
    more, _ = ppo.policy_loss(batch.old_logp, batch, options(entropy_coef=0.3), entropy)
    assert float(plain - more) == pytest.approx(0.3 * float((batch.weights * entropy).sum()))


def test_a_kl_paid_with_the_reward_is_not_in_the_loss():
    batch = random_batch()
    plain, _ = ppo.policy_loss(batch.old_logp, batch, options())
    same, _ = ppo.policy_loss(batch.old_logp, batch, options(kl_coef=0.5, kl_in="reward"))
    assert plain == same


@pytest.mark.parametrize("kl, want", [(0.1, 1.0), (0.2, 1.2), (9.0, 1.2), (0.05, 0.8), (0.0, 0.8),
                                      (0.11, 1.1)])
def test_the_kl_s_weight_follows_its_target(kl, want):
    assert ppo.adaptive_kl_coef(1.0, kl, target=0.1) == pytest.approx(want)


# --- the critic

def gae_loop(rewards, values, gamma, lam):
    """The sum in the paper, term by term: sum over l of (gamma lam)^l delta[t + l]."""
    n = len(rewards)
    ahead = [*values, 0.0]
    deltas = [rewards[t] + gamma * ahead[t + 1] - values[t] for t in range(n)]
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(n - t)) for t in range(n)]


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_with_ragged_rows(gamma, lam):
    batch, rewards = random_batch(), torch.randn(7, 9, generator=torch.Generator().manual_seed(1))
    values = torch.randn(7, 9, generator=torch.Generator().manual_seed(2))  # also where mask is 0
    found = ppo.gae(rewards, values, batch.mask, gamma, lam)
    for i, row in enumerate(batch.mask.bool()):
        want = gae_loop(rewards[i, row].tolist(), values[i, row].tolist(), gamma, lam)
        assert found[i, row].tolist() == pytest.approx(want, abs=1e-5)
        assert found[i, ~row].eq(0).all()


def test_gae_passes_over_gaps_in_the_mask():
    rewards, values = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0.0, 1, 0, 1, 1]])
    found = ppo.gae(rewards, values, mask, 0.9, 0.8)
    kept = mask[0] > 0
    want = ppo.gae(rewards[:, kept], values[:, kept], mask[:, kept], 0.9, 0.8)
    assert torch.allclose(found[:, kept], want) and not found[:, ~kept].any()


def test_the_extremes_of_lambda():
    """0 is the temporal difference, 1 what came minus what was expected."""
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.5, 0.6]])
    mask = torch.ones(1, 3)
    assert torch.allclose(ppo.gae(rewards, values, mask, 1.0, 0.0),
                          torch.tensor([[0.3, 0.1, 0.4]]))
    assert torch.allclose(ppo.gae(rewards, values, mask, 1.0, 1.0), 1 - values)


def test_whitening_is_over_the_mask_and_unbiased():
    batch = random_batch()
    found = ppo.whiten(batch.advantages, batch.mask)
    values = batch.advantages[batch.mask > 0].tolist()
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    assert found[batch.mask > 0].tolist() == pytest.approx([(v - mean) / std for v in values],
                                                           abs=1e-4)
    assert found[batch.mask == 0].eq(0).all()
    assert ppo.whiten(torch.full((2, 3), 0.7), torch.ones(2, 3)).abs().max() < 1e-3


def test_a_single_token_is_whitened_to_zero_and_two_are_not():
    assert ppo.whiten(torch.tensor([[3.0, 7.0]]), torch.tensor([[0.0, 1.0]])).tolist() == [[0, 0]]
    found = ppo.whiten(torch.tensor([[3.0, 7.0]]), torch.ones(1, 2))
    assert found.tolist() == [pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])]


@pytest.mark.parametrize("clip", [0.0, 0.2])
@pytest.mark.parametrize("value", [-1.0, 0.1, 0.25, 0.35, 0.9])
@pytest.mark.parametrize("target", [0.5, 0.9])
def test_value_loss(value, target, clip):
    old = 0.3
    f = lambda x: ppo.value_loss(x, torch.tensor(old), torch.tensor(target), clip)  # noqa: E731
    near = old + max(-clip, min(clip, value - old)) if clip else value
    plain, far = (value - target) ** 2 / 2, (near - target) ** 2 / 2
    found, grad = value_and_grad(f, value)
    assert found == pytest.approx(max(plain, far), abs=1e-6)
    assert grad == pytest.approx(value - target if plain >= far else 0.0, abs=1e-6)


def test_explained_variance():
    returns, mask = torch.tensor([[1.0, 0.0, 2.0, 9.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert ppo.explained_variance(returns, returns, mask) == 1
    assert ppo.explained_variance(torch.full((1, 4), 5.0), returns, mask) == pytest.approx(0)
    assert ppo.explained_variance(2 - returns, returns, mask) == pytest.approx(-3)
    assert ppo.explained_variance(returns, torch.ones(1, 4), mask) == 0
    values = torch.tensor([[0.5, 0.0, 1.0, -40.0]])  # what the mask leaves out may be anything
    assert ppo.explained_variance(values, returns, mask) == pytest.approx(0.75)
    assert ppo.explained_variance(values, returns, mask * torch.tensor([1.0, 0, 0, 0])) == 0.0


def test_what_is_given_stays_as_it_is():
    batch = random_batch()
    before = {f: getattr(batch, f).clone() for f in ("mask", "values", "advantages", "returns",
                                                      "old_logp")}
    with torch.no_grad():
        ppo.gae(batch.advantages, batch.values, batch.mask)
        ppo.whiten(batch.advantages, batch.mask)
        ppo.value_loss(batch.returns - 1, batch.values, batch.returns, 0.2)
        ppo.surrogate(batch.old_logp + 1, batch.old_logp, batch.advantages)
        ppo.token_weights(batch.mask, "sequence")
    assert all(torch.equal(getattr(batch, f), x) for f, x in before.items())


def test_rewards_are_paid_at_the_last_token_and_the_kl_on_each():
    batch = random_batch()
    plain = ppo.token_rewards(batch, options())
    priced = ppo.token_rewards(batch, options(kl_coef=0.5, kl_in="reward"))
    for i, row in enumerate(batch.mask.bool()):
        assert plain[i, row].tolist() == [0.0] * (int(row.sum()) - 1) + [batch.rewards[i]]
        assert plain[i, ~row].eq(0).all() and priced[i, ~row].eq(0).all()
        price = 0.5 * (batch.old_logp - batch.ref_logp)[i, row]
        assert torch.allclose(priced[i, row], plain[i, row] - price)
    in_the_loss = ppo.token_rewards(batch, options(kl_coef=0.5, kl_in="loss"))
    assert torch.equal(in_the_loss, plain)


def test_steps_are_paid_where_they_end():
    batch = random_batch()
    paid = torch.sin(torch.arange(63.0)).view(7, 9) * batch.mask
    found = ppo.token_rewards(replace(batch, step_rewards=paid), options())
    assert torch.equal(found, paid)


def test_returns_come_from_advantages_before_whitening():
    batch = random_batch()
    made = ppo.prepare(batch, options(gae_lambda=0.7, critic_gae_lambda=0.7))
    rewards = ppo.token_rewards(batch, options())
    raw = ppo.gae(rewards, batch.values, batch.mask, 1.0, 0.7)
    assert torch.allclose(made.returns, (raw + batch.values) * batch.mask, atol=1e-6)
    assert torch.allclose(made.advantages, ppo.whiten(raw, batch.mask), atol=1e-6)
    monte_carlo = ppo.prepare(batch, options(gae_lambda=0.7)).returns
    assert torch.allclose(monte_carlo, batch.rewards[:, None] * batch.mask, atol=1e-5)


def test_likelihood_is_of_what_stands_before():
    """The least and the product of the probabilities of the tokens before, 1 where there are
    none."""
    batch = random_batch()
    batch.old_logp = -torch.rand(7, 9) * batch.mask
    found = critic_hints.likelihood(batch.old_logp, batch.mask)
    for i, row in enumerate(batch.mask.bool()):
        chances = batch.old_logp[i, row].exp().tolist()
        for k, t in enumerate(row.nonzero()[:, 0].tolist()):
            want = [min([1.0, *chances[:k]]), math.prod(chances[:k])]
            assert found[i, t].tolist() == pytest.approx(want, abs=1e-5)


# --- policy and critic together

def small_policy():
    torch.manual_seed(0)
    policy = model.GPT(model.Config(70, layers=1, width=16, heads=2, kv_heads=1, hidden=16))
    for weight in policy.parameters():
        weight.data *= 5
    return policy


def test_the_mean_of_the_others_leaves_an_answer_out():
    rewards, group = [1.0, 0.0, 5.0, 2.0, 7.0, 3.0], [0, 0, 2, 0, 2, 1]
    found = grpo.group_mean_others(torch.tensor(rewards), torch.tensor(group))
    for i, g in enumerate(group):
        others = [r for j, r in enumerate(rewards) if group[j] == g and j != i]
        assert float(found[i]) == pytest.approx(sum(others) / len(others) if others else 0.0)


def random_critic(policy, kind):
    """A Critic whose values are not all zero."""
    own, hints = kind
    critic = ppo.Critic(policy, own)
    torch.nn.init.normal_(critic.head.weight)
    if hints:
        critic = critic_hints.HintedCritic(critic)
        torch.nn.init.normal_(critic.hint_head.weight)
    return critic


def scored(policy, critic, batch):
    with torch.no_grad():
        batch.old_logp = policy.logp(batch.tokens, batch.mask)
        batch.values = critic(policy.hidden_states(batch.tokens, batch.mask), batch)
    return batch


def test_values_are_fp32_under_autocast():
    """In bfloat16 a value of 0.5 is known to 0.002, and a hint of 30 to 0.1."""
    policy, batch = small_policy(), random_batch()
    critic = random_critic(policy, (False, True))
    want = scored(policy, critic, batch).values
    with torch.autocast("cpu", torch.bfloat16):
        found = critic(policy.hidden_states(batch.tokens, batch.mask).float(), batch)
    states = policy.hidden_states(batch.tokens, batch.mask)
    with torch.autocast("cpu", torch.bfloat16):
        exact = critic(states, batch)
    assert found.dtype == torch.float32 and torch.allclose(exact, want, atol=1e-5)


CRITICS = pytest.mark.parametrize("kind", [(True, True), (True, False), (False, True),
                                           (False, False)], ids=["own, hints", "own", "hints", ""])


@CRITICS
def test_a_value_is_of_the_state_before_its_token(kind):
    """Another token at t changes the values after t, not that at t: nobody knew of it yet."""
    policy, batch = small_policy(), random_batch()
    critic = random_critic(policy, kind)
    values = scored(policy, critic, batch).values
    assert values[batch.mask == 0].eq(0).all()
    for i, row in enumerate(batch.mask.bool()):
        for t in row.nonzero()[:-1, 0].tolist():
            changed = replace(batch, tokens=batch.tokens.clone())
            changed.tokens[i, t] = (changed.tokens[i, t] + 1) % 70
            other = scored(policy, critic, changed).values  # and so do the hints
            assert torch.allclose(other[i, :t + 1], values[i, :t + 1], atol=1e-6)
            assert (other[i, t + 1] - values[i, t + 1]).abs() > 1e-6


@CRITICS
def test_a_value_hears_of_the_other_answers_where_there_are_hints(kind):
    policy, batch = small_policy(), random_batch()
    critic = random_critic(policy, kind)
    values = scored(policy, critic, batch).values
    other = replace(batch, group_mean_others=batch.group_mean_others + 1)
    other = scored(policy, critic, other).values
    want = 0 * batch.mask
    if kind[1]:
        want = critic_hints.HINT_SCALE * critic.hint_head.weight[0, -1] * batch.mask
    assert torch.allclose(other - values, want, rtol=1e-3, atol=1e-4)


def test_the_temperature_and_the_value_coefficient_reach_the_loss():
    policy, batch = small_policy(), random_batch()
    critic = random_critic(policy, (True, True))
    batch = scored(policy, critic, batch)
    with torch.no_grad():
        batch.old_logp = policy.logp(batch.tokens, batch.mask, 0.5)
        _, sums = summed(ppo.loss)(policy, critic, batch, options(temperature=0.5))
        assert sums["logp_diff"] < 1e-4
        _, sums = summed(ppo.loss)(policy, critic, batch, options())
        assert sums["logp_diff"] > 1
        warm_up = replace(batch, advantages=None, returns=batch.values + 1)
        one, two = (ppo.loss(policy, critic, warm_up, options(value_coef=c))[0] for c in (1.0, 2.0))
        assert 0.1 < one and float(two) == pytest.approx(2 * float(one))


@CRITICS
def test_the_first_update_of_ppo(kind):
    """Ratio one, nothing clipped; the gradient reaches what it should."""
    policy, batch = small_policy(), random_batch()
    critic = random_critic(policy, kind)
    batch = ppo.prepare(scored(policy, critic, batch), options())
    batch = replace(batch, weights=ppo.token_weights(batch.mask, "token"))
    total, sums = summed(ppo.loss)(policy, critic, batch, options())
    assert sums["clipfrac_low"] == sums["clipfrac_high"] == 0 and sums["logp_diff"] < 1e-4
    want = -(batch.weights * batch.advantages).sum() + (
        batch.weights * (batch.values - batch.returns) ** 2 / 2).sum()
    assert float(total.detach()) == pytest.approx(float(want), abs=1e-5)
    total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())
    trained = [p for n, p in critic.named_parameters() if p.grad is not None]
    assert len(trained) == (len(list(critic.parameters())))


def test_the_loss_of_ppo_is_the_policy_s_and_the_critic_s():
    """Of a policy that has moved, and not of whitened advantages alone, whose sum is zero."""
    policy, batch = small_policy(), random_batch()
    critic = random_critic(policy, (True, True))
    batch = scored(policy, critic, batch)
    old = batch.old_logp - 0.3 * torch.sin(torch.arange(9.0)) * batch.mask
    total, sums = summed(ppo.loss)(policy, critic, replace(batch, old_logp=old),
                                   options(value_coef=0.5))
    gain = ppo.surrogate(batch.old_logp, old, batch.advantages)
    values = critic(None, replace(batch, old_logp=old)).detach()
    errors = ppo.value_loss(values, batch.values, batch.returns, 0.2)
    want = [float((batch.weights * x).sum()) for x in (gain, errors)]
    assert abs(want[0]) > 0.01
    assert float(total.detach()) == pytest.approx(want[0] + 0.5 * want[1], rel=1e-4)
    assert float(sums["value_loss"]) == pytest.approx(float((errors * batch.mask).sum()), rel=1e-4)


@CRITICS
def test_in_the_warm_up_only_the_critic_learns(kind):
    policy, batch = small_policy(), random_batch()
    critic = random_critic(policy, kind)
    batch = ppo.prepare(scored(policy, critic, batch),
                        options(critic_gae_lambda=0.0, critic_warmup=2))
    assert torch.allclose(batch.returns, batch.rewards[:, None] * batch.mask, atol=1e-5)
    batch = replace(batch, weights=ppo.token_weights(batch.mask, "token"))
    ppo.loss(policy, critic, batch, options())[0].backward()
    assert all(p.grad is None for p in policy.parameters())
    assert all(p.grad.abs().sum() > 0 for p in critic.parameters())


@CRITICS
def test_the_gradient_of_ppo_does_not_depend_on_the_cut(kind):
    policy, batch = small_policy(), random_batch()
    critic = random_critic(policy, kind)
    batch = ppo.prepare(scored(policy, critic, batch), options())
    batch = replace(batch, weights=ppo.token_weights(batch.mask, "token"),
                    old_logp=batch.old_logp - 0.3 * torch.sin(torch.arange(9.0)) * batch.mask)

    def gradient(parts):
        policy.zero_grad(), critic.zero_grad()
        for part in parts:
            ppo.loss(policy, critic, part, options(entropy_coef=0.1))[0].backward()
        return torch.cat([p.grad.flatten() for p in [*policy.parameters(), *critic.parameters()]])
    whole = gradient([batch])
    cut = gradient([batch.rows(torch.tensor(i)) for i in ([4], [0, 6, 2], [5, 1, 3])])
    largest = float(whole.abs().max())  # rounding is relative to it, and machines differ
    assert largest > 1e-2 and torch.allclose(whole, cut, atol=1e-6 * largest, rtol=1e-3)


def test_a_critic_learns_what_can_be_known():
    """With the reward in the first token of the response, all later states tell it."""
    policy = small_policy()
    critic, batch = ppo.Critic(policy), random_batch(64, 8)
    batch.tokens = torch.randint(0, 70, (64, 8), generator=torch.Generator().manual_seed(3))
    batch.mask = torch.ones(64, 8)
    batch.mask[:, 0] = 0
    batch.rewards = (batch.tokens[:, 1] % 2).float()
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.01)
    for _ in range(60):
        ready = ppo.prepare(scored(policy, critic, batch), options(critic_warmup=1))
        ready = replace(ready, weights=ppo.token_weights(batch.mask, "token"))
        ppo.loss(policy, critic, ready, options())[0].backward()
        optimizer.step(), optimizer.zero_grad()
    ready = scored(policy, critic, batch)
    after = torch.ones(64, 8)
    after[:, :2] = 0
    returns = batch.rewards[:, None] * batch.mask
    assert ppo.explained_variance(ready.values, returns, after) > 0.9
