"""RAFT: keep some of the sampled responses, such as the right ones, and train on them alone.

--keep chooses the responses and their advantages:

    right      A = 1 at right responses; with --surrogate likelihood, the loss is -logp (RAFT)
    mixed      A = r in groups that hold right and wrong responses (Reinforce-Rej)
    shortest   GRPO's A among the --keep-count shortest responses of each group (GFPO)
    efficient  GRPO's A among the --keep-count with the most reward per token (GFPO)

--keep-at-random is a control for each choice. It keeps as many responses of the batch, chosen at
random. The gain over the control comes from the choice. The gain of the control comes from training
on own samples.

Differences from grpo.py: rows are dropped, and `right` and `mixed` have no baseline. With --reward
sign, r is 1 or -1. `--algo raft --surrogate clip` is the paper's RAFT++.
Papers: RAFT and Reinforce-Rej 2504.11343, GFPO 2508.09726. Left out on purpose: a number of kept
responses that depends on difficulty (GFPO), and a limit for each problem (RAFT).
Shapes: N sequences.
"""

from dataclasses import replace

import torch

import grpo
from dapo import informative
from offpolicy import loss  # noqa: F401
from ppo import Batch, token_rewards

needs_critic = False
offpolicy_options = True
raft_options = True


def lowest(cost, group, count: int):
    """Bool (N,): True for the `count` responses of lowest cost in each group. Of responses with
    equal costs, the first ones are kept. cost and group are (N,)."""
    kept, order = torch.zeros_like(group, dtype=torch.bool), cost.argsort(stable=True)
    for prompt in group.unique():
        kept[order[group[order] == prompt][:count]] = True
    return kept


KEEP = {  # the choices of --keep: functions of (batch, options) that return bool (N,)
    "right": lambda batch, options: batch.correct > 0,
    "mixed": lambda batch, options: informative(batch.correct, batch.group),
    "shortest": lambda batch, options: lowest(batch.mask.sum(1), batch.group, options.keep_count),
    "efficient": lambda batch, options: lowest(-batch.rewards / batch.mask.sum(1), batch.group,
                                               options.keep_count),
}
FILTERS = ("shortest", "efficient")  # choices whose advantages are GRPO's


def at_random(kept, tokens, seed: int):
    """Bool (N,) with as many True as `kept` (N,), at random rows. The random numbers depend only on
    the seed and the tokens (N, T), so a resumed run draws the same rows."""
    generator = torch.Generator().manual_seed(seed + int(tokens.sum()))
    order = torch.randperm(len(kept), generator=generator).to(kept.device)
    return torch.zeros_like(kept).index_fill(0, order[:int(kept.sum())], True)


def prepare(batch: Batch, options) -> Batch:
    """The rows of the batch that are kept, with advantages."""
    # 1. keep some rows
    kept = KEEP[options.keep](batch, options)
    if options.keep_at_random:
        kept = at_random(kept, batch.tokens, options.seed)
    batch = batch.rows(kept.nonzero()[:, 0])
    # 2. their advantages
    if options.keep in FILTERS:
        return grpo.prepare(batch, options)
    if options.keep == "right":  # 1, also for the control
        return replace(batch, advantages=batch.mask)
    rewards = token_rewards(batch, options).sum(1, keepdim=True)
    return replace(batch, advantages=rewards * batch.mask)
