"""Partial rollouts: a response that meets the step's token budget is continued in the next step.

The sampling of a step lasts as long as its longest response, and few rows are active at its end.
With a budget of b tokens (--partial-rollouts), a row draws a segment of at most b tokens in a step.
A row is open until its response is complete. An open row keeps its tokens, and the policy of the
next step continues them:

    tokens   segment 1 | segment 2 | ...      each segment from the policy of its step
    logp     of each token, under the policy that sampled it

A step samples at most --prompts * --group-size rows: the open ones, then those of new groups. Only
if no group is complete then, the same step draws more segments. A group waits until all of its
responses are complete. A batch has at most --prompts groups, oldest first. Waiting groups are part
of the training state, so a checkpoint holds them, and a resumed run gives the same results.

Tokens of earlier steps are off policy. --old-segments weigh keeps them in the loss, with the ratio
of the policy to the policy that sampled them. --old-segments drop gives them the weight 0.
The random numbers of a token depend on the row's seed, the prompt and the position (engine/rng.py).
So with an unchanged policy a continued response has the same tokens as an uninterrupted one.
Paper: Kimi k1.5 2501.12599, section 2.6.2. Left out on purpose: asynchronous workers, the early end
of responses that repeat themselves, and a stored KV cache (a step prefills the old tokens again).
Shapes: N responses of the complete groups, T tokens.
"""

import math
from dataclasses import dataclass

import torch

import evaluate
from config import SAMPLERS
from engine.rng import row_seeds
from sample import Rollout
from tasks import Problem


@dataclass
class PartialRollout(Rollout):
    """A Rollout whose rows may have segments from several steps."""

    old: torch.Tensor                      # (N, T) 1.0 where an earlier step sampled the token
    loss_mask: torch.Tensor | None = None  # (N, T) 1.0 where the token is in the loss; None: mask


def sample_groups(models, problems, seed: int, state: dict, options):
    """(problems, PartialRollout, texts) of a step's batch: complete groups alone. problems: for new
    groups; the first ones are used, as many as there is room for. Changes state["open_groups"], the
    groups that have been in no batch."""
    # 1. the groups of earlier steps, whose tokens are old now, and as many new groups as fit
    groups = state.get("open_groups", [])
    for row in rows_of(groups):
        row["old"] = len(row["tokens"])
    n_open = sum(row["open"] for row in rows_of(groups))
    room = options.prompts - math.ceil(n_open / options.group_size)
    groups = groups + new_groups(problems[:room], seed, options.group_size)
    # 2. one segment for each open row; more segments only while no group is complete
    complete = []
    while not complete:
        draw_segments(models, groups, options)
        complete = [group for group in groups if not any(row["open"] for row in group["rows"])]
    # 3. the oldest complete groups are the batch, the others wait
    batch = complete[:options.prompts]
    state["open_groups"] = [group for group in groups if all(group is not one for one in batch)]
    texts = [models.tokenizer.decode_response(row["tokens"]) for row in rows_of(batch)]
    return [Problem(**group["problem"]) for group in batch], join(batch, models, options), texts


def new_groups(problems, seed: int, group_size: int) -> list[dict]:
    """Groups without tokens: dicts and lists, which a checkpoint can hold. Each row has the seed
    that it would have in one call of the sampler with these problems."""
    seeds = iter(row_seeds(torch.arange(len(problems) * group_size), seed).tolist())
    return [{"problem": vars(problem).copy(),
             "rows": [{"seed": next(seeds), "tokens": [], "logp": [], "entropy": [], "old": 0,
                       "open": True, "truncated": False} for _ in range(group_size)]}
            for problem in problems]


def rows_of(groups) -> list[dict]:
    """The rows of all groups, in order."""
    return [row for group in groups for row in group["rows"]]


def draw_segments(models, groups, options) -> None:
    """Samples up to --partial-rollouts tokens for each open row, and appends them to the row."""
    # 1. the open rows, each as a group of one response
    open_rows = [(Problem(**group["problem"]), row) for group in groups for row in group["rows"]
                 if row["open"]]
    problems, rows = zip(*open_rows, strict=True)
    # 2. a segment each; prefixes: the tokens so far, after which the sampler continues
    rollout, _ = evaluate.sample_responses(
        models.behavior, models.tokenizer, problems, 1, options.temperature,
        [row["seed"] for row in rows], options.partial_rollouts,
        generate=SAMPLERS[options.sampler], prefixes=[row["tokens"] for row in rows])
    # 3. append the segments; a row whose segment did not end by itself stays open, up to the limit
    rollout = rollout.to("cpu")
    new, unfinished = rollout.mask.bool(), rollout.truncated.tolist()
    for i, row in enumerate(rows):
        for name in ("tokens", "logp", "entropy"):
            row[name] = row[name] + getattr(rollout, name)[i][new[i]].tolist()
        row["open"] = unfinished[i] and len(row["tokens"]) < options.max_new_tokens
        row["truncated"] = unfinished[i] and not row["open"]


def join(groups, models, options) -> PartialRollout:
    """The Rollout of complete groups. Each row has the prompt and the whole response."""
    # 1. the prompts, and the width of the tensors
    rows = rows_of(groups)
    prompts = [models.tokenizer.encode_problem(Problem(**group["problem"])) for group in groups
               for _ in group["rows"]]
    lengths = [len(row["tokens"]) for row in rows]
    width = max(len(prompt) + n for prompt, n in zip(prompts, lengths, strict=True))
    device = models.behavior.embedding.weight.device

    def padded(responses, before=None, pad=0.0):
        """A tensor (N, T) of one list of values per response. before: one list per prompt, the
        values at its tokens; None: zeros."""
        before = before or [[0.0] * len(prompt) for prompt in prompts]
        return torch.tensor([start + response + [pad] * (width - len(start) - len(response))
                             for start, response in zip(before, responses, strict=True)],
                            device=device)
    # 2. the tensors
    mask = padded([[1.0] * n for n in lengths])
    old = padded([[1.0] * row["old"] for row in rows])  # row["old"] counts the old tokens
    return PartialRollout(
        padded([row["tokens"] for row in rows], prompts, models.tokenizer.pad_id),
        padded([row["logp"] for row in rows]), padded([row["entropy"] for row in rows]), mask,
        torch.arange(len(groups), device=device).repeat_interleave(options.group_size),
        torch.tensor([row["truncated"] for row in rows], device=device), old,
        mask - old if options.old_segments == "drop" else None)


def metrics(state: dict, rollout: PartialRollout) -> dict:
    """Metrics of a step: the number of open responses after it, and the share of old tokens in the
    batch."""
    return {"open_responses": sum(row["open"] for row in rows_of(state["open_groups"])),
            "old_tokens": float(rollout.old.sum() / rollout.mask.sum())}
