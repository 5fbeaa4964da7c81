"""Distillation against RL: what a small model learns from a large one, and what it finds alone.

DeepSeek-R1 (2501.12948) fine-tunes small models on the answers of a large one, and claims that this
beats RL on the small model. Here a larger teacher (--size tiny, after GRPO) and a smaller student
(--size nano) have bases of the same corpus. Each row starts from the same base of the student:

    right         SFT on the teacher's right answers
    random        SFT on as many of its answers, chosen at random
    rl            GRPO on the student
    right, rl     SFT on right answers until half of the tokens are spent, then GRPO
    on-policy     the student samples; the teacher's distribution is the target of each token
    self          its teacher is its own moving average, which reads a right answer of the group

The last two minimise the KL of student to teacher over the whole vocabulary; gkd.py has the papers.
The base has never read a problem twice in a prompt, so do not expect much of `self` here. A row's
cost is its sampled tokens, of teacher and student, and the CPU seconds of this process, without
those of measuring. Left out on purpose: the training of the bases in the costs, several teachers.
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

import copy
import math
import random
import time
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress

import torch

import evaluate
import gkd
import model as gpt
import sft
import train
from engine.muon import muon_and_adam
from infra import arguments, tensors
from infra.models import make_models
from recipes import page, runs

TEACHER = "--size tiny --steps 10"
# a reward for form traps the student's GRPO
STUDENT = "--size nano --steps 1000 --reward accuracy --prompts 16 --lr 4e-4"
ANSWERS, EPOCHS = 400, 2               # of a round of SFT: the teacher's, and passes over them
SAMPLES, GROUP = 64, 16                # of a round of distillation, and of a problem in `self`
RATES = dict(lr=5e-3, adam_lr=2.5e-3)  # of distillation, the highest
EMA = 0.05                             # the student's share in its own teacher, per optimizer step
POINTS, CURVE_PROBLEMS = 5, 200        # of a row's curve
HELD_OUT, PASS_PROBLEMS = 300, 64      # at the end: problems, and those with 16 samples for pass@k
MEASURES, COSTS = ("greedy", "pass@1", "pass@4", "pass@16"), ("tokens", "seconds")


@dataclass
class Run:
    """A student that learns in one of the rows, and what this has cost so far."""

    student: gpt.GPT
    teacher: gpt.GPT
    task: object
    tokenizer: object
    options: object     # of the student's GRPO
    budget: int         # sampled tokens
    tokens: int = 0     # sampled so far
    seconds: float = 0.0
    began: float | None = None  # CPU seconds of the process when `add` last returned
    done: float = 0.0   # share of the budget
    curve: list = field(default_factory=list)  # (tokens, seconds, greedy accuracy)

    def add(self, tokens: int) -> None:
        """Counts tokens, and the CPU seconds since the last call. Measures a point of the curve."""
        now = time.process_time()
        self.seconds += now - (now if self.began is None else self.began)
        self.tokens += tokens
        self.done = self.tokens / self.budget
        if self.done * POINTS >= len(self.curve):
            found = evaluate.greedy_accuracy(
                self.student, self.tokenizer, self.task, self.task.held_out(CURVE_PROBLEMS),
                self.options.max_new_tokens)
            self.curve.append((self.tokens, self.seconds, found["value"]))
        self.began = time.process_time()

    def sample(self, model, problems, size: int, rng):
        """`size` responses to each problem: (pairs, which of them are right, number of tokens)."""
        rollout, texts = evaluate.sample_responses(
            model, self.tokenizer, problems, size, seed=rng.getrandbits(62),
            max_new_tokens=self.options.max_new_tokens)
        right = [self.task.correct(problems[i // size], text) for i, text in enumerate(texts)]
        return sft.sampled_pairs(rollout), right, int(rollout.mask.sum())


# --- the rows

def fine_tune(run: Run, until=1.0, at_random=False) -> None:
    """Rows `right` and `random`: SFT on the teacher's answers, in rounds of new problems."""
    rng = random.Random(f"problems {run.options.seed}")
    while run.done < until:
        pairs, right, tokens = run.sample(run.teacher, run.task.sample(rng, ANSWERS), 1, rng)
        kept = list(compress(pairs, right))
        if at_random:
            kept = random.Random(run.tokens).sample(pairs, len(kept))
        sft.train(run.student, kept, epochs=EPOCHS, **sft.FINE_TUNING)
        run.add(tokens)


def rl(run: Run, right_until=0.0) -> None:
    """Row `rl`. Row `right, rl` has SFT on right answers before it."""
    fine_tune(run, right_until)
    options = replace(run.options, token_budget=max(1, run.budget - run.tokens))
    runs.reinforce(run.student, run.task, run.tokenizer, options,
                   lambda metrics: run.add(metrics["tokens"]))


def on_policy(run: Run, own_teacher=False) -> None:
    """Rows `on-policy` and `self`: the KL to the teacher on the student's own samples."""
    rng, size = random.Random(f"problems {run.options.seed}"), GROUP if own_teacher else 1
    teacher = copy.deepcopy(run.student) if own_teacher else run.teacher
    optimizers = muon_and_adam(run.student, run.student.blocks, **RATES)
    while run.done < 1:
        # 1. the student's samples, and the same responses as the teacher reads them
        problems = run.task.sample(rng, SAMPLES // size)
        pairs, right, tokens = run.sample(run.student, problems, size, rng)
        views = gkd.with_siblings(pairs, right, size) if own_teacher else [(x, x) for x in pairs]
        rng.shuffle(views)
        # 2. the updates, at rates that fall as those of GRPO
        for optimizer, rate in zip(optimizers, RATES.values(), strict=True):
            optimizer.param_groups[0]["lr"] = train.learning_rate(rate, 4, run.done)
        updates = math.ceil(tokens / sft.BATCH_TOKENS)
        for part in filter(None, (views[i::updates] for i in range(updates))):
            gkd.step(run.student, teacher, part, optimizers)
            if own_teacher:
                gkd.move_average(teacher, run.student, EMA)
        run.add(tokens)


LONG = "rl, more tokens"  # GRPO, which may also sample the tokens of the teacher's GRPO
ROWS = {"right": fine_tune, "random": partial(fine_tune, at_random=True), "rl": rl,
        "right, rl": partial(rl, right_until=0.5), "on-policy": on_policy,
        "self": partial(on_policy, own_teacher=True), LONG: rl}
TAUGHT = "right", "random", "right, rl", "on-policy"  # rows with the larger teacher
PAIRS = (("right", "rl"), ("right, rl", "rl"), ("on-policy", "rl"), ("self", "rl"),
         ("right", "random"), ("right, rl", "right"), ("on-policy", "right"))
QUESTIONS = {  # heading of a table -> pairs of rows to compare, and by what
    "Does distillation beat RL at equal tokens? Greedy accuracy": (PAIRS, "at tokens"),
    "At equal seconds? Greedy accuracy": (PAIRS, "at seconds"),
    "At temperature 1? pass@1": (PAIRS, "pass@1"),
    "And if RL may also sample the teacher's tokens?": ([(x, LONG) for x in TAUGHT], "greedy")}


# --- a seed

def make_teacher(flags: str, seed: int, folder: Path):
    """The teacher, a base after GRPO, and the cost of its GRPO. It is kept in folder."""
    path = folder / f"teacher-{seed}.pt"
    if not path.exists():
        base, task, tokenizer, options = runs.start(f"{TEACHER} {flags}", seed, folder)
        models, optimizer = make_models(base, tokenizer, options)
        began = time.process_time()
        history = train.reinforce(task, models, optimizer, options)
        tensors.save(path, {**gpt.to_state(base), "tokens": sum(x["tokens"] for x in history),
                            "seconds": time.process_time() - began})
    saved = tensors.load(path)
    return gpt.from_state(saved), {key: saved[key] for key in COSTS}


def measure(model, task, tokenizer, options) -> dict:
    """Greedy accuracy, pass@k and the mean length in tokens, on held-out problems."""
    found = evaluate.measure(model, tokenizer, task, task.held_out(HELD_OUT), options.seed,
                             options.max_new_tokens, PASS_PROBLEMS, 16)
    return {"greedy": found["greedy"]["value"], "length": found["length"],
            **{f"pass@{k}": value for k, value in found["pass_at_k"].items()}}


def work(args, seed: int) -> dict:
    """The results of a seed: teacher, base of the student, rows."""
    teacher, cost = make_teacher(args.flags, seed, args.work)
    base, *task = runs.start(f"{STUDENT} {args.flags}", seed, args.work)
    result = {"teacher": measure(teacher, *task) | cost, "base": measure(base, *task)}
    for name, learn in ROWS.items():
        budget = args.tokens + (name == LONG) * cost["tokens"]
        run = Run(copy.deepcopy(base), teacher, *task, budget)
        run.add(0)
        learn(run)
        costs = {key: getattr(run, key) for key in (*COSTS, "curve")}
        result[name] = measure(run.student, *task) | costs
    return result


# --- the page

def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page."""
    rows, cell = [name for name in ROWS if name != LONG], partial(page.cell, results)
    for result in results:
        for i, cost in enumerate(COSTS):
            least = min(result[name][cost] for name in rows)  # the cost of the cheapest row
            for name in rows:
                result[name][f"at {cost}"] = page.interpolate(result[name]["curve"], i, least)
            for name in TAUGHT:
                result[name][f"all {cost}"] = result[name][cost] + result["teacher"][cost]
    columns = ["row", *(f"{key}, %" for key in MEASURES), "length", "thousand tokens", "seconds",
               "thousand tokens with the teacher's GRPO", "seconds with it",
               "greedy, % at equal tokens", "at equal seconds"]
    lines = [[name, *(cell(name, key) for key in MEASURES), cell(name, "length", 1, 0),
              *(cell(name, prefix + cost, *how) for prefix in ("", "all ")
                for cost, how in (("tokens", (1e-3, 0)), ("seconds", (1, 0)))),
              *(cell(name, f"at {cost}") for cost in COSTS)] for name in ("base", "teacher", *ROWS)]
    return [("All rows", columns, lines),
            ("Each seed: greedy accuracy at equal tokens, by the pass@16 of the base",
             ["row", *(f"base with {result['base']['pass@16']:.0%}" for result in results)],
             [[name, *(f"{result[name]['at tokens']:.1%}" for result in results)]
              for name in rows]),
            *((heading, page.DIFFERENCES, page.differences(results, *how))
              for heading, how in QUESTIONS.items())]


def main(argv=None) -> int:
    parser = arguments.Parser("recipes.distill", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    page.add_flags(parser, "distill")
    add("--tokens", type=arguments.integer(1), default=100_000,
        help="sampled by a row (default: 100000)")

    def run(args):
        torch.set_num_threads(1)
        results = page.run_seeds(lambda seed, _: work(args, seed), args)
        curves = {name: [x[name]["curve"] for x in results] for name in ROWS if name != LONG}
        page.write("distill", "Distillation against RL", tables(results),
                   partial(page.draw_curves, curves, ("sampled tokens", "CPU seconds")), args.docs,
                   about=__doc__.partition("\n\n")[2])
    return arguments.run(parser, argv, run)


if __name__ == "__main__":
    sys.exit(main())
