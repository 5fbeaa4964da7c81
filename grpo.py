"""GRPO: PPO without a critic. The baseline is the mean reward of all responses to the same prompt.

All tokens of a response share one advantage, in units of the group's standard deviation:

    A[i] = (r[i] - mean(r of its group)) / (std(r of its group) + 1e-6)
    loss = ppo.policy_loss with A; each response weighs the same, whatever its length

Differences from ppo.py: no value network, no GAE, no discount. Options give seven variants:

    Dr. GRPO     no division by std, loss / constant: a token's weight ignores difficulty and length
    RLOO         r[i] - mean(r of the others); TRL's has --ratio product --aggregate sequence
    GSPO         one ratio per response: exp(mean over its tokens of (logp - old_logp))
    MaxRL        (r[i] - mean) / mean: the fewer right answers a group has, the more each weighs
    REINFORCE++  the returns of all tokens of the step, whitened: no groups
    Lite PPO     (r[i] - mean) / std(r of the whole batch)
    GDPO         correctness and the rest of r, each normalised in its group; their sum whitened

Papers: DeepSeekMath 2402.03300, DeepSeek-R1 2501.12948, Dr. GRPO 2503.20783, RLOO 2402.14740, GSPO
2507.18071, MaxRL 2602.02710, REINFORCE++ 2501.03262, Lite PPO 2508.08221, GDPO 2601.05242. Left out
on purpose: process supervision. Shapes: N sequences, G per group, T tokens.
"""

from dataclasses import replace

import torch

from ppo import Batch, policy_loss, token_rewards, whiten

needs_critic = False


# --- advantages (N,) from rewards (N,) and group (N,), the index of the prompt

def group_mean(rewards, group):
    """The mean reward of all responses to the same prompt, (N,); GRPO's baseline."""
    return (torch.bincount(group, rewards) / torch.bincount(group))[group]


def group_mean_others(rewards, group):
    """RLOO's unbiased baseline, (N,): the mean reward of the others, 0 for a response alone."""
    total, count = torch.bincount(group, rewards)[group], torch.bincount(group)[group]
    return (total - rewards) / (count - 1).clamp(min=1)


BASELINES = {  # the choices of --baseline; a further one, batch, is in `prepare`
    "mean": group_mean,
    "others": group_mean_others,
}


def above_minimum(rewards, group):
    """Rewards (N,) minus the smallest one of their group: equal rewards are exactly 0."""
    zeros = torch.zeros(int(group.max()) + 1, dtype=rewards.dtype, device=rewards.device)
    return rewards - zeros.scatter_reduce(0, group, rewards, "amin", include_self=False)[group]


def group_std(rewards, group):
    """The standard deviation (n - 1) of the rewards of the same prompt, (N,); GRPO's divisor."""
    rewards = above_minimum(rewards, group)
    squares = torch.bincount(group, (rewards - group_mean(rewards, group)) ** 2)
    return (squares / (torch.bincount(group) - 1).clamp(min=1)).sqrt()[group]


DIVISORS = {  # the choices of --divisor
    "std": group_std,
    "mean": group_mean,
    "batch-std": lambda rewards, group: rewards.std(correction=int(len(rewards) > 1)),
}


def group_advantages(rewards, group, scale_by_std=True, baseline="mean", divisor="std"):
    """Advantages (N,) of rewards (N,); group (N,): indices of the groups, perhaps with gaps.

    The advantage is exactly 0 if all rewards of a group are equal, or if it has one response. Sums
    are in double, so the order of the responses does not matter."""
    raised = above_minimum(rewards.double(), group)
    advantages = raised - BASELINES[baseline](raised, group)
    if scale_by_std:
        advantages = advantages / (DIVISORS[divisor](rewards.double(), group) + 1e-6)
    return advantages.to(rewards.dtype)


def decoupled_advantages(rewards, correct, group):
    """GDPO's advantages (N,). rewards (N,) are correct (N,) plus a rest, such as the format."""
    rest = (rewards - correct).round(decimals=5)  # 1.1 - 1 and 0.1 - 0 are equal
    total = group_advantages(correct, group) + group_advantages(rest, group)
    return whiten(total, torch.ones_like(total))


def sequence_log_ratio(logp, old_logp, mask):
    """GSPO's log-ratio (N, 1): the mean of a response's token log-ratios; 0 without tokens."""
    return ((logp - old_logp) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


def prepare(batch: Batch, options) -> Batch:
    """The batch with the advantage of each response at each of its tokens."""
    rewards = token_rewards(batch, options)
    if options.baseline == "batch":  # REINFORCE++: the return of a token, whitened over all tokens
        return replace(batch, advantages=whiten(rewards.flip(1).cumsum(1).flip(1), batch.mask))
    if options.decouple_rewards:
        advantages = decoupled_advantages(rewards.sum(1), batch.correct, batch.group)
    else:
        advantages = group_advantages(rewards.sum(1), batch.group, options.scale_by_std,
                                      options.baseline, options.divisor)
    return replace(batch, advantages=advantages[:, None] * batch.mask)


def loss(policy, critic, batch: Batch, options):
    """Returns the loss of a micro-batch and the metrics per token. `critic` is not used."""
    logp, entropy = policy.logprobs(batch.tokens, batch.mask, options.temperature,
                                    entropy=bool(options.entropy_coef))
    ratio_logp = None
    if options.ratio != "token":
        mask = batch.mask * (batch.weights > 0)  # --old-segments drop: weight 0
        count = mask.sum(1, keepdim=True) if options.ratio == "product" else 1  # sum or mean
        # policy_loss subtracts old_logp again; what remains is the log-ratio of the response (N, 1)
        ratio_logp = batch.old_logp + count * sequence_log_ratio(logp, batch.old_logp, mask)
    return policy_loss(logp, batch, options, entropy, ratio_logp)
