"""RAFT: sample, keep the right answers, raise their likelihood. What is kept matters most.

    right     loss = -logp of the right answers; wrong ones are dropped (RAFT)
    mixed     A = r on the groups that hold right and wrong answers (Reinforce-Rej), clipped as PPO
    shortest  GRPO's A among the shortest --keep-count answers of each group (GFPO)

Each has a control, --keep-at-random: as many answers, chosen at random from the same batch. A gain
over the control comes from the choice. The rest comes from training on own samples at all.

Differences from grpo.py: rows are dropped, and `right` and `mixed` have no baseline. With --reward
sign, r is 1 or -1. `--algo raft --surrogate clip` is the paper's RAFT++.
Papers: RAFT and Reinforce-Rej 2504.11343, GFPO 2508.09726. Left out on purpose: GFPO's filter by
reward per token, and RAFT's cap on the answers kept per problem.
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


def shortest(lengths, group, count: int):
    """Bool (N,): the `count` shortest responses of each group; of equal lengths the first ones.
    lengths and group are (N,)."""
    kept, order = torch.zeros_like(group, dtype=torch.bool), lengths.argsort(stable=True)
    for prompt in group.unique():
        kept[order[group[order] == prompt][:count]] = True
    return kept


KEEP = {  # the choices of --keep: bool (N,) of a batch
    "right": lambda batch, options: batch.correct > 0,
    "mixed": lambda batch, options: informative(batch.correct, batch.group),
    "shortest": lambda batch, options: shortest(batch.mask.sum(1), batch.group, options.keep_count),
}


def at_random(kept, tokens, seed: int):
    """As many True as in `kept` (N,), at random places. The order is drawn from the seed and the
    tokens (N, T), so that a resumed run draws it again."""
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
    if options.keep == "shortest" and len(batch.tokens):
        return grpo.prepare(batch, options)
    if options.keep == "right":  # 1, also for the control
        return replace(batch, advantages=batch.mask)
    rewards = token_rewards(batch, options).sum(1, keepdim=True)
    return replace(batch, advantages=rewards * batch.mask)
