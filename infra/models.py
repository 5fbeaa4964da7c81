"""The networks of a run and their optimizer, in the precision and on the devices asked for."""

import copy
import math
from typing import NamedTuple

import torch

import evaluate
import model as gpt
import ppo
import prm
import verify
from config import needs_critic
from engine.critic_hints import HintedCritic
from infra import distributed, run_dir
from tokenizer import Tokenizer


class Models(NamedTuple):
    """The networks of a run and their tokenizer. The sampler is the policy itself, or a copy of its
    weights: unsharded, and in the precision of the computation (--dtype)."""

    policy: gpt.GPT
    tokenizer: Tokenizer | None = None    # of the policy
    reference: gpt.GPT | None = None      # for the KL
    critic: torch.nn.Module | None = None
    sampler: gpt.GPT | None = None
    reward_model: torch.nn.Module | None = None  # for --reward process

    def rollout_policy(self, options) -> gpt.GPT:
        """The network that samples the training responses: the reference, if DPO is to learn from
        its responses (--sample-from), otherwise the sampler."""
        return self.reference if options.sample_from == "reference" else self.sampler

    def sync_sampler(self) -> None:
        """Copies the policy's weights to the sampler, in place: its CUDA graphs point there."""
        if self.sampler is not self.policy:
            with torch.no_grad():
                for target, weight in zip(self.sampler.parameters(), self.policy.parameters(),
                                          strict=True):
                    target.copy_(distributed.full_tensor(weight.detach()))


def make_models(policy: gpt.GPT, tokenizer: Tokenizer, options):
    """The Models around a policy, and the optimizer of policy and critic."""
    precision = getattr(torch, options.dtype)
    policy.checkpointing = options.gradient_checkpointing
    reference, critic, sampler = copy.deepcopy(policy).cast(precision), None, policy
    if options.shard or options.compile or precision != torch.float32:
        sampler = copy.deepcopy(policy).cast(precision)
    if options.compile:  # takes half a minute, at the first update
        for block in policy.blocks:
            block.compile(dynamic=True)
    if options.shard:
        distributed.shard(policy)
    groups = [{"params": list(policy.parameters())}]
    if needs_critic(options.algo):
        critic = ppo.Critic(policy, options.critic == "own")
        critic = HintedCritic(critic) if options.critic_hints else critic
        critic.to(options.device)
        groups.append({"params": list(critic.parameters())})
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.95), weight_decay=0.0,
                                  fused=options.device.startswith("cuda"))
    reward_model = None
    if options.judge:
        reward_model = load_judge(options.judge, options.device)
    return Models(policy, tokenizer, reference, critic, sampler, reward_model), optimizer


def load_judge(run: str, device: str) -> torch.nn.Module:
    """The process reward model of the run in --judge. Raises ValueError or OSError where its files
    cannot be read."""
    return prm.load(run, evaluate.load_policy(run, device))["prm"]


def restore(models: Models, optimizer, saved: dict) -> dict:
    """Loads a checkpoint, except for the policy's weights, and returns its state. Raises UserError
    for the checkpoint of a run with other networks, and for one that holds the policy alone."""
    if "optimizer" not in saved:
        raise run_dir.UserError("checkpoint.pt holds the policy alone, because the run had "
                                "--no-checkpoints; start a new run with another --out")
    try:
        models.reference.load_state_dict(saved["reference"])
        if models.critic is not None:
            models.critic.load_state_dict(saved["critic"])
        distributed.load_moments(optimizer, saved["optimizer"])
        state = saved["state"]
        numbers = [state[k] for k in ("step", "tokens_sampled", "kl_coef", "seconds_rl",
                                      "seconds_base", "seconds_eval")]
        numbers += [state.get(k, 0.0) for k in ("entropy", "entropy_coef")]  # of --entropy-target
        if {*map(type, numbers)} - {int, float} or not isinstance(state["before"], dict):
            raise ValueError("the state of the loop is of other types")
        return state
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise run_dir.UserError("checkpoint.pt holds other networks than those of this run's "
                                "settings; start a new run with another --out") from error


def refuse_infinite(rewards, samples, options) -> None:
    """Raises RewardError that names the problem and the value, where a reward (float32) is NaN or
    infinite."""
    source = f"--reward {options.reward}"
    if options.reward == "process":
        source = f"the process reward model of --judge {options.judge}"
    for reward, (problem, *_) in zip(rewards.tolist(), samples, strict=True):
        verify.finite(source, problem, reward)


def refuse_divergence(sums: dict, norms: dict) -> None:
    """Raises FloatingPointError for a loss or a gradient that is not finite, before the step that
    would spoil the weights. sums: "loss" and "value_loss"; norms: of the gradients."""
    if not math.isfinite(sums["value_loss"] + norms.get("grad_norm_critic", 0.0)):
        raise FloatingPointError("the critic diverged: its loss is no longer finite; the "
                                 "last checkpoint is kept. Try a lower --critic-lr")
    if not math.isfinite(sums["loss"] + norms["grad_norm"]):
        raise FloatingPointError("the loss is no longer finite; the last checkpoint is kept. "
                                 "Try a lower --lr")
