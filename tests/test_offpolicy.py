"""offpolicy.py: surrogates and weights against loops over floats and against TRL's numbers."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small import response_tensors

import grpo
import offpolicy
import ppo


def options(surrogate, **changes):
    bounds = {"cispo": dict(clip_low=1.0, clip_high=1.0),
              "gmpo": dict(clip_low=0.33, clip_high=0.49)}.get(surrogate, {})
    return SimpleNamespace(**dict(
        surrogate=surrogate, clip_low=0.2, clip_high=0.28, dual_clip=0.0, tau_pos=1.0, tau_neg=1.05,
        sampler_correction="none", sequence_mask=0.0, kl_coef=0.0, kl="k3", kl_in="loss",
        unbiased_kl=False, entropy_coef=0.0, temperature=1.0, ratio="token") | bounds | changes)


def batch(aggregate="sequence", **how):
    """logp and the batch of small.response_tensors, as in tests/test_trl.py."""
    logp, old, _, mask, advantages, _ = response_tensors(**how)
    return logp, ppo.Batch(mask, mask, old, None, None, advantages=advantages[:, None] * mask,
                           weights=ppo.token_weights(mask, aggregate, 9))


def loss_and_gradient(logp, batch, options):
    policy = SimpleNamespace(logprobs=lambda *_, **__: (logp, None))
    loss, metrics = offpolicy.loss(policy, None, batch, options)
    return float(loss.detach()), torch.autograd.grad(loss, logp)[0], metrics


# --- the definitions, in Python floats

def slope_loop(surrogate, x, a, o):
    """-d(loss of a token)/d(logp), of log-ratio x and advantage a, if no other token matters."""
    r = math.exp(x)
    if surrogate == "likelihood":
        return a
    if surrogate == "clip":
        return 0.0 if a > 0 and r > 1 + o.clip_high or a < 0 and r < 1 - o.clip_low else r * a
    if surrogate == "cispo":
        return min(max(r, 1 - o.clip_low), 1 + o.clip_high) * a
    tau = o.tau_pos if a > 0 else o.tau_neg
    gate = 1 / (1 + math.exp(-tau * (r - 1)))
    return 4 * gate * (1 - gate) * r * a


@pytest.mark.parametrize("surrogate", ["clip", "likelihood", "cispo", "sapo"])
@pytest.mark.parametrize("aggregate", ["sequence", "token"])
def test_the_gradient_of_each_token_is_the_definition_s(surrogate, aggregate):
    logp, given = batch(aggregate, spread=0.8)
    o = options(surrogate)
    _, gradient, _ = loss_and_gradient(logp, given, o)
    want = torch.tensor([[-w * slope_loop(surrogate, x, a, o) for w, x, a in zip(*row, strict=True)]
                         for row in zip(given.weights.tolist(), (logp - given.old_logp).tolist(),
                                        given.advantages.tolist(), strict=True)])
    assert torch.allclose(gradient, want, atol=1e-6) and want.abs().max() > 0.03


def test_gmpo_is_the_geometric_mean_of_clipped_ratios():
    logp, given = batch(spread=0.8)
    o = options("gmpo")
    loss, gradient, _ = loss_and_gradient(logp, given, o)
    total, want, rows = 0.0, torch.zeros_like(logp), given.mask.sum(1).long().tolist()
    low, high = math.log(0.67), math.log(1.49)
    for i, n in enumerate(rows):
        a = float(given.advantages[i, 0])
        gaps = (logp - given.old_logp)[i, :n].tolist()
        bounded = [min(x, high) if a > 0 else max(x, low) for x in gaps]
        mean = math.exp(sum(bounded) / n)
        total -= a * mean / len(rows)
        for t, (x, y) in enumerate(zip(gaps, bounded, strict=True)):
            want[i, t] = -a * mean / n / len(rows) if x == y else 0.0
    assert loss == pytest.approx(total, abs=1e-6) and torch.allclose(gradient, want, atol=1e-6)
    assert (want[given.mask > 0] == 0).any()


# Loss, and sum of the squared gradient, of TRL 1.16: GRPOTrainer with loss_type "cispo" (with
# epsilon_high 2), "sapo" (temperatures 1 and 1.05) and "grpo" (off_policy_mask_threshold 0.1), and
# GMPOTrainer (epsilons -log 0.67 and log 1.49). tests/test_trl.py calls TRL itself.
TRL = {"cispo": (0.17296204, 0.01720060), "sapo": (-0.75270969, 0.03234937),
       "gmpo": (-0.39179340, 0.03109899), "mask": (-0.37208471, 0.00880856)}


@pytest.mark.parametrize("name", TRL)
def test_losses_and_gradients_are_trl_s(name):
    surrogate, aggregate, limit = {"cispo": ("cispo", "token", 0), "sapo": ("sapo", "sequence", 0),
                                   "gmpo": ("gmpo", "sequence", 0),
                                   "mask": ("clip", "sequence", 0.1)}[name]
    loss, gradient, _ = loss_and_gradient(*batch(aggregate), options(surrogate,
                                                                     sequence_mask=limit))
    assert (loss, float((gradient**2).sum())) == pytest.approx(TRL[name], abs=1e-6)


# --- what they have in common, and where they differ

@pytest.mark.parametrize("surrogate", offpolicy.SURROGATES)
def test_on_the_first_update_all_have_reinforce_s_gradient(surrogate):
    """The ratio is 1, so nothing is clipped, and each gate and weight is 1."""
    logp, given = batch()
    given = replace(given, old_logp=logp.detach())
    _, gradient, metrics = loss_and_gradient(logp, given, options(surrogate))
    assert torch.allclose(gradient, -given.weights * given.advantages, atol=1e-6)
    assert not any(metrics[name].any() for name in ("clipfrac_low", "clipfrac_high"))


def test_clip_is_grpo_to_the_last_bit():
    logp, given = batch("token", spread=0.8)
    policy = SimpleNamespace(logprobs=lambda *_, **__: (logp, None))
    loss, gradient, metrics = loss_and_gradient(logp, given, options("clip"))
    want, theirs = grpo.loss(policy, None, given, options("clip"))
    assert loss == float(want.detach())
    assert torch.equal(gradient, torch.autograd.grad(want, logp)[0])
    assert all(torch.equal(metrics[name], theirs[name]) for name in theirs)


def test_far_above_the_bound_only_clip_and_gmpo_silence_a_token():
    logp, given = batch()
    given = replace(given, old_logp=logp.detach() - 2.0 * given.mask,  # ratio 7.4
                    advantages=given.mask)
    size = {name: float(loss_and_gradient(logp, given, options(name))[1].abs().sum())
            for name in offpolicy.SURROGATES}
    assert size["clip"] == size["gmpo"] == 0
    assert size["likelihood"] == pytest.approx(1, abs=1e-5)
    assert size["cispo"] == pytest.approx(2, abs=1e-5) and 0 < size["sapo"] < 0.06


@pytest.mark.parametrize("surrogate", offpolicy.SURROGATES)
@pytest.mark.parametrize("far", [(0.0, -200.0), (-1e4, 0.0)])
def test_the_loss_is_finite_for_far_policies(surrogate, far):
    logp = torch.tensor([[far[0], -1.0, -2.0]] * 3, requires_grad=True)
    old = torch.tensor([[far[1], -1.5, far[1]]] * 3)
    given = ppo.Batch(old, torch.ones(3, 3), old, None, None, weights=torch.ones(3, 3) / 9,
                      advantages=torch.tensor([[0.0], [1.0], [-1.0]]).expand(3, 3),
                      sampler_logp=old + far[0])
    for correction in offpolicy.CORRECTIONS:
        loss, gradient, metrics = loss_and_gradient(
            logp, given, options(surrogate, sampler_correction=correction, sequence_mask=0.1))
        assert math.isfinite(loss) and gradient.isfinite().all()
        assert all(x.isfinite().all() for x in metrics.values())


# --- weights

def test_corrections_weigh_by_the_ratio_of_trainer_to_sampler():
    ratio = torch.tensor([0.1, 0.4999, 0.5, 1.0, 1.9, 2.1, 5.0, 5.1])
    want = {"none": [1.0] * 8, "tis": [0.1, 0.4999, 0.5, 1.0, 1.9, 2.0, 2.0, 2.0],
            "icepop": [0.0, 0.0, 0.5, 1.0, 1.9, 2.1, 5.0, 0.0]}
    for name, weights in want.items():
        assert offpolicy.CORRECTIONS[name](ratio).tolist() == pytest.approx(weights)
    logp, given = batch()
    given = replace(given, sampler_logp=given.old_logp - math.log(1.5))
    _, plain, _ = loss_and_gradient(logp, given, options("clip"))
    for name in ("tis", "icepop"):
        _, found, _ = loss_and_gradient(logp, given, options("clip", sampler_correction=name))
        assert torch.allclose(found, 1.5 * plain, atol=1e-6)


def test_the_sequence_mask_drops_wrong_answers_that_were_left_already():
    mask = torch.tensor([[1.0, 1, 0]] * 4)
    advantages = torch.tensor([[-1.0], [1.0], [-1.0], [0.0]]).expand(4, 3)
    logp = torch.tensor([[-1.0, -2, 9], [-1, -2, 9], [-1, -1, 9], [-9, -9, 9]])
    found = offpolicy.sequence_mask(logp, torch.full((4, 3), -1.0), advantages, mask, 0.4)
    assert found[:, 0].tolist() == [0.0, 1.0, 1.0, 1.0]  # mean gaps: 0.5, 0.5, 0, 8
    assert offpolicy.sequence_mask(logp, torch.full((4, 3), -1.0), advantages, mask, 0.5).all()


@pytest.mark.parametrize("surrogate", offpolicy.SURROGATES)
def test_the_gradient_does_not_depend_on_the_cut(surrogate):
    logp, given = batch("token", spread=0.8)
    o = options(surrogate, sequence_mask=0.05, sampler_correction="icepop")
    given = replace(given, sampler_logp=given.old_logp - 0.3)
    _, whole, _ = loss_and_gradient(logp, given, o)
    for rows in ([0, 3], [1], [2, 4, 5]):
        index = torch.tensor(rows)
        part = given.rows(index)
        width = part.mask.shape[1]
        _, found, _ = loss_and_gradient(logp.detach()[index, :width].requires_grad_(), part, o)
        assert torch.allclose(found, whole[index, :width], atol=1e-6)
