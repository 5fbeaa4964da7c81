"""kimi.py: the squared loss and the length reward against loops over floats, and the gradient of
the paper. tasks/curriculum.py: which problems are sampled."""

import json
import math
import random
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import kimi
import ppo
import tasks
from infra import forward


def options(**changes):
    return SimpleNamespace(**dict(
        pmd_tau=0.3, length_coef=0.5, length_warmup=0, clip_low=0.2, clip_high=0.2, dual_clip=0.0,
        kl_coef=0.0, kl_in="loss", entropy_coef=0.0, temperature=1.0, scale_by_std=False,
        baseline="mean", divisor="std", decouple_rewards=False) | changes)


def batch(aggregate="sum", seed=0):
    """Three groups of three responses: logp, which needs a gradient, and the batch."""
    g = torch.Generator().manual_seed(seed)
    mask = (torch.arange(7) < torch.tensor([7, 1, 4, 6, 2, 5, 3, 3, 3])[:, None]).float()
    old = -torch.rand(9, 7, generator=g)
    logp = (old + 0.5 * torch.randn(9, 7, generator=g)).requires_grad_()
    correct = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0, 1])
    given = ppo.Batch(mask, mask, old, torch.arange(9) // 3, correct + 0.1, correct,
                      weights=ppo.token_weights(mask, aggregate, 9))
    return logp, given


def loss_and_gradient(logp, batch, options):
    policy = SimpleNamespace(logprobs=lambda *_, **__: (logp, None))
    loss, metrics = kimi.loss(policy, None, batch, options)
    return float(loss.detach()), torch.autograd.grad(loss, logp)[0], metrics


# --- the loss

def test_the_loss_is_the_mean_of_the_squared_differences():
    logp, given = batch()
    given = kimi.prepare(given, options(length_coef=0))
    want, rewards = 0.0, given.rewards.tolist()
    for i in range(9):
        length, first = int(given.mask[i].sum()), i // 3 * 3
        mean = sum(rewards[first:first + 3]) / 3
        ratio = sum((logp - given.old_logp)[i, :length].tolist())
        want += (rewards[i] - mean - 0.3 * ratio) ** 2 / (2 * 0.3) / 9
    loss, _, metrics = loss_and_gradient(logp, given, options())
    assert loss == pytest.approx(want, abs=1e-6)
    assert not metrics["clipfrac_low"].any() and not metrics["clipfrac_high"].any()


def test_the_gradient_is_equation_3_of_the_paper():
    """Ascent along 1/k sum of (r - mean) grad logp - tau / 2 grad (log-ratio)^2."""
    logp, given = batch()
    given = kimi.prepare(given, options(length_coef=0))
    gain = 0.0
    for i in range(9):
        inside = given.mask[i] > 0
        group = given.rewards[given.group == given.group[i]]
        response, old = logp[i][inside].sum(), given.old_logp[i][inside].sum()
        gain = gain + (given.rewards[i] - group.mean()) * response - 0.15 * (response - old) ** 2
    _, found, _ = loss_and_gradient(logp, given, options())
    assert torch.allclose(found, -torch.autograd.grad(gain / 9, logp)[0], atol=1e-6)


@pytest.mark.parametrize("aggregate", ppo.AGGREGATIONS)
def test_a_token_has_its_weight_times_what_is_left_of_the_advantage(aggregate):
    logp, given = batch(aggregate)
    given = kimi.prepare(given, options())
    _, found, _ = loss_and_gradient(logp, given, options())
    ratio = ((logp.detach() - given.old_logp) * given.mask).sum(1, keepdim=True)
    left = given.advantages[:, :1] - 0.3 * ratio
    assert torch.allclose(found, -given.weights * left, atol=1e-6)


def test_on_the_first_update_it_is_reinforce_and_later_equal_rewards_pull_back():
    logp, given = batch()
    given = kimi.prepare(given, options())
    _, first, _ = loss_and_gradient(logp, replace(given, old_logp=logp.detach()), options())
    assert torch.allclose(first, -given.weights * given.advantages, atol=1e-6)
    equal = replace(given, advantages=torch.zeros_like(given.mask))
    _, later, _ = loss_and_gradient(logp, equal, options())
    ratio = ((logp.detach() - given.old_logp) * given.mask).sum(1, keepdim=True)
    assert torch.equal(later.sign(), (ratio * given.mask).sign()) and later.abs().max() > 0.01


def test_responses_without_advantage_are_in_the_update():
    """They pull the policy back. Other algorithms leave them out."""
    _, given = batch()
    given = replace(given, advantages=torch.zeros_like(given.mask))
    models = SimpleNamespace(critic=None)
    parts = [forward.micro_batches(given, models, options(pmd_tau=tau, micro_tokens=99))
             for tau in (0.3, 0.0)]
    assert sorted(sum(parts[0], [])) == list(range(9)) and not parts[1]


def test_the_best_policy_has_no_gradient():
    """old * exp(A / tau), up to its normalisation, solves the equation."""
    logp, given = batch()
    given = kimi.prepare(given, options())
    lengths = given.mask.sum(1, keepdim=True)
    best = (given.old_logp + given.advantages / 0.3 / lengths).requires_grad_()
    loss, gradient, _ = loss_and_gradient(best, given, options())
    assert loss == pytest.approx(0, abs=1e-9) and gradient.abs().max() < 1e-6


def test_tokens_without_weight_are_out_of_the_log_ratio_and_of_the_loss():
    logp, given = batch()
    given = kimi.prepare(given, options())
    kept = given.mask.clone()
    kept[0, :4], kept[4] = 0, 0  # the old segment of one response, and a whole response
    part = replace(given, weights=ppo.token_weights(kept, "sum"))
    loss, gradient, _ = loss_and_gradient(logp, part, options())
    assert math.isfinite(loss) and not gradient[kept == 0].any() and gradient[kept > 0].all()
    ratio = float((logp.detach() - given.old_logp)[0, 4:].sum())
    want = -(float(given.advantages[0, 0]) - 0.3 * ratio) / 9
    assert gradient[0, 4:].tolist() == pytest.approx([want] * 3, abs=1e-6)


def test_far_policies_have_a_finite_loss_that_still_pulls():
    _, given = batch()
    given = kimi.prepare(given, options())
    far = (given.old_logp - 1e4).requires_grad_()
    loss, gradient, _ = loss_and_gradient(far, given, options())
    assert math.isfinite(loss) and gradient.isfinite().all()
    assert (gradient[given.mask > 0] < -100).all()  # descent raises each log-prob


@pytest.mark.parametrize("aggregate", ppo.AGGREGATIONS)
def test_the_gradient_does_not_depend_on_the_cut(aggregate):
    logp, given = batch(aggregate)
    given = kimi.prepare(given, options())
    _, whole, _ = loss_and_gradient(logp, given, options())
    for rows in ([0, 3, 8], [1], [2, 4, 5, 6, 7]):
        index = torch.tensor(rows)
        part = given.rows(index)
        width = part.mask.shape[1]
        _, found, _ = loss_and_gradient(logp.detach()[index, :width].requires_grad_(), part,
                                        options())
        assert torch.allclose(found, whole[index, :width], atol=1e-6)


# --- the length reward

def test_the_length_reward_is_the_paper_s():
    lengths, correct = [7.0, 1, 4, 6, 2, 5, 3, 3, 3], [1.0, 0, 0, 0, 1, 1, 1, 0, 1]
    want = []
    for i, (length, right) in enumerate(zip(lengths, correct, strict=True)):
        group = lengths[i // 3 * 3:i // 3 * 3 + 3]
        if max(group) == min(group):
            want.append(0.0)
            continue
        score = 0.5 - (length - min(group)) / (max(group) - min(group))
        want.append(score if right else min(0.0, score))
    found = kimi.length_reward(torch.tensor(lengths), torch.tensor(correct), torch.arange(9) // 3)
    assert found.tolist() == pytest.approx(want)
    assert want[0] == -0.5 and want[4] == 0.5 and want[1] == 0.0 and want[6:] == [0.0] * 3


def test_the_length_reward_begins_after_its_warm_up():
    _, given = batch()
    plain = kimi.prepare(given, options(length_coef=0))
    warming = kimi.prepare(given, options(length_warmup=1))
    later = kimi.prepare(given, options(length_warmup=0))
    assert torch.equal(plain.advantages, warming.advantages)
    bonus = kimi.length_reward(given.mask.sum(1), given.correct, given.group)
    assert torch.allclose(later.rewards, given.rewards + 0.5 * bonus)
    assert later.advantages[0, 0] < plain.advantages[0, 0]  # the longest, though right


# --- the choice of problems

def chosen(how, done=0.0, rates=None, n=400, levels="3,1,2", task=None):
    task = task or tasks.mix_levels(tasks.Arithmetic(2), levels)
    o = SimpleNamespace(problem_sampling=how)
    state = {} if rates is None else {"success_rates": rates}
    return tasks.sample_problems(task, random.Random(0), n, state, o, done)


def test_uniform_sampling_is_the_task_s_own():
    task = tasks.mix_levels(tasks.Arithmetic(2), "3,1")
    assert chosen("uniform", n=8, task=task) == task.sample(random.Random(0), 8)


@pytest.mark.parametrize("done, levels", [(0.0, {1}), (0.3, {1}), (0.34, {1, 2}),
                                          (0.7, {1, 2, 3}), (0.999, {1, 2, 3}), (1.0, {1, 2, 3})])
def test_a_curriculum_opens_the_levels_from_easy_to_hard(done, levels):
    found = [problem.level for problem in chosen("curriculum", done)]
    assert set(found) == levels
    assert all(found.count(i) / 400 == pytest.approx(1 / len(levels), abs=0.08) for i in levels)
    numbers = {1: 2, 2: 3, 3: 4}
    assert all(len(re.findall("[0-9]+", p.question)) == numbers[p.level]
               for p in chosen("curriculum", done, n=20))


@pytest.mark.parametrize("rates, want", [
    (None, [1 / 3] * 3), (dict.fromkeys("123", 1.0), [1 / 3] * 3),
    ({"1": 0.8, "2": 0.5, "3": 0.0}, [0.2 / 1.7, 0.5 / 1.7, 1 / 1.7]),
    ({"1": 1.0, "2": 0.0}, [0.05 / 2.05, 1 / 2.05, 1 / 2.05])])
def test_prioritized_sampling_follows_the_failures(rates, want):
    found = [problem.level for problem in chosen("prioritized", rates=rates, n=1200)]
    assert [found.count(i) / 1200 for i in (1, 2, 3)] == pytest.approx(want, abs=0.05)


def test_prioritized_sampling_of_a_file_follows_each_problem(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}+1=?", "answer": str(i + 1)}) + "\n"
                            for i in range(30)))
    task = tasks.File(path=str(path))
    first, second = task.train[:2]
    rates = {p.identity: 1.0 for p in task.train} | {first.identity: 0.0, second.identity: 0.5}
    found = chosen("prioritized", rates=rates, n=1200, task=task)
    total = 1.5 + 0.05 * (len(task.train) - 2)
    assert found.count(first) / 1200 == pytest.approx(1 / total, abs=0.05)
    assert found.count(second) / 1200 == pytest.approx(0.5 / total, abs=0.05)


def test_success_rates_are_those_of_the_last_visit():
    def samples(problem, *verdicts):
        return [(problem, "", SimpleNamespace(parts={"correct": v})) for v in verdicts]
    state, o = {}, SimpleNamespace(problem_sampling="prioritized")
    easy, other = tasks.Problem("1", "1", level=1), tasks.Problem("2", "2", level=1)
    tasks.record_success(state, samples(easy, 1.0, 0.0) + samples(other, 0.0, 0.0), o)
    tasks.record_success(state, samples(tasks.Problem("3", "3"), 1.0), o)
    assert state == {"success_rates": {"1": 0.25, "3": 1.0}}
    tasks.record_success(state, samples(easy, 1.0), o)
    assert state == {"success_rates": {"1": 1.0, "3": 1.0}}
    o.problem_sampling, state = "uniform", {}
    tasks.record_success(state, samples(easy, 1.0), o)
    assert not state  # endless problems would fill the checkpoint
