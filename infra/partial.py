"""Partial rollouts: a response that meets the step's token budget is continued in the next step.

A step lasts as long as its longest response, and few rows are active in its tail. With a budget of
b tokens (--partial-rollouts), no row draws more than b tokens in a step. An open row, which has met
the budget, keeps its tokens; the policy of the next step samples on from them:

    tokens   segment 1 | segment 2 | ...      each from the policy of its step
    logp     of each token, under the policy that drew it

A step samples at most --prompts * --group-size rows: the open ones, then new groups. A group waits
until all of its responses are complete, and a batch has at most --prompts groups, oldest first. The
state of the loop holds open groups, so a checkpoint does, and a resumed run is the same run.

Tokens of earlier steps are off policy. --old-segments weigh keeps them in the loss: their ratio is
that of the policy to the one that drew them. --old-segments drop gives them the weight 0.
A row's draws depend on its seed, its prompt and the position (engine/rng.py). So a response that is
continued with an unchanged policy has the tokens of one that was never cut.
Paper: Kimi k1.5 2501.12599, section 2.6.2. Left out on purpose: asynchronous workers, the early end
of responses that repeat themselves, and a stored KV cache (the next step reads the tokens again).
Shapes: N responses of the complete groups, T tokens.
"""

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

    old: torch.Tensor                      # (N, T) 1.0 where an earlier step drew the token
    loss_mask: torch.Tensor | None = None  # (N, T) 1.0 where the token has a weight; None: mask


def sample_groups(models, problems, seed: int, state: dict, options):
    """The rollout of a step: (problems, Rollout, texts) of its groups, all of them complete.
    problems: new ones, of which partial rollouts take as many as there is room for."""
    # 1. the groups of earlier steps, whose tokens are old now, and as many new ones as fit
    groups = state.get("open_groups", [])
    for row in rows_of(groups):
        row["old"] = len(row["tokens"])
    room = options.prompts - -(-sum(row["open"] for row in rows_of(groups)) // options.group_size)
    groups = groups + new_groups(problems[:room], seed, options.group_size)
    # 2. one segment of each open row; more of them only while no group is complete
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
    """Groups without tokens, of types that a checkpoint can hold. The rows have the seeds that the
    sampler gives them where it samples these problems at once."""
    seeds = iter(row_seeds(torch.arange(len(problems) * group_size), seed).tolist())
    return [{"problem": vars(problem).copy(),
             "rows": [{"seed": next(seeds), "tokens": [], "logp": [], "entropy": [], "old": 0,
                       "open": True, "truncated": False} for _ in range(group_size)]}
            for problem in problems]


def rows_of(groups) -> list[dict]:
    """The rows of all groups, in order."""
    return [row for group in groups for row in group["rows"]]


def draw_segments(models, groups, options) -> None:
    """Draws up to --partial-rollouts tokens for each open row, and appends them to the row."""
    todo = [(Problem(**group["problem"]), row) for group in groups for row in group["rows"]
            if row["open"]]
    problems, rows = zip(*todo, strict=True)
    # the tokens so far are a given prefix of the response: the sampler counts positions from there
    rollout, _ = evaluate.sample_responses(
        models.behavior, models.tokenizer, problems, 1, options.temperature,
        [row["seed"] for row in rows], options.partial_rollouts,
        generate=SAMPLERS[options.sampler], prefixes=[row["tokens"] for row in rows])
    rollout = rollout.to("cpu")
    drawn, cut = rollout.mask.bool(), rollout.truncated.tolist()
    for i, row in enumerate(rows):
        for name in ("tokens", "logp", "entropy"):
            row[name] = row[name] + getattr(rollout, name)[i][drawn[i]].tolist()
        row["open"] = cut[i] and len(row["tokens"]) < options.max_new_tokens
        row["truncated"] = cut[i] and not row["open"]


def join(groups, models, options) -> PartialRollout:
    """The Rollout of complete groups: the segments of each response side by side."""
    rows = rows_of(groups)
    prompts = [models.tokenizer.encode_prompt(group["problem"]["question"]) for group in groups
               for _ in group["rows"]]
    lengths = [len(row["tokens"]) for row in rows]
    width = max(len(prompt) + n for prompt, n in zip(prompts, lengths, strict=True))
    device = models.behavior.embedding.weight.device

    def table(responses, starts=None, pad=0.0):
        """(N, T) of lists, each behind its prompt; starts: the values at the prompts."""
        starts = starts or [[0.0] * len(prompt) for prompt in prompts]
        return torch.tensor([start + response + [pad] * (width - len(start) - len(response))
                             for start, response in zip(starts, responses, strict=True)],
                            device=device)
    mask = table([[1.0] * n for n in lengths])
    old = table([[1.0] * row["old"] for row in rows])
    return PartialRollout(
        table([row["tokens"] for row in rows], prompts, models.tokenizer.pad_id),
        table([row["logp"] for row in rows]), table([row["entropy"] for row in rows]), mask,
        torch.arange(len(groups), device=device).repeat_interleave(options.group_size),
        torch.tensor([row["truncated"] for row in rows], device=device), old,
        mask - old if options.old_segments == "drop" else None)


def metrics(state: dict, rollout: PartialRollout) -> dict:
    """Metrics of a step: how many responses are open after it, and the share of old tokens."""
    return {"open_responses": sum(row["open"] for row in rows_of(state["open_groups"])),
            "old_tokens": float(rollout.old.sum() / rollout.mask.sum())}
