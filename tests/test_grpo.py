"""grpo.py: the group's mean as the baseline, and a gradient that no cut of the batch can change."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import grpo
import model
import ppo
from engine import dedup, packing, sampler

STOP, PAD = 18, 19
AGGREGATIONS = ["token", "sequence", "sum", "constant"]
HOW = [(scale, baseline) for scale in (True, False) for baseline in grpo.BASELINES]


def options(**changes):
    return SimpleNamespace(**dict(
        clip_low=0.2, clip_high=0.2, dual_clip=0.0, ratio="token", kl_coef=0.0, kl="k3",
        kl_in="loss", unbiased_kl=False, entropy_coef=0.0, epochs=1, minibatches=1,
        aggregate="token", max_new_tokens=8, temperature=1.0, scale_by_std=True,
        baseline="mean", divisor="std", decouple_rewards=False) | changes)


def policy(seed=0):
    torch.manual_seed(seed)
    config = model.Config(20, context=64, layers=2, width=16, heads=2, kv_heads=1, hidden=24)
    gpt = model.GPT(config)
    with torch.no_grad():
        for p in gpt.parameters():
            p.mul_(8 if p.dim() == 2 else 1)  # far from uniform, so that mistakes show
    return gpt


def rollout(gpt, temperature=1.0, groups=3, size=4, seed=2):
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]][:groups]
    return sampler.generate(gpt, prompts, size, 8, temperature, seed, stop=STOP, pad=PAD)


def prepared(out, rewards, opts=None):
    batch = ppo.Batch(out.tokens, out.mask, out.logp, out.group, rewards)
    return grpo.prepare(batch, opts or options())


def trained_batch(gpt, how, moved=True):
    """A batch with its weights; `moved` makes the old policy another one, so that ratios differ."""
    out = rollout(gpt)
    rewards = (torch.arange(len(out.tokens)) * 7 % 5).float()
    batch = prepared(out, rewards)
    if moved:
        wave = 0.5 * torch.sin(torch.arange(batch.mask.numel()).view_as(batch.mask)) * batch.mask
        batch = replace(batch, old_logp=batch.old_logp + wave)
    return replace(batch, weights=ppo.token_weights(batch.mask, how, 8))


def loss_and_sums(gpt, batch, opts):
    """grpo.loss, with the sums of its metrics over tokens in place of the metrics."""
    loss, metrics = grpo.loss(gpt, None, batch, opts)
    return loss, dedup.sum_over_tokens(metrics, batch.mask, torch.ones(len(batch.mask)))


def gradient(gpt, batches, opts):
    gpt.zero_grad()
    for batch in batches:
        grpo.loss(gpt, None, batch, opts)[0].backward()
    return torch.cat([p.grad.flatten() for p in gpt.parameters()])


# --- advantages

def advantages_loop(rewards, group, scale):
    """Mean and unbiased std of each group, in Python floats."""
    out = []
    for r, g in zip(rewards, group, strict=True):
        mine = [x for x, h in zip(rewards, group, strict=True) if h == g]
        mean = sum(mine) / len(mine)
        std = math.sqrt(sum((x - mean) ** 2 for x in mine) / max(1, len(mine) - 1))
        out.append((r - mean) / (std + 1e-6) if scale else r - mean)
    return out


@pytest.mark.parametrize("scale", [True, False])
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(-8, 8), st.integers(0, 3)), min_size=1, max_size=16))
def test_group_advantages(scale, rows):
    rewards, group = [r / 8 for r, _ in rows], [g for _, g in rows]
    found = grpo.group_advantages(torch.tensor(rewards), torch.tensor(group), scale)
    assert found.tolist() == pytest.approx(advantages_loop(rewards, group, scale), abs=2e-5)


def test_std_is_unbiased():
    found = grpo.group_advantages(torch.tensor([0.0, 1.0]), torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)], abs=1e-5)


def test_rewards_that_hardly_differ_are_not_blown_up():
    found = grpo.group_advantages(torch.tensor([0.0, 1e-6]), torch.tensor([0, 0]))
    want = 0.5 / (math.sqrt(0.5) + 1)
    assert found.tolist() == pytest.approx([-want, want], rel=1e-3)


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1.1, 1 / 3, -0.7])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
def test_equal_rewards_give_almost_zero(reward, size, how):
    """In float32 a mean may be off by 1e-7, which is not small beside eps = 1e-6."""
    found = grpo.group_advantages(torch.full((size,), reward), torch.zeros(size).long(), *how)
    assert found.abs().max() < 0.2


@pytest.mark.exact
@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1.1, 1 / 3, -0.7, 1e6 + 0.1])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 100])
def test_equal_rewards_give_exactly_zero(reward, size, how):
    found = grpo.group_advantages(torch.full((size,), reward), torch.zeros(size).long(), *how)
    assert found.tolist() == [0.0] * size


@pytest.mark.parametrize("how", HOW, ids=str)
def test_the_order_of_the_answers_does_not_matter(how):
    rewards, group = torch.tensor([1.1, 0.1, 0.0, 0.1, 1.0, 0.0]), torch.tensor([0, 0, 0, 1, 1, 1])
    want = grpo.group_advantages(rewards, group, *how)
    for order in ([5, 4, 3, 2, 1, 0], [3, 0, 4, 1, 5, 2]):
        found = grpo.group_advantages(rewards[order], group[order], *how)
        assert torch.allclose(found, want[order], atol=1e-5)


@pytest.mark.exact
@pytest.mark.parametrize("how", HOW, ids=str)
def test_the_order_of_the_answers_changes_no_bit(how):
    """A GPU adds in any order; the processes of a run must still agree on who has no advantage."""
    rewards = torch.tensor([1.1] + [0.1] * 5 + [0.0] * 10)      # 0.1 is their mean
    want = grpo.group_advantages(rewards, torch.zeros(16).long(), *how)
    for seed in range(50):
        order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))
        found = grpo.group_advantages(rewards[order], torch.zeros(16).long(), *how)
        assert torch.equal(found, want[order]) and found.dtype == torch.float32


def test_an_equal_group_beside_another_is_zero_and_the_other_is_not():
    rewards = torch.tensor([0.1, 1.0, 0.1, 0.0, 0.1])
    found = grpo.group_advantages(rewards, torch.tensor([0, 1, 0, 1, 0]))
    assert found[[0, 2, 4]].tolist() == [0.0] * 3 and found[1] > 0.7 > 0 > found[3]


def test_a_batch_with_equal_rewards_keeps_its_rows():
    out = rollout(policy())
    batch = prepared(out, torch.full((12,), 0.1))
    assert batch.tokens.shape == out.tokens.shape and batch.advantages.eq(0).all()
    weights = ppo.token_weights(batch.mask, "sequence")
    loss, sums = loss_and_sums(policy(), replace(batch, weights=weights), options())
    assert loss == 0 and sums["tokens"] == out.mask.sum()


def test_every_token_of_a_response_gets_its_advantage():
    out = rollout(policy())
    rewards = torch.arange(12.0) % 4
    batch = prepared(out, rewards)
    one = grpo.group_advantages(rewards, out.group)
    for i in range(12):
        assert torch.equal(batch.advantages[i], one[i] * out.mask[i])
    assert torch.equal(batch.old_logp, out.logp) and torch.equal(batch.mask, out.mask)


# --- the loss

def test_the_loss_is_the_surrogate_of_each_token():
    gpt = policy()
    batch = trained_batch(gpt, "token")
    loss, _ = grpo.loss(gpt, None, batch, options())
    logp = gpt.logp(batch.tokens, batch.mask).detach()
    want = (batch.weights * ppo.surrogate(logp, batch.old_logp, batch.advantages, 0.2, 0.2)).sum()
    assert abs(want) > 0.01 and float(loss.detach()) == pytest.approx(float(want), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_on_the_first_update_nothing_is_clipped(temperature):
    gpt = policy()
    out = rollout(gpt, temperature)
    batch = prepared(out, (torch.arange(12) % 3).float())
    batch = replace(batch, weights=ppo.token_weights(batch.mask, "token"))
    loss, sums = loss_and_sums(gpt, batch, options(temperature=temperature))
    assert sums["clipfrac_low"] == sums["clipfrac_high"] == 0
    assert sums["approx_kl"] / sums["tokens"] < 1e-8
    assert sums["logp_diff"] / sums["tokens"] < 1e-4
    assert loss.item() == pytest.approx(-float((batch.weights * batch.advantages).sum()), abs=1e-5)


@pytest.mark.parametrize("how", AGGREGATIONS)
@pytest.mark.parametrize("cut", [
    [[i] for i in range(12)], [[11, 0, 5], [1, 2, 3, 4], [6], [7, 8, 9, 10]],
    [list(range(6)), list(range(6, 12))]], ids=["ones", "odd", "halves"])
def test_the_gradient_does_not_depend_on_the_cut(how, cut):
    gpt = policy()
    batch = trained_batch(gpt, how)
    assert len(set(batch.lengths())) > 2  # of unequal lengths, or the test would prove nothing
    whole = gradient(gpt, [batch], options())
    parts = gradient(gpt, [batch.rows(torch.tensor(rows)) for rows in cut], options())
    assert whole.abs().max() > 1e-2
    assert torch.allclose(parts, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_the_gradient_does_not_depend_on_micro_batches_by_length(how):
    gpt = policy()
    batch = trained_batch(gpt, how)
    whole = gradient(gpt, [batch], options())
    cut = packing.micro_batches(batch.lengths(), 24)
    assert len(cut) > 2
    parts = gradient(gpt, [batch.rows(torch.tensor(rows)) for rows in cut], options())
    assert torch.allclose(parts, whole, atol=1e-5, rtol=1e-4)


def test_the_four_aggregations_differ():
    gpt = policy()
    made = [gradient(gpt, [trained_batch(gpt, how)], options()) for how in AGGREGATIONS]
    assert not any(torch.allclose(a, b, rtol=1e-2) for a, b in zip(made, made[1:], strict=False))


def test_padding_changes_nothing():
    """Other tokens after the end, and more of them, leave loss and gradient as they are."""
    gpt = policy()
    batch = trained_batch(gpt, "token")
    want = gradient(gpt, [batch], options())
    after = torch.arange(batch.tokens.shape[1]) >= torch.tensor(batch.lengths())[:, None]
    other = replace(batch, tokens=torch.where(after, 3, batch.tokens))
    assert not torch.equal(other.tokens, batch.tokens)
    assert torch.allclose(gradient(gpt, [other], options()), want, atol=1e-6)


def test_a_step_makes_rewarded_responses_likelier():
    gpt = policy()
    batch = trained_batch(gpt, "token", moved=False)
    optimizer = torch.optim.SGD(gpt.parameters(), lr=1e-3)
    loss, _ = grpo.loss(gpt, None, batch, options())
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        logp = gpt.logp(batch.tokens, batch.mask)
    gain = ((logp - batch.old_logp) * batch.advantages).sum()
    assert gain > 0


# --- the relatives

@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(-8, 8), st.integers(0, 3)), min_size=1, max_size=16))
def test_leave_one_out_compares_with_the_others(rows):
    rewards, group = [r / 8 for r, _ in rows], [g for _, g in rows]
    found = grpo.group_advantages(torch.tensor(rewards), torch.tensor(group), False, "others")
    for i, (r, g) in enumerate(zip(rewards, group, strict=True)):
        others = [x for j, (x, h) in enumerate(zip(rewards, group, strict=True))
                  if h == g and j != i]
        want = r - sum(others) / len(others) if others else 0.0
        assert float(found[i]) == pytest.approx(want, abs=1e-5)


def test_leave_one_out_is_a_factor():
    rewards, group = torch.randn(12), torch.arange(12) // 4
    centred = grpo.group_advantages(rewards, group, False)
    others = grpo.group_advantages(rewards, group, False, "others")
    assert torch.allclose(others, centred * 4 / 3, atol=1e-6)


def test_sequence_log_ratio_is_the_mean_over_the_response():
    out = rollout(policy())
    wave = torch.sin(torch.arange(out.mask.numel()).view_as(out.mask) * 1.0)
    found = grpo.sequence_log_ratio(out.logp + wave, out.logp, out.mask)
    for i, row in enumerate(out.mask.bool()):
        assert float(found[i]) == pytest.approx(float(wave[i, row].mean()), abs=1e-5)


def test_a_response_without_tokens_has_a_log_ratio_of_zero():
    mask = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    found = grpo.sequence_log_ratio(torch.full((2, 2), -1.0), torch.full((2, 2), -3.0), mask)
    assert found.tolist() == [[0.0], [2.0]]


def test_gspo_clips_whole_responses():
    gpt = policy()
    batch = trained_batch(gpt, "sequence")
    loss, sums = loss_and_sums(gpt, batch, options(ratio="sequence", clip_low=0.01,
                                                     clip_high=0.02))
    want, cut = 0.0, 0
    logp = gpt.logp(batch.tokens, batch.mask).detach()
    for i, row in enumerate(batch.mask.bool()):
        ratio = math.exp(float((logp - batch.old_logp)[i, row].mean()))
        a = float(batch.advantages[i, row][0])
        want -= min(ratio * a, min(max(ratio, 0.99), 1.02) * a) / len(batch.mask)
        cut += int(row.sum()) * (ratio > 1.02 and a > 0 or ratio < 0.99 and a < 0)
    assert float(loss.detach()) == pytest.approx(want, abs=1e-5)
    assert int(sums["clipfrac_low"] + sums["clipfrac_high"]) == cut > 0


def test_a_product_ratio_clips_whole_responses_as_trl_s_rloo_does():
    """RLOOTrainer: one ratio for the whole response, and the mean over responses."""
    gpt = policy()
    batch = trained_batch(gpt, "sequence")
    logp = gpt.logp(batch.tokens, batch.mask)
    ratio = ((logp - batch.old_logp) * batch.mask).sum(1).exp()
    advantages = torch.stack([row[mask > 0][0] for row, mask in
                              zip(batch.advantages, batch.mask, strict=True)])
    theirs = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
    want = torch.cat([g.flatten() for g in torch.autograd.grad(theirs, list(gpt.parameters()))])
    loss, _ = grpo.loss(gpt, None, batch, options(ratio="product"))
    assert float(loss.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    found = gradient(gpt, [batch], options(ratio="product"))
    assert want.abs().max() > 1e-2 and torch.allclose(found, want, atol=1e-5, rtol=1e-3)
    assert not torch.allclose(gradient(gpt, [batch], options(ratio="sequence")), want, rtol=1e-2)


@pytest.mark.parametrize("ratio", ["token", "sequence", "product"])
@pytest.mark.parametrize("far", [(0.0, -200.0), (-1e4, 0.0), (-3e38, -3e38), (0.0, -3e38)])
def test_the_loss_is_finite_for_any_finite_log_probs(ratio, far):
    logp = torch.tensor([[far[0], -1.0, -2.0]] * 3, requires_grad=True)
    old = torch.tensor([[far[1], -1.5, far[1]]] * 3)
    mask, advantages = torch.ones(3, 3), torch.tensor([[0.0], [1.0], [-1.0]]).expand(3, 3)
    batch = ppo.Batch(None, mask, old, None, None, ref_logp=old, advantages=advantages,
                      weights=mask / 9)
    model = SimpleNamespace(logprobs=lambda *_, **__: (logp, None))
    for kl in ppo.KL:
        how = options(ratio=ratio, kl_coef=0.1, kl=kl, unbiased_kl=True)
        loss, metrics = grpo.loss(model, None, replace(batch, tokens=mask), how)
        [gradient] = torch.autograd.grad(loss, logp)
        assert loss.isfinite() and gradient.isfinite().all()
        assert all(x.isfinite().all() for x in metrics.values())


def test_gspo_s_gradient_does_not_depend_on_the_cut():
    gpt, opts = policy(), options(ratio="sequence", clip_low=0.3, clip_high=0.3)
    batch = trained_batch(gpt, "sequence")
    parts = [batch.rows(torch.tensor(rows)) for rows in ([11, 0, 5], [1, 2, 3, 4], [6],
                                                         [7, 8, 9, 10])]
    whole = gradient(gpt, [batch], opts)
    assert whole.abs().max() > 1e-2
    assert torch.allclose(gradient(gpt, parts, opts), whole, atol=1e-5, rtol=1e-4)


def test_a_kl_paid_with_the_reward_lowers_what_is_compared():
    out = rollout(policy())
    rewards = torch.arange(12.0) % 4
    batch = ppo.Batch(out.tokens, out.mask, out.logp, out.group, rewards,
                      ref_logp=out.logp - 0.1 * out.mask)
    made = grpo.prepare(batch, options(kl_coef=2.0, kl_in="reward", scale_by_std=False))
    want = advantages_loop((rewards - 0.2 * out.mask.sum(1)).tolist(), out.group.tolist(), False)
    for i, row in enumerate(out.mask.bool()):
        assert made.advantages[i, row].tolist() == pytest.approx([want[i]] * int(row.sum()),
                                                                 abs=1e-4)


# --- the further options

def test_maxrl_divides_by_the_mean_reward():
    """3 right of 4: 1/3 and -1. 1 right of 4: 3 and -1. A group without a right answer: 0."""
    rewards = torch.tensor([1.0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    found = grpo.group_advantages(rewards, torch.arange(12) // 4, divisor="mean")
    assert found.tolist() == pytest.approx([1 / 3] * 3 + [-1] + [3] + [-1] * 3 + [0] * 4, abs=1e-4)


def test_lite_ppo_divides_by_the_std_of_the_batch():
    rewards = torch.tensor([1.0, 0, 0, 0.5, 0.5, 0.5, 1, 1, 0])
    group = torch.arange(9) // 3
    mean = sum(rewards.tolist()) / 9
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards.tolist()) / 8)
    centred = advantages_loop(rewards.tolist(), group.tolist(), False)
    found = grpo.group_advantages(rewards, group, divisor="batch-std")
    assert found.tolist() == pytest.approx([a / std for a in centred], abs=1e-5)
    assert grpo.group_advantages(rewards[:1], group[:1], divisor="batch-std").tolist() == [0.0]


def test_reinforce_pp_whitens_the_returns_of_all_tokens():
    """With a KL in the reward, the return of a token is the reward less the KL from there on."""
    mask = torch.tensor([[0, 1.0, 1], [0, 1, 0], [0, 1, 1]])
    batch = ppo.Batch(mask, mask, -0.5 * mask, torch.tensor([0, 0, 1]), torch.tensor([1.0, 0, 0]),
                      ref_logp=-0.75 * mask)
    for coef, returns in ((0.0, [1.0, 1.0, 0, 0, 0]), (2.0, [0.0, 0.5, -0.5, -1.0, -0.5])):
        found = grpo.prepare(batch, options(baseline="batch", divisor="batch-std", kl_coef=coef,
                                            kl_in="reward")).advantages
        mean = sum(returns) / 5
        std = math.sqrt(sum((r - mean) ** 2 for r in returns) / 4)
        assert found[mask > 0].tolist() == pytest.approx([(r - mean) / std for r in returns],
                                                         abs=1e-5)
        assert not found[mask == 0].any()


def test_gdpo_tells_apart_what_the_sum_of_rewards_confuses():
    """Right without format and wrong with format have equal sums in the second group."""
    correct, form = torch.tensor([1.0, 0, 1, 0] * 2), torch.tensor([1.0, 0, 0, 0, 0, 1, 1, 0])
    group = torch.arange(8) // 4
    parts = [advantages_loop(part.tolist(), group.tolist(), True) for part in (correct, 0.1 * form)]
    total = [a + b for a, b in zip(*parts, strict=True)]
    std = math.sqrt(sum(a * a for a in total) / 7)
    found = grpo.decoupled_advantages(correct + 0.1 * form, correct, group)
    assert found.tolist() == pytest.approx([a / std for a in total], abs=1e-4)
    batch = ppo.Batch(correct[:, None], torch.ones(8, 1), correct[:, None], group,
                      correct + 0.1 * form, correct)
    made = grpo.prepare(batch, options(decouple_rewards=True)).advantages[:, 0]
    assert torch.equal(made, found)
    equal = grpo.decoupled_advantages(torch.full((8,), 1.1), torch.ones(8), group)
    assert equal.tolist() == [0.0] * 8
    correct[6] = 0  # all have the format: correctness alone counts
    alone = advantages_loop(correct.tolist(), group.tolist(), True)
    want = [a / math.sqrt(sum(x * x for x in alone) / 7) for a in alone]
    assert grpo.decoupled_advantages(correct + 0.1, correct, group).tolist() == pytest.approx(
        want, abs=1e-5)


def test_the_divisor_of_the_group_is_the_default():
    rewards = torch.tensor([1.1, 0.1, 0.0, 0.1, 1.0, 0.0])
    one, other = (grpo.group_advantages(rewards, torch.arange(6) // 3, True, "mean", *more)
                  for more in ((), ("std",)))
    assert torch.equal(one, other)
