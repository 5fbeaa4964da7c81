"""GRPO: PPO without a critic. The baseline is the mean reward of all responses to the same prompt.

All tokens of a response share one advantage: its reward minus the group's mean, in units of the
group's standard deviation:

    A[i] = (r[i] - mean(r of its group)) / (std(r of its group) + 1e-6)
    loss = ppo.policy_loss with A; each response weighs the same, whatever its length

Differences from ppo.py: no value network, no GAE, no discount; one advantage per response. Options
give three variants, each with one or two lines of code:

    Dr. GRPO  no division by std, loss / constant: a token's weight ignores difficulty and length
    RLOO      r[i] - mean(r of the others), which is G / (G - 1) times the centred reward
    GSPO      one ratio per response: exp(mean over its tokens of (logp - old_logp))

RLOO has a clipped ratio for each token here, and adds up the tokens of a response. TRL's
RLOOTrainer clips one ratio per response, the product of its tokens' ratios: that is --ratio product
with --aggregate sequence.

Papers: DeepSeekMath 2402.03300, DeepSeek-R1 2501.12948, Dr. GRPO 2503.20783, RLOO 2402.14740, GSPO
2507.18071. Left out on purpose: process supervision.
Shapes: N sequences, G per group, T tokens.
"""

from dataclasses import replace

import torch

from ppo import Batch, policy_loss, token_rewards

needs_critic = False


# --- baselines: (N,) from rewards (N,) and group (N,), the index of each response's group

def group_mean(rewards, group):
    """The mean reward of all responses to the same prompt, (N,); GRPO's baseline."""
    return (torch.bincount(group, rewards) / torch.bincount(group))[group]


def group_mean_others(rewards, group):
    """The mean reward of the other responses to the same prompt, (N,); RLOO's baseline.

    rewards and group are (N,). The baseline is 0 for a response that is alone in its group. A
    response's own reward is not in its baseline, so the policy gradient stays unbiased.
    """
    total, count = torch.bincount(group, rewards)[group], torch.bincount(group)[group]
    return (total - rewards) / (count - 1).clamp(min=1)


BASELINES = {  # the choices of --baseline
    "mean": group_mean,
    "others": group_mean_others,
}


# --- advantages and loss

def group_advantages(rewards, group, scale_by_std: bool = True, baseline: str = "mean"):
    """Advantages (N,) of rewards (N,); group (N,) is the index of each response's group.

    The advantage is exactly 0 if all rewards of a group are equal, or if it has one response. The
    std divides by n - 1. baseline: a name in BASELINES. Sums use double, so that the order of the
    responses does not matter. The result has the dtype of rewards.
    """
    dtype, rewards = rewards.dtype, rewards.double()
    # 1. subtract the group's minimum: equal rewards are now exactly 0
    zeros = torch.zeros(int(group.max()) + 1, dtype=rewards.dtype, device=rewards.device)
    minimum = zeros.scatter_reduce(0, group, rewards, "amin", include_self=False)
    rewards = rewards - minimum[group]
    # 2. subtract the baseline
    advantages = rewards - BASELINES[baseline](rewards, group)
    # 3. divide by the group's standard deviation
    if scale_by_std:
        squares = (rewards - group_mean(rewards, group)) ** 2
        std = (torch.bincount(group, squares) / (torch.bincount(group) - 1).clamp(min=1)).sqrt()
        advantages = advantages / (std[group] + 1e-6)
    return advantages.to(dtype)


def sequence_log_ratio(logp, old_logp, mask):
    """GSPO's log-ratio (N, 1): the mean of a response's token log-ratios; 0 without tokens."""
    return ((logp - old_logp) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


def prepare(batch: Batch, options) -> Batch:
    """The batch with the advantage of each response at each of its tokens."""
    rewards = token_rewards(batch, options).sum(1)
    advantages = group_advantages(rewards, batch.group, options.scale_by_std,
                                  options.baseline)
    return replace(batch, advantages=advantages[:, None] * batch.mask)


def loss(policy, critic, batch: Batch, options):
    """Returns the loss of a micro-batch and the metrics per token. `critic` is not used."""
    logp, entropy = policy.logprobs(batch.tokens, batch.mask, options.temperature,
                                    entropy=bool(options.entropy_coef))
    ratio_logp = None
    if options.ratio != "token":
        log_ratio = sequence_log_ratio(logp, batch.old_logp, batch.mask)                # (N, 1)
        if options.ratio == "product":  # the sum over the tokens in place of their mean
            log_ratio = log_ratio * batch.mask.sum(1, keepdim=True)
        # policy_loss subtracts old_logp again; what remains is the log-ratio of the response
        ratio_logp = batch.old_logp + log_ratio
    return policy_loss(logp, batch, options, entropy, ratio_logp)
