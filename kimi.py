"""Kimi k1.5: policy mirror descent. Each step moves towards the optimal policy near the old one.

The optimal policy maximises reward - tau * KL(policy || old). It satisfies, for every response y,

    r(y) - tau * log Z = tau * log(policy(y) / old(y))        tau * log Z is about the mean reward

So the squared difference of both sides is a loss. Its gradient needs no importance ratio. With
A = r - mean of the group, and x = sum over the tokens of the response of (logp - old_logp):

    loss = (A - tau * x)^2 / (2 * tau)        gradient: -A * grad x + tau * x * grad x

The first term of the gradient is that of REINFORCE, with the group's mean as the baseline. The
second term pulls the policy back to the old one, also where A is 0. After --length-warmup steps,
--length-coef times a length reward is added to r. In each group:

    s = 0.5 - (length - shortest) / (longest - shortest)      right: s; wrong: min(0, s)

Differences from grpo.py: no ratio, no clip, no division by std, the length reward. The choice of
problems (--problem-sampling) is in tasks/curriculum.py, partial rollouts are in infra/partial.py.
Both serve every algorithm. Division by 2 * tau makes the first term independent of tau.
Paper: 2501.12599. Left out on purpose: an estimate of tau * log Z from samples, and a reset of the
optimizer in every step. Shapes: N sequences, T tokens.
"""

from dataclasses import replace

import torch

import grpo
from ppo import Batch, policy_loss

needs_critic = False
kimi_options = True


def length_reward(lengths, correct, group):
    """The length rewards (N,), from 0.5 to -0.5, of responses with lengths (N,), in tokens. They
    are 0 in a group of equal lengths. correct (N,) is 1.0 or 0.0."""
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

    The log-ratio is not clamped: it has no exp, and a clamped one would have no gradient.
    """
    counts = mask.sum(1, keepdim=True).clamp(min=1)
    log_ratio = ((logp - old_logp) * mask).sum(1, keepdim=True)                  # (N, 1)
    advantage = (advantages * mask).sum(1, keepdim=True) / counts
    return (advantage - tau * log_ratio) ** 2 / (2 * tau) / counts * mask


def prepare(batch: Batch, options) -> Batch:
    """The batch with advantages. options.length_warmup: the remaining steps of the warm-up."""
    if options.length_coef and not options.length_warmup:
        extra = length_reward(batch.mask.sum(1), batch.correct, batch.group)
        batch = replace(batch, rewards=batch.rewards + options.length_coef * extra)
    return grpo.prepare(batch, options)


def loss(policy, critic, batch: Batch, options):
    """Returns the loss of a micro-batch and the metrics per token. `critic` is not used."""
    logp, entropy = policy.logprobs(batch.tokens, batch.mask, options.temperature,
                                    entropy=bool(options.entropy_coef))
    mask = batch.mask * (batch.weights > 0)  # with --old-segments drop, old tokens have weight 0
    per_token = mirror_descent(logp, batch.old_logp, batch.advantages, mask, options.pmd_tau)
    total, metrics = policy_loss(logp, batch, options, entropy, per_token=per_token)
    return total, metrics | {name: torch.zeros_like(logp)  # nothing is clipped
                             for name in ("clipfrac_low", "clipfrac_high")}
