"""A process reward model: a judge of steps, taught by nobody.

A step is worth what can still be made of it. So from each step of each sampled solution the policy
goes on N times; the share that reaches the right answer is the step's label (Math-Shepherd,
2312.08935), and the judge learns to say it from the text alone:

    label[s] = 1/N sum over completions of the solution up to step s of [the answer is right]
    loss = -mean over steps of label log p + (1 - label) log(1 - p),     p = judge(text up to s)

A solution is worth the product, the least or the last of its steps (2305.20050). An outcome reward
model is the same network, taught with the same solutions at their last token alone.

    p = sigmoid(w . state + a min over tokens so far of log q(token) + b)

The judge is the policy's trunk with a scalar head; q is what the trunk's own language head says. A
trunk knows what ought to come only after its last layer, and to compare that with what did come
would need another; so the head is told, and its gradient reaches the trunk through q. Without that
term judges learned next to nothing here. Left out on purpose: human labels, pairs of solutions.

    python prm.py --run runs/NAME          writes runs/NAME/prm.pt and prm.json
"""

import argparse
import bisect
import copy
import itertools
import json
import math
import random
import re
import sys
import time
from dataclasses import dataclass, field
from os.path import commonprefix
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import evaluate
import tasks
import tokenizer
from engine import packing, slots
from engine.muon import muon_and_adam
from engine.sampler import generate
from infra import run_dir, tensors
from sft import padded
from tasks import oracle

FLOOR = -20.0  # keeps one token from being everything; at -6 too many had no gradient
STEP_END = re.compile(rb"\n|</think>")
AGGREGATES = {"product": math.prod, "min": min, "last": lambda scores: scores[-1]}


def step_ends(ids: list[int]) -> list[int]:
    """At which indices the steps of a response end: at each line's end, at the end of the thinking,
    and at the last token, whose step is the answer. A real model may end a line within a token, and
    spell the tag in several."""
    pieces = [tokenizer.decode_bytes([i]) for i in ids]
    read = list(itertools.accumulate(map(len, pieces)))  # bytes so far
    ends = {bisect.bisect_left(read, found.end()) for found in STEP_END.finditer(b"".join(pieces))}
    return sorted(ends | {len(ids) - 1})


@dataclass
class Solution:
    problem: tasks.Problem
    prompt: list[int]
    ids: list[int]                                # the response
    correct: float                                # the outcome, 1.0 or 0.0
    reached: list = field(default_factory=list)   # of each step: outcomes of its completions

    @property
    def text(self) -> str:
        return tokenizer.text_of(self.ids)

    def soft(self, n: int = 0) -> list[float]:
        """Of each step the share of its (first n) completions that reach the answer."""
        few = [outcomes[:n or None] for outcomes in self.reached]
        return [sum(outcomes) / len(outcomes) for outcomes in few]


def solve(policy, task, problems, n: int, longest: int, seed: int) -> list[Solution]:
    """The different ones of n sampled solutions of each problem."""
    rollout, texts = evaluate.respond(policy, problems, n, 1.0, seed, longest)
    different = {(g, tuple(ids)): text for g, ids, text in zip(
        rollout.group.tolist(), rollout.responses(), texts, strict=True)}
    prompts = [tokenizer.encode_prompt(p.question) for p in problems]
    return [Solution(problems[g], prompts[g], list(ids), float(task.correct(problems[g], text)))
            for (g, ids), text in different.items()]


def label(policy, task, solutions: list[Solution], n: int, longest: int, seed: int) -> int:
    """Fills `reached`: for each step the outcomes of n completions by the policy; for the last the
    outcome itself. They are sampled at temperature 1 with at most `longest` new tokens each. A
    beginning that solutions share is completed once, and its cache is shared by its completions.
    Returns how many tokens were sampled. Raises ValueError where there is nothing to complete."""
    began = {}  # (prompt, beginning) -> its problem, then its outcomes
    for s in solutions:
        for end in step_ends(s.ids)[:-1]:
            began[tuple(s.prompt), tuple(s.ids[:end + 1])] = s.problem
    keys = list(began)
    if not keys:
        raise ValueError("the solutions have no steps to label: none has a line end")
    rollout = generate(policy, [list(prompt) for prompt, _ in keys], n, longest, 1.0, seed,
                       prefixes=[list(b) for _, b in keys], **evaluate.ending(policy))
    outcomes = [float(task.correct(began[keys[g]], tokenizer.text_of([*keys[g][1], *ids])))
                for g, ids in zip(rollout.group.tolist(), rollout.responses(), strict=True)]
    for i, key in enumerate(keys):
        began[key] = outcomes[i * n:(i + 1) * n]
    for s in solutions:
        s.reached = [began[tuple(s.prompt), tuple(s.ids[:end + 1])]
                     for end in step_ends(s.ids)[:-1]] + [[s.correct]]
    return int(rollout.mask.sum())


class Judge(nn.Module):
    """A logit for each marked token: that a solution which begins so comes to the right answer."""

    def __init__(self, policy):
        super().__init__()
        self.trunk = copy.deepcopy(policy)
        self.head = nn.Linear(policy.config.width, 1)
        self.surprise = nn.Parameter(torch.ones(()))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(policy.embedding.weight.device)

    def forward(self, tokens, mask, marks):
        """Logits (marked,) row by row; tokens, mask of the responses and marks are (N, T)."""
        real = mask.flip(1).cumsum(1).flip(1) > 0
        hidden = self.trunk(tokens, real=real)                                # (M, D)
        before = F.pad(mask[:, 1:] > 0, (0, 1))        # the state at t says what comes at t + 1
        logp = -F.cross_entropy(self.trunk.head(hidden[before[real]]).float(),
                                tokens[:, 1:][mask[:, 1:] > 0], reduction="none")
        least = packing.place(logp, mask).cummin(1)[0].clamp(min=FLOOR)       # (N, T)
        return self.head(hidden[marks[real]]).squeeze(1) + self.surprise * least[marks]


def inputs(pairs, ends, device):
    """(tokens, mask, marks), each (N, T), of pairs (prompt, response) and where their steps end."""
    tokens, mask = padded(pairs)
    marks = torch.zeros(tokens.shape, dtype=torch.bool)
    for i, ((prompt, _), at) in enumerate(zip(pairs, ends, strict=True)):
        marks[i, [len(prompt) + end for end in at]] = True
    return tokens.to(device), mask.to(device), marks.to(device)


def loss(judge, pairs, ends, labels):
    """Cross-entropy, summed over the marked step ends; everything else is masked."""
    device = judge.head.weight.device
    wanted = torch.tensor([value for row in labels for value in row], device=device)
    logits = judge(*inputs(pairs, ends, device))
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")


def train(judge, pairs, ends, labels, epochs: int, seed: int = 0, batch_tokens: int = 2000,
          lr: float = 1e-3) -> float:
    """Trains in place; returns the last batch's loss per step. What all prompts begin with, worked
    examples say, is computed once (packing.py), and not counted in a batch's tokens. Five times the
    learning rate and the trunk forgets what it knew."""
    rng, shared = random.Random(f"judge {seed}"), len(commonprefix([p for p, _ in pairs]))
    lengths = [len(p) + len(r) - shared for p, r in pairs]
    plan = []
    for _ in range(epochs):
        order, size = rng.sample(range(len(pairs)), len(pairs)), batch_tokens
        for i in order:
            if size >= batch_tokens:
                plan.append([])
                size = 0
            plan[-1].append(i)
            size += lengths[i]
    optimizers = muon_and_adam(judge, judge.trunk.blocks, lr, lr)
    for step, part in enumerate(tqdm(plan, desc="judge", unit="step", disable=None)):
        for optimizer in optimizers:
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 20,
                                                       (1 - step / len(plan)) / 0.4)
        marked = sum(len(ends[i]) for i in part)
        error = loss(judge, *([x[i] for i in part] for x in (pairs, ends, labels))) / marked
        error.backward()
        for optimizer in optimizers:
            optimizer.step()
    return float(error.detach())


def teach(policy, solutions: list[Solution], epochs: int, seed: int = 0, outcome: bool = False,
          lr: float = 1e-3):
    """A Judge of steps by their soft labels, or of outcomes (an ORM) on the same solutions."""
    pairs = [(s.prompt, s.ids) for s in solutions]
    ends = [step_ends(s.ids)[-1:] if outcome else step_ends(s.ids) for s in solutions]
    labels = [[s.correct] if outcome else s.soft() for s in solutions]
    judge = Judge(policy)
    train(judge, pairs, ends, labels, epochs, seed, lr=lr)
    return judge.requires_grad_(False)


@torch.inference_mode()
def scores(judge, pairs, max_tokens: int = 8192) -> list[list[float]]:
    """Of each pair (prompt, response) the probabilities of its steps; equal pairs are read once."""
    rows = {(tuple(prompt), tuple(ids)): None for prompt, ids in pairs}
    keys = [key for key in rows if key[1]]
    ends = [step_ends(list(ids)) for _, ids in keys]
    for part in packing.micro_batches([len(p) + len(r) for p, r in keys], max_tokens):
        p = judge(*inputs([(list(keys[i][0]), list(keys[i][1])) for i in part],
                          [ends[i] for i in part], judge.head.weight.device)).sigmoid().tolist()
        for i in part:
            rows[keys[i]], p = p[:len(ends[i])], p[len(ends[i]):]
    return [rows[tuple(prompt), tuple(ids)] or [0.0] for prompt, ids in pairs]


def load(run: str, policy) -> dict:
    """The judges {"prm": ..., "orm": ...} of a run. Raises ValueError where there are none."""
    path = Path(run) / "prm.pt"
    if not path.exists():
        raise ValueError(f"{run} has no prm.pt; python prm.py --run {run} makes one")
    judges = {}
    for name, state in tensors.load(path).items():
        judges[name] = Judge(policy)
        judges[name].load_state_dict(state)
        judges[name].requires_grad_(False)
    return judges


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True, help="the run's folder, such as runs/NAME")
    parser.add_argument("--problems", type=int, default=512, help="to learn from, none held out")
    parser.add_argument("--solutions", type=int, default=8, help="samples of each")
    parser.add_argument("--completions", type=int, default=4, help="of each step: N")
    parser.add_argument("--epochs", type=int, default=4, help="over the solutions")
    parser.add_argument("--lr", type=float, help="default: 1e-3, of a pretrained policy 1e-4")
    parser.add_argument("--eval-problems", type=int, default=200, help="held-out ones to measure")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        for name in ("problems", "solutions", "completions", "epochs", "eval_problems"):
            if getattr(args, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        policy, settings = evaluate.trained(args.run)
        if args.lr is None:
            args.lr = 1e-4 if settings.get("init") else 1e-3
        if not 0 < args.lr < math.inf:
            raise ValueError("--lr must be a number above 0")
        task = evaluate.task_of(settings)
        result = make(args, policy, task, settings["max_new_tokens"])
    except (ValueError, OSError) as error:
        print(f"prm.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


def make(args, policy, task, longest: int) -> dict:
    """Labels, trains and measures; writes prm.pt and prm.json."""
    run_dir.keep_freed_memory()
    clock = [time.perf_counter()]

    def lap() -> float:
        clock.append(time.perf_counter())
        return round(clock[-1] - clock[-2], 1)
    problems = task.sample(random.Random(f"prm {args.seed}"), args.problems)
    solutions = solve(policy, task, problems, args.solutions, longest, args.seed)
    print(f"{len(solutions)} different solutions; their steps are labelled", file=sys.stderr)
    tokens = label(policy, task, solutions, args.completions, longest, args.seed + 1)
    result = {"solutions": len(solutions), "steps": sum(len(s.reached) for s in solutions),
              "tokens_for_labels": tokens, "seconds_label": lap(),
              "labels": oracle.label_noise(solutions, args.completions)}
    held_out = solve(policy, task, task.held_out(args.eval_problems), 8, longest, args.seed + 2)
    slots.KEPT.pop(policy, None)  # the sampler's memory, which the judges need
    lap()
    judges = {}
    for name in ("prm", "orm"):
        judges[name] = teach(policy, solutions, args.epochs, args.seed, name == "orm", args.lr)
        result[f"seconds_{name}"] = lap()
        found = scores(judges[name], [(s.prompt, s.ids) for s in held_out])
        outcomes = oracle.auc([p[-1] for p in found], [s.correct > 0 for s in held_out])
        result[name] = oracle.measure(held_out, found) | {"auc_of_outcomes": outcomes}
        lap()
    tensors.save(Path(args.run) / "prm.pt", {name: judge.state_dict()
                                             for name, judge in judges.items()})
    run_dir.write_json(Path(args.run) / "prm.json", result)
    return result


if __name__ == "__main__":
    sys.exit(main())
