"""Kimi k1.5: policy mirror descent. Each step moves towards the best policy near the old one.

That policy maximises reward - tau * KL(policy || old). It satisfies, for every response y,

    r(y) - tau * log Z = tau * log(policy(y) / old(y))        tau * log Z is about the mean reward

so the squared difference of both sides is a loss, and its gradient needs no importance ratio. With
x = the sum over the tokens of logp - old_logp, and A = r - mean of the group:

    loss = (A - tau * x)^2 / (2 * tau)        gradient: -(A - tau * x) * grad logp

The first term is REINFORCE with the group's mean. The second pulls the policy back, also where A is
0. A length reward is added after --length-warmup steps, with lambda from 0.5 for the shortest
response of the group to -0.5 for the longest:

    lambda = 0.5 - (length - min) / (max - min)      right: lambda, wrong: min(0, lambda)

Differences from grpo.py: no ratio, no clip, no division by std, the length reward. The choice of
problems (--problem-sampling) is in tasks/curriculum.py, partial rollouts are in infra/partial.py.
Both serve every algorithm. The loss is divided by 2 * tau, so that tau does not scale the step.
Paper: 2501.12599. Left out on purpose: tau * log Z from samples, and a new optimizer in every step.
Shapes: N sequences, T tokens.
"""

from dataclasses import replace

import torch

import grpo
from ppo import Batch, policy_loss

needs_critic = False
kimi_options = True


def length_reward(lengths, correct, group):
    """The length rewards (N,) of responses with lengths (N,), in tokens; correct (N,) is 1.0 or
    0.0. They are 0 in a group of equal lengths."""
    rewards = torch.zeros_like(lengths)
    for prompt in group.unique():
        rows = group == prompt
        shortest, longest = lengths[rows].amin(), lengths[rows].amax()
        if longest > shortest:
            scores = 0.5 - (lengths[rows] - shortest) / (longest - shortest)
            rewards[rows] = torch.where(correct[rows] > 0, scores, scores.clamp(max=0))
    return rewards


def mirror_descent(logp, old_logp, advantages, mask, tau: float):
    """The loss of each response, spread evenly over its tokens (N, T). advantages (N, T) are equal
    at all tokens of a response. tau, above 0, is the weight of the KL.

    The log-ratio is not clamped: there is no exp, and a clamp would end the pull to the old policy.
    """
    counts = mask.sum(1, keepdim=True).clamp(min=1)
    log_ratio = ((logp - old_logp) * mask).sum(1, keepdim=True)                  # (N, 1)
    advantage = (advantages * mask).sum(1, keepdim=True) / counts
    return (advantage - tau * log_ratio) ** 2 / (2 * tau) / counts * mask


def prepare(batch: Batch, options) -> Batch:
    """The batch with advantages. options.length_warmup: the steps that are left of the warm-up."""
    if options.length_coef and not options.length_warmup:
        bonus = length_reward(batch.mask.sum(1), batch.correct, batch.group)
        batch = replace(batch, rewards=batch.rewards + options.length_coef * bonus)
    return grpo.prepare(batch, options)


def loss(policy, critic, batch: Batch, options):
    """Returns the loss of a micro-batch and the metrics per token. `critic` is not used."""
    logp, entropy = policy.logprobs(batch.tokens, batch.mask, options.temperature,
                                    entropy=bool(options.entropy_coef))
    mask = batch.mask * (batch.weights > 0)  # without tokens that --old-segments drop leaves out
    per_token = mirror_descent(logp, batch.old_logp, batch.advantages, mask, options.pmd_tau)
    total, metrics = policy_loss(logp, batch, options, entropy, per_token=per_token)
    return total, metrics | {name: torch.zeros_like(logp)  # nothing is clipped
                             for name in ("clipfrac_low", "clipfrac_high")}
