"""Process and outcome reward models (PRM, ORM), trained without human labels.

The policy completes each solution N times from the end of each step. The proportion of completions
that reach the correct answer is the step's label (Math-Shepherd, 2312.08935), and the PRM learns to
predict the labels from the text alone:

    label[s] = 1/N sum over the N completions after step s of [the answer is correct]
    loss     = -mean over steps s of  label[s] log p[s] + (1 - label[s]) log(1 - p[s])
    p[s]     = sigmoid(w . h[t] + a min over tokens u <= t of log q(u) + b),   s ends at token t

A solution's score is the product, the minimum or the last of its step scores (2305.20050). An ORM
is the same network, trained on the same solutions at their last token alone.

The network is a copy of the policy (the trunk) with a scalar head. h is the trunk's hidden state, q
the prediction of the trunk's own language-model head. A causal trunk knows which token is likely
only after its last layer, so it cannot compare that token with the actual one; log q tells the head
the difference. Without this term the reward models learned almost nothing here.
Left out on purpose: human labels, pairs of solutions.

    python prm.py --run runs/NAME          writes runs/NAME/prm.pt and prm.json
"""

import infra.openmp  # noqa: F401  (before torch)

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

import evaluate
import tasks
from engine import packing, slots
from engine.sampler import generate
from infra import arguments, run_dir, tensors
from reward_model import fit, plan_batches
from sft import padded, sampled_pairs
from tasks import oracle

MAX_EPOCHS = 1000
MIN_LOGP = -20.0  # bounds the influence of one token; at -6 too many tokens had no gradient
STEP_END = re.compile(rb"\n|</think>")
AGGREGATES = {"product": math.prod, "min": min, "last": lambda step_scores: step_scores[-1]}


def step_ends(tokenizer, ids: list[int]) -> list[int]:
    """The indices of the last tokens of a response's steps. A step ends with a line, with the
    thinking, or with the response (the last step is the answer). The search is over bytes: a token
    may hold a line end in its middle, and several tokens may spell one tag."""
    pieces = [tokenizer.decode_bytes([i]) for i in ids]
    byte_ends = list(itertools.accumulate(map(len, pieces)))  # of each token
    ends = {bisect.bisect_left(byte_ends, match.end())
            for match in STEP_END.finditer(b"".join(pieces))}
    return sorted(ends | {len(ids) - 1})


@dataclass
class Solution:
    """A sampled response to a problem, with the outcomes of its completions."""

    problem: tasks.Problem
    prompt: list[int]
    ids: list[int]                                # of the response
    text: str                                     # of the response
    correct: float                                # 1.0 or 0.0
    outcomes: list = field(default_factory=list)  # of each step: 1.0 or 0.0 of each completion

    def step_labels(self, n: int = 0) -> list[float]:
        """Of each step the proportion of its completions, or of its first n, that are correct."""
        first = [outcomes[:n or None] for outcomes in self.outcomes]
        return [sum(outcomes) / len(outcomes) for outcomes in first]


def sample_solutions(policy, tokenizer, task, problems, n: int, max_new_tokens: int,
                     seed: int) -> list[Solution]:
    """The distinct solutions among n samples of each problem."""
    rollout, texts = evaluate.sample_responses(policy, tokenizer, problems, n, 1.0, seed,
                                               max_new_tokens)
    distinct = {(g, tuple(ids)): text for g, ids, text in zip(
        rollout.group.tolist(), rollout.responses(), texts, strict=True)}
    prompts = [tokenizer.encode_problem(p) for p in problems]
    return [Solution(problems[g], prompts[g], list(ids), text,
                     float(task.correct(problems[g], text)))
            for (g, ids), text in distinct.items()]


def label_steps(policy, tokenizer, task, solutions: list[Solution], n: int, max_new_tokens: int,
                seed: int) -> int:
    """Fills the `outcomes` of the solutions, and returns the number of sampled tokens.

    Each step but the last gets the outcomes of n completions, which the policy samples at
    temperature 1 with at most max_new_tokens tokens. The last step gets the solution's outcome.
    A beginning that several solutions share is completed once. Raises ValueError if no solution has
    a step before its last."""
    # the distinct beginnings: (prompt, response up to the step's end) -> problem
    beginnings = {(tuple(s.prompt), tuple(s.ids[:end + 1])): s.problem
                  for s in solutions for end in step_ends(tokenizer, s.ids)[:-1]}
    keys = list(beginnings)
    if not keys:
        raise ValueError("the solutions have no steps to label: none of them has a line end")
    # complete each beginning n times and verify the answers
    rollout = generate(policy, [list(prompt) for prompt, _ in keys], n, max_new_tokens, 1.0, seed,
                       prefixes=[list(prefix) for _, prefix in keys],
                       **evaluate.stop_conditions(policy, tokenizer))
    correct = [
        float(task.correct(beginnings[keys[g]], tokenizer.decode_response([*keys[g][1], *ids])))
        for g, ids in zip(rollout.group.tolist(), rollout.responses(), strict=True)]
    outcomes = {key: correct[i * n:(i + 1) * n] for i, key in enumerate(keys)}
    # give each step its outcomes
    for s in solutions:
        s.outcomes = [outcomes[tuple(s.prompt), tuple(s.ids[:end + 1])]
                      for end in step_ends(tokenizer, s.ids)[:-1]] + [[s.correct]]
    return int(rollout.mask.sum())


class StepScorer(nn.Module):
    """The network of a PRM or an ORM. It gives a logit for each step: sigmoid(logit) is the
    probability that a solution with this beginning reaches the correct answer."""

    def __init__(self, policy):
        super().__init__()
        self.trunk = copy.deepcopy(policy)
        self.head = nn.Linear(policy.config.width, 1)
        self.logp_weight = nn.Parameter(torch.ones(()))  # the weight a of the least log q
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(policy.embedding.weight.device)

    def forward(self, tokens, mask, step_mask):
        """Logits (S,) of the S marked tokens, row by row. tokens (N, T); mask (N, T) is 1 at tokens
        of the response; step_mask (N, T) is true at the last token of each step."""
        real = mask.flip(1).cumsum(1).flip(1) > 0                  # (N, T) all but the padding
        hidden = self.trunk.packed(tokens, real)                     # (M, D) of the real tokens
        # log q of the response's tokens; the hidden state at t predicts the token at t + 1
        predicts = F.pad(mask[:, 1:] > 0, (0, 1))
        logp = -F.cross_entropy(self.trunk.lm_head(hidden[predicts[real]]).float(),
                                tokens[:, 1:][mask[:, 1:] > 0], reduction="none")
        least = packing.scatter_to_mask(logp, mask).cummin(1)[0].clamp(min=MIN_LOGP)  # (N, T)
        return self.head(hidden[step_mask[real]]).squeeze(1) + self.logp_weight * least[step_mask]

    def set_rewards(self, batch, samples, rollout, tokenizer) -> None:
        """Sets the step rewards of a Batch, and its rewards, their sums. Texts are not read."""
        batch.step_rewards = step_rewards(self, tokenizer, rollout)
        batch.rewards = batch.step_rewards.sum(1)


def scorer_inputs(pairs, ends, device):
    """The arguments (tokens, mask, step_mask) of StepScorer.forward, each (N, T), for N pairs
    (prompt ids, response ids) and the indices of their step ends."""
    tokens, mask = padded(pairs)
    step_mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for i, (prompt, _) in enumerate(pairs):
        step_mask[i, [len(prompt) + end for end in ends[i]]] = True
    return tokens.to(device), mask.to(device), step_mask.to(device)


def loss(scorer, pairs, ends, labels):
    """The cross-entropy of the labels, a scalar: the sum over all steps (`train` makes the mean);
    other tokens have no loss. It is finite for any finite logit."""
    device = scorer.head.weight.device
    targets = torch.tensor([label for row in labels for label in row], device=device)
    logits = scorer(*scorer_inputs(pairs, ends, device))
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


def train(scorer, pairs, ends, labels, epochs: int, seed: int = 0, batch_tokens: int = 2000,
          lr: float = 1e-3) -> float:
    """Trains a StepScorer in place; returns the last batch's loss per step.

    The beginning that all prompts share (worked examples) is computed once per batch, so it does
    not count towards batch_tokens. At five times this learning rate the trunk forgot its language
    modelling."""
    rng = random.Random(f"judge {seed}")
    shared = len(commonprefix([prompt for prompt, _ in pairs]))
    lengths = [len(prompt) + len(response) - shared for prompt, response in pairs]

    def mean_loss(rows):  # over the steps of the batch
        n_steps = sum(len(ends[i]) for i in rows)
        return loss(scorer, *([x[i] for i in rows] for x in (pairs, ends, labels))) / n_steps
    return fit(scorer, plan_batches(lengths, epochs, rng, batch_tokens), mean_loss, lr)


def train_reward_model(policy, tokenizer, solutions: list[Solution], epochs: int, seed: int = 0,
                       outcome: bool = False, lr: float = 1e-3) -> StepScorer:
    """A PRM trained on the step labels of the solutions, or, with `outcome`, an ORM trained on
    whether they are correct."""
    pairs = [(s.prompt, s.ids) for s in solutions]
    ends = [step_ends(tokenizer, s.ids) for s in solutions]
    ends = [step_end[-1:] for step_end in ends] if outcome else ends
    labels = [[s.correct] if outcome else s.step_labels() for s in solutions]
    scorer = StepScorer(policy)
    train(scorer, pairs, ends, labels, epochs, seed, lr=lr)
    return scorer.requires_grad_(False)


@torch.inference_mode()
def score_steps(scorer, tokenizer, pairs, max_tokens: int = 8192) -> list[list[float]]:
    """For each pair (prompt ids, response ids) the probability of success after each step; [0.0]
    for an empty response. Equal pairs are computed once."""
    scores = {(tuple(prompt), tuple(ids)): [0.0] for prompt, ids in pairs}
    keys = [(list(prompt), list(ids)) for prompt, ids in scores if ids]
    ends = [step_ends(tokenizer, ids) for _, ids in keys]
    for rows in packing.micro_batches([len(p) + len(r) for p, r in keys], max_tokens):
        p = scorer(*scorer_inputs([keys[i] for i in rows], [ends[i] for i in rows],
                                  scorer.head.weight.device)).sigmoid().tolist()
        for i in rows:  # cut the flat list into the rows' steps
            prompt, ids = keys[i]
            scores[tuple(prompt), tuple(ids)], p = p[:len(ends[i])], p[len(ends[i]):]
    return [scores[tuple(prompt), tuple(ids)] for prompt, ids in pairs]


def step_rewards(scorer, tokenizer, rollout) -> torch.Tensor:
    """Rewards (N, T) of a Rollout: each step's score at the step's last token, 0 elsewhere
    (step-wise PPO of Math-Shepherd, 2312.08935)."""
    pairs, rewards = sampled_pairs(rollout), torch.zeros_like(rollout.mask)
    scores = score_steps(scorer, tokenizer, pairs)
    for row, (prompt, ids) in enumerate(pairs):
        rewards[row, [len(prompt) + end for end in step_ends(tokenizer, ids)]] = torch.tensor(
            scores[row], device=rewards.device)
    return rewards


def load(run: str, policy) -> dict:
    """The reward models {"prm": StepScorer, "orm": StepScorer} of a run. Raises ValueError if the
    run has none, or if they are of another version."""
    path = Path(run) / "prm.pt"
    if not path.exists():
        raise ValueError(f"{run} has no prm.pt; python prm.py --run {run} makes one")
    mend = f"; python prm.py --run {run} makes it again"
    states, scorers = tensors.load(path, mend=mend), {}
    try:
        for name in ("prm", "orm"):
            scorers[name] = StepScorer(policy).requires_grad_(False)
            scorers[name].load_state_dict(states[name])
    except (RuntimeError, TypeError, LookupError, AttributeError):  # other names, shapes, types
        raise ValueError(f"{path} does not fit this version or this policy; "
                         f"python prm.py --run {run} makes it again") from None
    return scorers


def make_reward_models(args, policy, tokenizer, task, max_new_tokens: int) -> dict:
    """Samples and labels solutions, trains a PRM and an ORM, measures them on held-out problems.
    Writes prm.pt and prm.json, whose content is returned."""
    run_dir.tune_malloc()
    times = [time.perf_counter()]

    def lap() -> float:  # seconds since the last call
        times.append(time.perf_counter())
        return round(times[-1] - times[-2], 1)
    # training data: solutions of training problems and the labels of their steps
    problems = task.sample(random.Random(f"prm {args.seed}"), args.problems)
    solutions = sample_solutions(policy, tokenizer, task, problems, args.solutions, max_new_tokens,
                                 args.seed)
    print(f"{len(solutions)} distinct solutions; labelling their steps", file=sys.stderr)
    tokens = label_steps(policy, tokenizer, task, solutions, args.completions, max_new_tokens,
                         args.seed + 1)
    result = {"solutions": len(solutions), "steps": sum(len(s.outcomes) for s in solutions),
              "tokens_for_labels": tokens, "seconds_label": lap(),
              "labels": oracle.label_quality(solutions, args.completions)}
    # test data: solutions of held-out problems
    held_out = sample_solutions(policy, tokenizer, task, task.held_out(args.eval_problems), 8,
                                max_new_tokens, args.seed + 2)
    slots.release_slots(policy)  # frees the sampler's cache before training
    lap()

    scorers = {}
    for name in ("prm", "orm"):
        scorers[name] = train_reward_model(policy, tokenizer, solutions, args.epochs, args.seed,
                                           name == "orm", args.lr)
        result[f"seconds_{name}"] = lap()
        scores = score_steps(scorers[name], tokenizer, [(s.prompt, s.ids) for s in held_out])
        outcome_auc = oracle.auc([p[-1] for p in scores], [s.correct > 0 for s in held_out])
        result[name] = oracle.score_quality(held_out, scores) | {"auc_of_outcomes": outcome_auc}
        lap()
    tensors.save(Path(args.run) / "prm.pt", {name: scorer.state_dict()
                                             for name, scorer in scorers.items()})
    run_dir.write_json(Path(args.run) / "prm.json", result)
    return result


COUNTS = {"problems": (512, "training problems"), "solutions": (8, "samples of each problem"),
          "completions": (4, "N, the completions after each step"),
          "epochs": (4, "passes over the solutions"),
          "eval-problems": (200, "held-out problems to measure with")}


def main(argv=None) -> int:
    from infra import memory  # not at the top: it stands above this file

    parser = arguments.Parser("prm.py", description=__doc__.split("\n\n")[0])
    arguments.add_run(parser)
    for name, (default, words) in COUNTS.items():
        most = {"most": MAX_EPOCHS} if name == "epochs" else {}
        parser.add_argument(f"--{name}", type=arguments.integer(1, **most), default=default,
                            help=f"{words} (default: {default})")
    parser.add_argument("--lr", type=arguments.number(above=0),
                        help="learning rate (default: 1e-3, for a pretrained policy 1e-4)")

    def work(args):
        policy, tokenizer, settings = evaluate.load_run(args.run)
        args.lr = args.lr or (1e-4 if settings.get("init") else 1e-3)
        rows = max(args.problems * args.solutions * args.completions, 8 * args.eval_problems)
        memory.check_responses(rows, settings["max_new_tokens"], "change --problems, --solutions, "
                               "--completions or --eval-problems")
        task = evaluate.load_task(settings, tokenizer, policy.config.context)
        print(json.dumps(make_reward_models(args, policy, tokenizer, task,
                                            settings["max_new_tokens"])))
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
