"""vapo.py: the lambda of each length, the likelihood of right answers, and PPO without both."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import ppo
import vapo
from config import PRESETS, Options


def options(**changes):
    return Options(algo="vapo", **PRESETS["vapo"][1] | dict(critic_warmup=0) | changes)


def batch(correct=(1, 0, 1, 0, 1, 1), seed=0):
    """Responses of 7, 1, 4, 6, 2 and 5 tokens after a prompt of one token."""
    g = torch.Generator().manual_seed(seed)
    right, columns = torch.tensor(correct, dtype=torch.float), torch.arange(8)
    mask = ((columns > 0) & (columns <= torch.tensor([7, 1, 4, 6, 2, 5])[:, None])).float()
    noise = lambda: torch.randn(6, 8, generator=g) * mask  # noqa: E731
    return ppo.Batch(torch.arange(48).view(6, 8), mask, noise() - 2, torch.arange(6) // 2, right,
                     right, values=noise())


def gae_loop(rewards, values, lambda_):
    """The advantages of one response: sums of the deltas that follow, gamma is 1."""
    after = [*values[1:], 0.0]
    deltas = [r + w - v for r, w, v in zip(rewards, after, values, strict=True)]
    return [sum(lambda_ ** (k - t) * deltas[k] for k in range(t, len(deltas)))
            for t in range(len(deltas))]


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 3.0])
def test_lambda_is_the_one_whose_geometric_series_is_alpha_times_the_length(alpha):
    lengths = torch.tensor([1.0, 2, 10, 20, 40, 1000])
    for length, found in zip(lengths.tolist(), vapo.length_adaptive_lambda(lengths, alpha).tolist(),
                             strict=True):
        if alpha * length < 1:  # no lambda from 0 to 1 has such a series
            assert found == 0
        else:
            assert sum(found**k for k in range(20_000)) == pytest.approx(alpha * length, rel=2e-3)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_advantages_are_the_loop_s_with_a_lambda_per_response_and_whitened(alpha):
    given = batch()
    made = vapo.prepare(given, options(gae_alpha=alpha))
    found = []
    for mask, values, right in zip(given.mask, given.values, given.rewards.tolist(), strict=True):
        n = int(mask.sum())
        rewards = [0.0] * (n - 1) + [right]
        found += gae_loop(rewards, values[mask > 0].tolist(), max(0.0, 1 - 1 / (alpha * n)))
    want = torch.tensor(found)
    assert torch.allclose(made.advantages[given.mask > 0], (want - want.mean()) / want.std(),
                          atol=1e-5)
    assert not made.advantages[given.mask == 0].any()


def test_the_critic_learns_monte_carlo_returns_whatever_the_lambda_of_the_policy():
    given = batch()
    for alpha in (0.05, 1.0):
        made = vapo.prepare(given, options(gae_alpha=alpha))
        assert torch.allclose(made.returns, given.rewards[:, None] * given.mask, atol=1e-6)
    warm = vapo.prepare(given, options(critic_warmup=2))
    assert warm.advantages is None and torch.allclose(warm.returns, made.returns)


def policy_loss(given, o, logp):
    given = replace(vapo.prepare(given, o), weights=ppo.token_weights(given.mask, "token"))
    loss, _ = vapo.policy_loss(logp, given, o)
    return float(loss.detach()), torch.autograd.grad(loss, logp)[0], given


@pytest.mark.parametrize("correct", [(1, 0, 1, 0, 1, 1), (0,) * 6, (1,) * 6])
def test_the_likelihood_is_the_mean_over_the_tokens_of_right_answers(correct):
    given = batch(correct)
    logp = (given.old_logp + 0.1 * given.mask).requires_grad_()
    with_, gradient, _ = policy_loss(given, options(nll_coef=0.1), logp)
    without, plain, made = policy_loss(given, options(nll_coef=0.0), logp)
    tokens = [float(x) for row, mask, right in zip(logp.detach(), given.mask, correct, strict=True)
              for x in row[mask > 0] if right]
    want = -0.1 * sum(tokens) / len(tokens) if tokens else 0.0
    assert with_ - without == pytest.approx(want, abs=1e-6)
    slope = (gradient - plain)[given.mask > 0]
    right = (given.mask * given.correct[:, None])[given.mask > 0]
    assert torch.allclose(slope, -0.1 * right / max(1, len(tokens)), atol=1e-7)
    assert without == pytest.approx(float(ppo.policy_loss(logp, made, options())[0].detach()))


def test_without_alpha_and_likelihood_it_is_ppo_to_the_last_bit():
    given, o = batch(), options(gae_alpha=0.0, nll_coef=0.0, gae_lambda=0.9)
    made, theirs = vapo.prepare(given, o), ppo.prepare(given, o)
    assert torch.equal(made.advantages, theirs.advantages)
    assert torch.equal(made.returns, theirs.returns) and not made.nll.any()


def test_the_loss_does_not_depend_on_the_cut_and_adds_up_over_the_mini_batches():
    given = vapo.prepare(batch(), options())
    hidden = torch.randn(6, 8, generator=torch.Generator().manual_seed(3), requires_grad=True)

    def loss(part, o, module=vapo):
        """The policy's log-prob of a token is a parameter; the critic is always right."""
        own = hidden[part.tokens[:, 0] // 8, :part.mask.shape[1]]
        policy = SimpleNamespace(hidden_states=lambda *_: own, logprobs=lambda *_: (-own**2, None))
        return module.loss(policy, lambda *_: part.returns, part, o)[0]
    o = options(minibatches=2)
    likelihood = 0.0
    for step in ppo.minibatches(given, o, random.Random(0)):
        cut = sum(loss(step.rows(torch.tensor([rows])), o)
                  for rows in range(len(step.mask)))
        whole, found = (torch.autograd.grad(x, hidden)[0] for x in (loss(step, o), cut))
        assert torch.allclose(whole, found, atol=1e-7) and whole.any()
        own = hidden[step.tokens[:, 0] // 8, :step.mask.shape[1]].detach()
        assert float((loss(step, o) - loss(step, o, ppo)).detach()) == pytest.approx(
            float((step.weights * step.nll * own**2).sum()), abs=1e-6)
        likelihood += float((step.weights * step.nll).sum()) * float(step.mask.sum())
    assert likelihood == pytest.approx(0.1 * float(given.mask.sum()), rel=1e-5)
