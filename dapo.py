"""DAPO: GRPO and four tricks for long answers and long runs, each of which can be switched off.

    Clip-Higher       clip_high > clip_low: an unlikely token may grow further before it is cut off,
                      so that entropy lasts longer (0.2 and 0.28)
    Dynamic Sampling  groups that are all right or all wrong have no gradient: they are dropped, and
                      sampling goes on until the batch is full (or max_attempts times)
    Token-Level loss  every token of the update weighs the same, so a long answer weighs more
    Overlong Shaping  reward -= min(1, max(0, length - (limit - zone)) / zone): near the limit it
                      hurts gradually; or truncated answers are left out of the loss

What differs from grpo.py: what is kept of a batch, and what is added to its rewards, in `prepare`;
Clip-Higher and the token-level loss are values of options, as are no KL and rewards of +1 and -1
(--reward sign). With everything off it is GRPO. Paper: 2503.14476. Left out on purpose: groups that
were sampled beyond a full batch are not kept for the next step, whose policy is another.
"""

from dataclasses import replace

import torch

import grpo
from grpo import loss  # noqa: F401
from ppo import Batch

dapo_options = True


def informative(correct, group):
    """Which rows (N,) belong to a group of which some answers are right and some wrong. It looks at
    correctness, not at the shaped reward: a penalty for length makes no group worth learning."""
    counts = torch.zeros(2, int(group.max()) + 1, device=group.device)
    for i, right in enumerate((correct, 1 - correct)):
        counts[i].index_add_(0, group, right)
    return (counts > 0).all(0)[group]


def overlong_penalty(lengths, limit: int, zone: int):
    """What to add to the rewards (N,) of answers of these lengths (N,): 0 up to limit - zone
    tokens, then linearly down to -1 at the limit (equation 13). zone is above 0."""
    return -((lengths - (limit - zone)) / zone).clamp(0, 1)


def prepare(batch: Batch, options) -> Batch:
    """The batch with advantages: only of informative groups, and without truncated answers, if the
    options say so."""
    if options.overlong == "soft":
        penalty = overlong_penalty(batch.mask.sum(1), options.max_new_tokens,
                                   options.overlong_buffer)
        batch = replace(batch, rewards=batch.rewards + penalty)
    if options.dynamic_sampling:
        batch = batch.rows(informative(batch.correct, batch.group).nonzero()[:, 0])
    if not len(batch.tokens):
        return replace(batch, advantages=batch.mask)
    batch = grpo.prepare(batch, options)
    if options.overlong == "mask":  # the truncated still count in their group's mean
        batch = batch.rows((~batch.truncated).nonzero()[:, 0])
    return batch
