"""DAPO: GRPO with four tricks for long answers and long runs. Each trick can be switched off.

    Clip-Higher        clip_high > clip_low (0.28 and 0.2): an unlikely token may grow further
                       before it is clipped, so entropy lasts longer
    Dynamic Sampling   groups that are all right or all wrong have no gradient; they are dropped,
                       and sampling goes on until the batch is full (at most max_attempts times)
    Token-Level Loss   every token of the update weighs the same, so a long answer weighs more
    Overlong Shaping   reward -= min(1, max(0, length - (limit - buffer)) / buffer): a gradual
                       penalty near the limit; or truncated answers are left out of the loss

--overlong mask keeps a truncated answer in its group's mean and std, and leaves its row out of the
batch. So --aggregate sequence averages over the rows that remain. TRL's loss "grpo" with
mask_truncated_completions divides by all rows.

Differences from grpo.py: `prepare` changes the rewards and drops rows, and train.py samples again
while `prompts_missing` asks for more. Clip-Higher and the token-level loss are values of options.
So are rewards of +1 and -1 (--reward sign), and a KL coefficient of 0. With all four off this is
GRPO. Paper: 2503.14476. Left out on purpose: groups beyond a full batch are not kept for the next
step, because its policy is another one.
Shapes: N sequences, T tokens.
"""

import math
from dataclasses import fields, replace

import torch
import torch.nn.functional as F

import grpo
from grpo import loss  # noqa: F401
from ppo import Batch

needs_critic = False
dapo_options = True


def informative(correct, group):
    """The rows, bool (N,), of groups that hold right and wrong answers.

    correct is (N,), 1.0 or 0.0; group is (N,), numbers that may have gaps. The shaped reward plays
    no part: a length penalty alone must not make a group informative.
    """
    counts = torch.zeros(2, int(group.max()) + 1, device=group.device)
    for i, right in enumerate((correct, 1 - correct)):
        counts[i].index_add_(0, group, right)
    return (counts > 0).all(0)[group]


def prompts_to_sample(prompts: int, sampled: int, kept: int) -> int:
    """The number of prompts to sample next, if the batch needs `prompts` groups, and `kept` groups
    of the `sampled` ones so far were informative. The same rate is expected of the next ones. The
    number is rounded up, at most `prompts` and at least 0. If `kept` is 0, it is `prompts`."""
    return max(0, min(prompts, math.ceil((prompts - kept) * sampled / max(1, kept))))


def concatenate(batches: list[Batch]) -> Batch:
    """One batch with the rows of several, padded to the longest row."""
    width = max(b.tokens.shape[1] for b in batches)

    def joined(parts):
        if parts[0] is None:
            return None
        return torch.cat([F.pad(x, (0, width - x.shape[1])) if x.dim() == 2 else x for x in parts])
    return Batch(**{f.name: joined([getattr(b, f.name) for b in batches]) for f in fields(Batch)})


def prompts_missing(attempts, options) -> int:
    """The number of prompts to sample next in a step, after some attempts (see `full_batch`); 0 if
    there is nothing more to sample."""
    if not options.dynamic_sampling or len(attempts) >= options.max_attempts:
        return 0
    return prompts_to_sample(options.prompts, sum(a.prompts for a in attempts),
                             sum(len(a.batch.group.unique()) for a in attempts))


def full_batch(attempts, prompts: int) -> Batch:
    """The batches of all attempts of a step as one, cut to the first `prompts` groups. An attempt
    has a `batch`, and the number of `prompts` that were sampled for it."""
    batches, before = [], 0
    for attempt in attempts:  # equal indices of two attempts must stay different groups
        batches.append(replace(attempt.batch, group=attempt.batch.group + before))
        before += attempt.prompts
    batch = concatenate(batches)
    groups = batch.group.unique()[:prompts]
    return batch.rows(torch.isin(batch.group, groups).nonzero()[:, 0])


def overlong_penalty(lengths, limit: int, buffer: int):
    """The penalty (N,), to be added to the rewards, of answers with lengths (N,), in tokens.

    It is 0 up to limit - buffer and falls linearly to -1 at the limit (equation 13). buffer: the
    number of tokens before the limit in which the penalty grows, above 0 (--overlong-buffer).
    """
    return -((lengths - (limit - buffer)) / buffer).clamp(0, 1)


def prepare(batch: Batch, options) -> Batch:
    """The batch with advantages. Depending on the options, only informative groups are kept, and
    truncated answers are left out."""
    # 1. Overlong Shaping, soft: a penalty near the limit
    if options.overlong == "soft":
        penalty = overlong_penalty(batch.mask.sum(1), options.max_new_tokens,
                                   options.overlong_buffer)
        batch = replace(batch, rewards=batch.rewards + penalty)
    # 2. Dynamic Sampling: only groups with a gradient
    if options.dynamic_sampling:
        batch = batch.rows(informative(batch.correct, batch.group).nonzero()[:, 0])
    if not len(batch.tokens):
        return replace(batch, advantages=batch.mask)
    # 3. GRPO's advantages
    batch = grpo.prepare(batch, options)
    # 4. Overlong Shaping, mask: truncated answers still counted in their group's mean
    if options.overlong == "mask":
        batch = batch.rows((~batch.truncated).nonzero()[:, 0])
    return batch
