"""GRPO: PPO with its critic replaced by the mean of a group of answers to the same question.

An answer is as good as it is better than its G - 1 siblings, and every token of it is given the
same credit:

    A[i] = (r[i] - mean(r of its group)) / (std(r of its group) + 1e-6)
    loss = ppo.surrogate(A), each response weighing the same whatever its length

What differs from ppo.py: no value network, no GAE, no discount; one scalar per response; the KL to
the reference is a term of the loss, not of the reward. Paper: DeepSeekMath 2402.03300, DeepSeek-R1
2501.12948. Left out on purpose: process supervision, the reference's renewal.
"""

import torch

from ppo import Batch, policy_loss


def group_advantages(rewards, group, scale_by_std: bool = True):
    """Advantages (N,) of rewards (N,), `group` (N,) naming each one's group. A group of equal
    rewards gets exactly 0, and so does a group of one. std is unbiased (ddof 1), eps 1e-6."""
    zeros = torch.zeros(int(group.max()) + 1, device=rewards.device)
    counts = zeros.index_add(0, group, torch.ones_like(rewards)).clamp(min=1)
    least = zeros.scatter_reduce(0, group, rewards, "amin", include_self=False)
    rewards = rewards - least[group]  # equal rewards are now exactly 0, and so is all that follows
    centred = rewards - (zeros.index_add(0, group, rewards) / counts)[group]
    if not scale_by_std:
        return centred
    square = zeros.index_add(0, group, centred**2)
    std = (square / (counts - 1).clamp(min=1)).sqrt()
    return centred / (std[group] + 1e-6)


def prepare(rollout, rewards, options) -> Batch:
    """The training batch of a Rollout and its rewards (N,)."""
    advantages = group_advantages(rewards, rollout.group, options.scale_by_std)
    return Batch(rollout.tokens, rollout.mask, rollout.logp, advantages[:, None] * rollout.mask)


def loss(policy, batch: Batch, options):
    """The loss of a micro-batch of the policy (a GPT), and its share of the metrics."""
    logp = policy.logp(batch.tokens, batch.mask, options.temperature)
    return policy_loss(logp, batch, options)
