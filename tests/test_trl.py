"""The losses against TRL's own, on the same tensors. Skipped where TRL is not installed."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from small import response_tensors
from test_dpo import loss_of_pairs, pair_tensors

import gkd
import grpo
import offpolicy
import ppo

trl = pytest.importorskip("trl")
EPS = 1e-6  # TRL adds 1e-4 to a standard deviation: here its formulas have our constant


def theirs(loss_type, level, beta, delta, unbiased_kl=False, trainer_class=None,
           epsilons=(0.2, 0.28), mask_threshold=None):
    """GRPOTrainer._compute_loss, or another class's, with as much of a trainer as it asks for."""
    from trl import GRPOTrainer
    logp, old, ref, mask, advantages, _ = response_tensors()
    same = SimpleNamespace(num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x,
                           reduce=lambda x, reduction: x, sync_gradients=True)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=mask_threshold,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        importance_sampling_level=level, beta=beta, loss_type=loss_type, epsilon_low=epsilons[0],
        epsilon_high=epsilons[1], use_vllm=False, vllm_importance_sampling_correction=False,
        model=SimpleNamespace(training=False), max_completion_length=9, accelerator=same,
        current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        args=SimpleNamespace(delta=delta, use_bias_correction_kl=unbiased_kl,
                             sapo_temperature_pos=1.0, sapo_temperature_neg=1.05,
                             steps_per_generation=1))
    ids = torch.zeros_like(mask).long()
    loss = (trainer_class or GRPOTrainer)._compute_loss(trainer, None, {
        "prompt_ids": ids[:, :0], "prompt_mask": ids[:, :0], "completion_ids": ids,
        "completion_mask": mask, "advantages": advantages, "old_per_token_logps": old,
        "ref_per_token_logps": ref, "num_items_in_batch": mask.sum()})
    loss.backward()
    return loss.detach(), logp.grad


def theirs_rloo():
    """RLOOTrainer._compute_loss: one ratio per response, and the mean over responses."""
    from trl import RLOOTrainer
    logp, old, _, mask, advantages, _ = response_tensors()
    same = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x,
                           reduce=lambda x, reduction: x)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp), None),
        aux_loss_enabled=False, epsilon_low=0.2, epsilon_high=0.28, accelerator=same,
        model=SimpleNamespace(training=False), _metrics=defaultdict(lambda: defaultdict(list)))
    ids = torch.zeros_like(mask).long()
    loss = RLOOTrainer._compute_loss(trainer, None, {
        "prompt_ids": ids[:, :0], "prompt_mask": ids[:, :0], "completion_ids": ids,
        "completion_mask": mask, "advantages": advantages, "old_logps": (old * mask).sum(1)})
    loss.backward()
    return loss.detach(), logp.grad


def ours(aggregate, level, beta, delta, unbiased_kl=False):
    logp, old, ref, mask, advantages, _ = response_tensors()
    batch = ppo.Batch(None, mask, old, None, None, ref_logp=ref,
                      advantages=advantages[:, None] * mask,
                      weights=ppo.token_weights(mask, aggregate, 9))
    options = SimpleNamespace(clip_low=0.2, clip_high=0.28, dual_clip=delta or 0.0, kl_coef=beta,
                              kl="k3", kl_in="loss", unbiased_kl=unbiased_kl,
                              entropy_coef=0.0, ratio=level, temperature=1.0)
    policy = SimpleNamespace(logprobs=lambda *_, **__: (logp, None))
    loss, _ = grpo.loss(policy, None, batch, options)
    loss.backward()
    return loss.detach(), logp.grad


@pytest.mark.parametrize("loss_type, aggregate", [
    ("grpo", "sequence"), ("dapo", "token"), ("bnpo", "token"), ("dr_grpo", "constant"),
    ("luspo", "sum")])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("beta, delta", [(0.0, None), (0.1, None), (0.0, 1.5)])
def test_losses_and_gradients_are_trl_s(loss_type, aggregate, level, beta, delta):
    if loss_type == "luspo" and level == "sequence":
        pytest.skip("TRL's sum is then over one number a response")
    (loss, grad), (their_loss, their_grad) = (ours(aggregate, level, beta, delta),
                                              theirs(loss_type, level, beta, delta))
    assert float(loss) == pytest.approx(float(their_loss), abs=1e-6)
    assert torch.allclose(grad, their_grad, atol=1e-6)


def test_the_unbiased_kl_is_trl_s_bias_correction():
    (loss, grad), (their_loss, their_grad) = (ours("token", "token", 0.1, None, True),
                                              theirs("dapo", "token", 0.1, None, True))
    assert float(loss) == pytest.approx(float(their_loss), abs=1e-6)
    assert torch.allclose(grad, their_grad, atol=1e-6)


def test_rloo_with_the_ratio_of_a_whole_response_is_trl_s():
    (loss, grad), (their_loss, their_grad) = ours("sequence", "product", 0.0, None), theirs_rloo()
    assert float(loss) == pytest.approx(float(their_loss), abs=1e-6)
    assert torch.allclose(grad, their_grad, atol=1e-6)


@pytest.mark.parametrize("surrogate, aggregate, bounds, loss_type, limit", [
    ("cispo", "token", (1.0, 1.0), "cispo", None), ("sapo", "sequence", (0.2, 0.28), "sapo", None),
    ("clip", "sequence", (0.2, 0.28), "grpo", 0.1), ("clip", "token", (0.2, 0.28), "dapo", 0.02),
    ("gmpo", "sequence", (0.33, 0.49), "grpo", None)])
def test_off_policy_losses_and_gradients_are_trl_s(surrogate, aggregate, bounds, loss_type, limit):
    from trl.experimental.gmpo import GMPOTrainer
    epsilons = {"cispo": (None, 2.0), "gmpo": (-math.log(0.67), math.log(1.49))}
    their_loss, their_grad = theirs(
        loss_type, "token", 0.0, None, epsilons=epsilons.get(surrogate, bounds),
        trainer_class=GMPOTrainer if surrogate == "gmpo" else None, mask_threshold=limit)
    logp, old, _, mask, advantages, _ = response_tensors()
    batch = ppo.Batch(mask, mask, old, None, None, advantages=advantages[:, None] * mask,
                      weights=ppo.token_weights(mask, aggregate, 9))
    options = SimpleNamespace(
        surrogate=surrogate, clip_low=bounds[0], clip_high=bounds[1], dual_clip=0.0, tau_pos=1.0,
        tau_neg=1.05, sampler_correction="none", sequence_mask=limit or 0.0, kl_coef=0.0,
        entropy_coef=0.0, temperature=1.0)
    policy = SimpleNamespace(logprobs=lambda *_, **__: (logp, None))
    loss, _ = offpolicy.loss(policy, None, batch, options)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(their_loss), abs=1e-6)
    assert torch.allclose(logp.grad, their_grad, atol=1e-6)


def test_gdpo_and_lite_ppo_have_trl_s_advantages():
    """normalize_then_sum and scale_rewards "batch" of _generate_and_score_completions."""
    from trl.trainer.utils import nanstd
    g = torch.Generator().manual_seed(0)
    correct, form = (torch.rand(2, 24, generator=g) > 0.4).float()
    group = torch.arange(24) // 4
    parts = torch.stack([correct, 0.1 * form], 1)
    grouped = parts.view(-1, 4, 2)
    std = nanstd(grouped, dim=1, keepdim=True)
    total = ((grouped - grouped.mean(1, keepdim=True)) / (std + EPS)).view(-1, 2).sum(1)
    want = (total - total.mean()) / (nanstd(total) + EPS)
    found = grpo.decoupled_advantages(parts.sum(1), correct, group)
    assert torch.allclose(found, want, atol=1e-5)
    rewards = parts.sum(1)
    mean = rewards.view(-1, 4).mean(1).repeat_interleave(4)
    found = grpo.group_advantages(rewards, group, divisor="batch-std")
    assert torch.allclose(found, (rewards - mean) / (nanstd(rewards) + EPS), atol=1e-6)


def test_group_advantages_are_trl_s():
    from trl.trainer.utils import nanstd
    rewards, group = torch.randn(24, generator=torch.Generator().manual_seed(0)), torch.arange(24)
    grouped = rewards.view(-1, 4)
    want = (grouped - grouped.mean(1, keepdim=True)) / (nanstd(grouped, dim=1)[:, None] + EPS)
    found = grpo.group_advantages(rewards, group // 4)
    assert torch.allclose(found, want.flatten(), atol=1e-6)


def theirs_dpo(beta, nll_coef):
    """DPOTrainer._compute_loss of three pairs. A mean of the loss of each pair alone, because its
    loss "sft" averages over the tokens of all pairs, and the paper over those of each response."""
    from trl import DPOTrainer
    logp, ref, mask = pair_tensors()
    accelerator = SimpleNamespace(device="cpu", gather=lambda x: x,
                                  gather_for_metrics=lambda x: x)
    total = 0.0
    for i in range(3):
        rows = slice(2 * i, 2 * i + 2)
        shifted = torch.nn.functional.pad(mask[rows], (1, 0))  # a prompt of one token
        zeros = torch.zeros_like(logp[rows])
        outputs = SimpleNamespace(log_probs=logp[rows] * mask[rows], entropy=zeros,
                                  mean_logits=zeros, is_top1=zeros.bool())
        trainer = SimpleNamespace(
            model=SimpleNamespace(training=False), accelerator=accelerator, aux_loss_enabled=False,
            ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", beta=beta,
            loss_types=["sigmoid", "sft"] if nll_coef else ["sigmoid"], use_weighting=False,
            loss_weights=[1.0, nll_coef] if nll_coef else [1.0], _total_train_tokens=0,
            _metrics=defaultdict(lambda: defaultdict(list)))
        ref_logps = (ref[rows] * mask[rows]).sum(1)
        total = total + DPOTrainer._compute_loss(
            trainer, lambda outputs=outputs, **_: outputs,
            {"input_ids": shifted.long(), "completion_mask": shifted.long(),
             "attention_mask": shifted, "ref_chosen_logps": ref_logps[:1],
             "ref_rejected_logps": ref_logps[1:]}, False) / 3
    return float(total.detach()), torch.autograd.grad(total, logp)[0]


@pytest.mark.parametrize("beta, nll_coef", [(0.5, 0.0), (0.5, 1.0), (0.1, 0.0), (0.1, 0.3)])
def test_dpo_loss_and_gradient_are_trl_s(beta, nll_coef):
    loss, gradient, _ = loss_of_pairs(*pair_tensors(), kl_coef=beta, nll_coef=nll_coef)
    their_loss, their_gradient = theirs_dpo(beta, nll_coef)
    assert loss == pytest.approx(their_loss, abs=1e-6)
    assert torch.allclose(gradient, their_gradient, atol=1e-6)


@pytest.mark.parametrize("vocabulary", [5, 300])
def test_reverse_kl_and_its_gradient_are_trl_s_generalised_jsd_with_beta_1(vocabulary):
    from trl.experimental.gkd import GKDTrainer
    g = torch.Generator().manual_seed(0)
    mask = response_tensors()[3] > 0
    logits, teacher_logits = 3 * torch.randn(2, *mask.shape, vocabulary, generator=g)
    logits.requires_grad_()
    labels = torch.where(mask, 1, -100)
    theirs = GKDTrainer.generalized_jsd_loss(logits, teacher_logits, labels, beta=1)
    [their_grad] = torch.autograd.grad(theirs, logits)
    found = gkd.reverse_kl(logits[mask].log_softmax(-1), teacher_logits[mask].log_softmax(-1))
    [grad] = torch.autograd.grad(found.mean(), logits)
    assert float(found.mean().detach()) == pytest.approx(float(theirs.detach()), abs=1e-6)
    assert torch.allclose(grad, their_grad, atol=1e-6)
