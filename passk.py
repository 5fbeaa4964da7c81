"""pass@k as the objective: the expected best reward of k responses, not the expected reward.

The advantage of a response is its contribution to the best of k: its reward minus the best reward
of k - 1 others, or 0 if that is negative. A sums it over all sets of k in a group of G responses:

    A[i] = G / C(G, k) * sum over sets I of k with i in I of (max r in I - max r in I without i)
         = G / C(G, k) * sum over j ranked below i of (r[i] - r[j]) * C(rank of j, k - 2)

Rank 0 is the lowest reward. If j is the best of the others, k - 2 of the others rank below j. The
mean over the group of A * grad logp is an unbiased gradient of the objective. With rewards of 0 and
1, a wrong response has A = 0. So has a right one if every k - 1 others include a right one. With
k = G (the group form), only the best response has A > 0: G times its lead over the second best.
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
    """The advantages (G,) of the responses of a group with rewards (G,).

    k = 1 returns the rewards: the best reward of an empty set counts as 0. Raises ValueError unless
    1 <= k <= G.
    """
    n = len(rewards)
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs a group of at least {k} responses, not {n}")
    if k == 1:
        return rewards
    values, order = rewards.double().sort()
    # the number of sets with i as the best and j, of this rank, as the second best
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
