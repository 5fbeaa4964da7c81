"""The networks of a run and their optimizer, in the precision and on the devices asked for."""

import copy
import math
from collections import deque
from typing import NamedTuple

import torch

import evaluate
import model as gpt
import ppo
import prm
import verify
from config import needs_critic
from engine.critic_hints import HintedCritic
from infra import distributed, judges, run_dir
from tokenizer import Tokenizer


class Models(NamedTuple):
    """The networks of a run and their tokenizer. The sampler is the policy itself, or a copy of its
    weights: unsharded, and in the precision of the computation (--dtype).

    Evaluations sample from it, and so do rollouts, unless there is a behavior policy of its own:
    --sampler-lag K makes it K steps older, --sampler-dtype gives it another precision. `versions`
    holds its weights and all newer ones, the oldest first: K + 1, and fewer in the first K steps.
    """

    policy: gpt.GPT
    tokenizer: Tokenizer | None = None    # of the policy
    reference: gpt.GPT | None = None      # for the KL
    critic: torch.nn.Module | None = None
    sampler: gpt.GPT | None = None
    reward_model: torch.nn.Module | None = None  # for --reward process and preference
    behavior: gpt.GPT | None = None       # samples the rollouts: the sampler, or as options say
    versions: deque | None = None         # of its weights, with --sampler-lag or --sampler-dtype

    def sync_sampler(self) -> None:
        """Copies the policy's weights to the sampler, and to the behavior policy those of
        --sampler-lag steps before."""
        if self.sampler is not self.policy:
            copy_weights(self.policy, self.sampler)
        if self.versions is not None:
            copy_weights(self.policy, self.behavior)
            self.versions.append(copy.deepcopy(self.behavior.state_dict()))  # drops the oldest
            self.behavior.load_state_dict(self.versions[0])


@torch.no_grad()
def copy_weights(policy: gpt.GPT, target: gpt.GPT) -> None:
    """Copies weights to another network, in place: its CUDA graphs point there."""
    for old, new in zip(target.parameters(), policy.parameters(), strict=True):
        old.copy_(distributed.full_tensor(new.detach()))


def make_models(policy: gpt.GPT, tokenizer: Tokenizer, options):
    """The Models around a policy, and the optimizer of policy and critic."""
    precision = getattr(torch, options.dtype)
    policy.checkpointing = options.gradient_checkpointing
    reference, critic, sampler = copy.deepcopy(policy).cast(precision), None, policy
    if options.shard or options.compile or precision != torch.float32:
        sampler = copy.deepcopy(policy).cast(precision)
    behavior, versions = sampler, None
    if options.sample_from == "reference":  # DPO
        behavior = reference
    if options.sampler_lag or options.sampler_dtype != options.dtype:
        behavior = copy.deepcopy(policy).cast(getattr(torch, options.sampler_dtype))
        versions = deque([copy.deepcopy(behavior.state_dict())], maxlen=options.sampler_lag + 1)
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
        reward_model = load_judge(options.judge, options.device, options.reward)
    return Models(policy, tokenizer, reference, critic, sampler, reward_model, behavior,
                  versions), optimizer


def load_judge(run: str, device: str, reward: str = "process") -> torch.nn.Module:
    """The reward model of the run in --judge, for --reward process or preference. Raises ValueError
    or OSError where its files cannot be read."""
    if reward == "preference":
        return judges.load(run, device)
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
        if models.versions is not None:
            restore_versions(models, saved["versions"], state["step"])
        return state
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise run_dir.UserError("checkpoint.pt holds other networks than those of this run's "
                                "settings; start a new run with another --out") from error


def restore_versions(models: Models, versions: list[dict], step: int) -> None:
    """Loads the weights of the behavior policy and all newer ones. Raises ValueError for another
    number of versions than a run has after `step`."""
    if len(versions) != min(step + 1, models.versions.maxlen):
        raise ValueError("the number of versions of the weights is not --sampler-lag plus 1")
    for weights in reversed(versions):  # the oldest stays; the others are checked
        models.behavior.load_state_dict(weights)
    models.versions.clear()
    models.versions.extend(versions)


def refuse_infinite(rewards, samples, options) -> None:
    """Raises RewardError that names the problem and the value, where a reward (float32) is NaN or
    infinite."""
    source = f"--reward {options.reward}"
    if options.reward in run_dir.JUDGES:
        source = f"the {options.reward} reward model of --judge {options.judge}"
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
