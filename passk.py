"""pass@k as the reward: a group is paid if any of k responses is right, not for the average one.

A response earns what it adds to the best of k: its reward minus the best of k - 1 others, if that
is positive, averaged over all choices of the others from its group of G:

    A[i] = G / C(G, k) * sum over sets I of k responses with i of (max(r of I) - max(r of I \\ i))
         = G / C(G, k) * sum over j with r[j] <= r[i] of (r[i] - r[j]) * C(rank of j, k - 2)

The mean of A * grad logp is an unbiased gradient of the expected best of k. A response that is not
needed earns 0: wrong answers always, right ones where any k - 1 others hold a right one. With
k = G this is the group form: only the best response earns, its reward minus the second best.
Differences from grpo.py: the advantages; there is no other baseline, and no division by std.
Papers: PKPO 2505.15201 (its estimator loo-1, equation 33), the group form 2503.19595. Left out on
purpose: the estimators with more variance, and a k that falls during the run.
Shapes: N sequences, G per group.
"""

from dataclasses import replace
from math import comb

import torch

from grpo import loss  # noqa: F401
from ppo import Batch, token_rewards

needs_critic = False
passk_options = True


def gains(rewards, k: int):
    """What each of G responses adds to the best of k, times G / k choices: (G,) of rewards (G,).

    k = 1 returns the rewards: the best of no response counts as 0. Raises ValueError unless
    1 <= k <= G.
    """
    n = len(rewards)
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs a group of at least {k} responses, not {n}")
    if k == 1:
        return rewards
    values, order = rewards.double().sort()
    # sets in which i is the best and j, of this rank, is the second best: k - 2 lie below j
    sets = torch.tensor([comb(rank, k - 2) for rank in range(n)], dtype=torch.float64,
                        device=rewards.device)
    margins = (values[:, None] - values).tril()                                # (G, G) r[i] - r[j]
    total = torch.empty_like(values)
    total[order] = (margins * sets).sum(1) * n / comb(n, k)
    return total.to(rewards.dtype)


def passk_advantages(rewards, group, k: int):
    """Advantages (N,) of rewards (N,); group (N,) is the index of each response's prompt."""
    advantages = torch.zeros_like(rewards)
    for prompt in group.unique():
        advantages[group == prompt] = gains(rewards[group == prompt], k)
    return advantages


def prepare(batch: Batch, options) -> Batch:
    """The batch with the advantage of each response at each of its tokens."""
    rewards = token_rewards(batch, options).sum(1)
    advantages = passk_advantages(rewards, batch.group, options.pass_at)
    return replace(batch, advantages=advantages[:, None] * batch.mask)
