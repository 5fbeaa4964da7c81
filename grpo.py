"""GRPO: PPO with its critic replaced by the mean of a group of answers to the same question.

An answer is as good as it is better than its G - 1 siblings, and every token of it is given the
same credit:

    A[i] = (r[i] - mean(r of its group)) / (std(r of its group) + 1e-6)
    loss = ppo.policy_loss(A), each response weighing the same whatever its length

What differs from ppo.py: no value network, no GAE, no discount; one scalar per response. Its
relatives are options of a line or two:

    Dr. GRPO  no std, and a constant denominator: no question and no length weighs more
    RLOO      r[i] - mean(r of the others), which is G / (G - 1) times the centred reward
    GSPO      ratio = exp(mean over the response's tokens of (logp - old_logp)), clipped as a whole

Papers: DeepSeekMath 2402.03300, DeepSeek-R1 2501.12948, Dr. GRPO 2503.20783, RLOO 2402.14740, GSPO
2507.18071. Left out on purpose: process supervision.
"""

from dataclasses import replace

import torch

from ppo import Batch, mean_of_others, policy_loss, token_rewards


def group_advantages(rewards, group, scale_by_std: bool = True, leave_one_out: bool = False):
    """Advantages (N,) of rewards (N,), `group` (N,) naming each one's group. A group of equal
    rewards gets exactly 0, and so does a group of one. std is unbiased (ddof 1), eps 1e-6. Summed
    in double, so that the order of the answers changes no bit; of the rewards' dtype."""
    given, rewards = rewards.dtype, rewards.double()  # sums are exact then, in whatever order
    zeros = torch.zeros(int(group.max()) + 1, dtype=rewards.dtype, device=rewards.device)
    counts = zeros.index_add(0, group, torch.ones_like(rewards))
    least = zeros.scatter_reduce(0, group, rewards, "amin", include_self=False)
    rewards = rewards - least[group]  # equal rewards are now exactly 0, and so is all that follows
    centred = rewards - (zeros.index_add(0, group, rewards) / counts)[group]
    if scale_by_std:
        std = (zeros.index_add(0, group, centred**2) / (counts - 1).clamp(min=1)).sqrt()
        return (centred / (std[group] + 1e-6)).to(given)
    return (rewards - mean_of_others(rewards, group) if leave_one_out else centred).to(given)


def sequence_log_ratio(logp, old_logp, mask):
    """GSPO's log ratio, the same for every token of a response: (N, 1)."""
    return ((logp - old_logp) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


def prepare(batch: Batch, options) -> Batch:
    """The batch with the advantage of each response on every token of it."""
    rewards = token_rewards(batch, options).sum(1)
    advantages = group_advantages(rewards, batch.group, options.scale_by_std,
                                  options.leave_one_out)
    return replace(batch, advantages=advantages[:, None] * batch.mask)


def loss(policy, critic, batch: Batch, options):
    """The loss of a micro-batch of the policy, and its share of the metrics; there is no critic."""
    logp, entropy = policy.logprobs(batch.tokens, batch.mask, options.temperature,
                                 entropy=bool(options.entropy_coef))
    ratio_logp = None
    if options.ratio == "sequence":
        ratio_logp = batch.old_logp + sequence_log_ratio(logp, batch.old_logp, batch.mask)
    return policy_loss(logp, batch, options, entropy, ratio_logp)
