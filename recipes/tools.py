"""Tools: a policy learns to call a calculator, a database and Python, and to recover from errors.

    347*26+8=?   <think><call>347*26+8</call><result>9030</result></think><answer>9030</answer>

The problems are too hard for the head of so small a model, or their facts stand in no prompt. The
base has read responses with calls, but mostly it guesses (tasks/tools.py). GRPO pays for the answer
alone, in turns (engine/turns.py): tokens of the tool are in no loss. Rows of the table:

    no tool         the same problems without a tool, before and after RL
    tool            with the tool, before and after RL
    random results  control: RL with a tool whose results are random digits
    price           RL with a reward of 0.1 less per call: is the tool called only where needed?
    turn credit     RL with --turn-penalty 0.5: the tokens of a call that fails are to blame

One problem in seven has a tool that is busy at its first call. Papers: ReTool 2504.11536,
Search-R1 2503.09516, credit per turn 2505.11821. Left out on purpose: several tools at once.
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

import random
from dataclasses import replace
from functools import partial

import torch

import evaluate
from recipes import page, runs
from tasks import Tool
from tasks.tools import EASY, HARD

FLAGS = "--size nano --prompts 16 --group-size 16 --lr 8e-4 --base-steps 450"
TASKS = {"calculator": "--level 2", "records": "--level 1 --base-steps 900", "python": "--level 1"}
PRICE = 0.1        # of a call, in arm "price"
HELD_OUT = 300     # problems
SHOWN = 2          # transcripts of each policy
MEASURES = {  # name -> (heading, factor, digits)
    "accuracy": ("greedy, %", 100, 1), HARD: ("hard, %", 100, 1), EASY: ("easy, %", 100, 1),
    "sampled": ("temperature 1, %", 100, 1), "calls": ("calls", 1, 2),
    f"calls {HARD}": ("calls, hard", 1, 2), f"calls {EASY}": ("calls, easy", 1, 2),
    "errors": ("calls with an error, %", 100, 1), "recovered": ("right after an error, %", 100, 1),
    "length": ("length, tokens", 1, 0)}


# --- the arms: a task with another tool, or another reward

def with_tool(task, change):
    """The task with change(problem) in the place of each problem's tool."""
    class Changed(type(task)):
        def sample_problem(self, rng, held_out):
            problem = super().sample_problem(rng, held_out)
            return replace(problem, tool=change(problem))
    return Changed(task.level)


def random_digits(problem) -> Tool:
    """A tool whose results have the length of the answer, and nothing else from it."""
    def answer(call, turn):
        rng = random.Random(f"{problem.question} {call} {turn}")
        return "".join(rng.choice("0123456789") for _ in problem.answer)
    return Tool(answer, problem.tool.max_calls)


def priced(task):
    """The task with a reward of PRICE less per call."""
    class Priced(type(task)):
        def score(self, problem, text, *more):
            reward = super().score(problem, text, *more)
            return replace(reward, total=reward.total - PRICE * text.count("<call>"))
    return Priced(task.level)


def unchanged(task):
    return task


ARMS = {  # name -> (change of the task, flags of train.py)
    "no tool": (partial(with_tool, change=lambda problem: None), ""),
    "tool": (unchanged, ""),
    "random results": (partial(with_tool, change=random_digits), ""),
    "price": (priced, ""),
    "turn credit": (unchanged, "--turn-penalty 0.5"),
}
OF_ALL_TASKS = "no tool", "tool"  # the others are for the calculator alone
PAIRS = (("tool", "no tool"), ("tool", "tool, base"), ("tool", "random results"),
         ("price", "tool"), ("turn credit", "tool"))


# --- a seed

def measure(policy, tokenizer, task, options, n: int) -> dict:
    """The MEASURES of a policy on n held-out problems, and some transcripts. Calls and errors are
    those of one response to each problem at temperature 1."""
    problems, limit = task.held_out(n), options.max_new_tokens
    # 1. greedy: the accuracy, and that of easy and of hard problems
    greedy = evaluate.greedy_accuracy(policy, tokenizer, task, problems, limit)
    found = {"accuracy": greedy["value"]}
    found |= {kind: part["value"] for kind, part in greedy["by_kind"].items()}
    # 2. temperature 1
    rollout, texts = evaluate.sample_responses(policy, tokenizer, problems, seed=1,
                                               max_new_tokens=limit)
    right = torch.tensor([float(task.correct(p, t))
                          for p, t in zip(problems, texts, strict=True)])
    found |= {"sampled": float(right.mean()), "length": float(rollout.mask.sum(1).mean())}
    if not problems[0].tool:
        return found | {"transcripts": texts[:SHOWN]}
    # 3. the calls
    calls, errors = rollout.calls.double(), rollout.errors.double()
    found |= {"calls": float(calls.mean()), "errors": float(errors.sum() / calls.sum().clamp(1))}
    for kind in greedy["by_kind"]:
        found[f"calls {kind}"] = float(calls[[p.category == kind for p in problems]].mean())
    if errors.any():
        found["recovered"] = float(right[errors > 0].mean())
    rows = [*range(SHOWN), *errors.nonzero()[:SHOWN, 0].tolist()]
    return found | {"transcripts": [tokenizer.decode_response(rollout.transcript(row))
                                    for row in rows]}


def work(seed: int, folder: Path, args) -> dict:
    """result["TASK, ARM"]: the measures of each policy; "TASK, ARM, base" those of the base."""
    result = {}
    for name, level in TASKS.items():
        flags = f"{FLAGS} --task {name} {level} --steps {args.steps} {args.flags}"
        base, task, tokenizer, options = runs.start(flags, seed, folder)
        for arm, (change, more) in ARMS.items():
            if name != "calculator" and arm not in OF_ALL_TASKS:
                continue
            changed = change(task)
            if arm in OF_ALL_TASKS:
                result[f"{name}, {arm}, base"] = measure(base, tokenizer, changed, options,
                                                         args.held_out)
            of_arm, *_ = runs.read(f"{flags} {more}", seed)
            policy, history = runs.reinforced(folder / f"{name} {arm}.pt", base, changed, tokenizer,
                                              of_arm)
            result[f"{name}, {arm}"] = measure(policy, tokenizer, changed, options,
                                               args.held_out) | {
                "curve": [[line["accuracy"], line.get("calls", 0.0)] for line in history]}
    return result


# --- the page

def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page."""
    names = list(results[0])
    columns = ["run", *(heading for heading, *_ in MEASURES.values())]
    rows = [[name, *(page.cell(results, name, key, factor, digits)
                     for key, (_, factor, digits) in MEASURES.items())] for name in names]
    gaps = [(f"{task}, {arm}", f"{task}, {other}") for task in TASKS for arm, other in PAIRS
            if f"{task}, {arm}" in names and f"{task}, {other}" in names]
    shown = [[name, f"`{text!r}`"] for name in names for text in results[0][name]["transcripts"]]
    return [("All runs", columns, rows),
            ("Greedy accuracy, compared", page.DIFFERENCES,
             page.differences(results, gaps, "accuracy")),
            (f"Responses of the first seed to {SHOWN} problems, and {SHOWN} with an error",
             ["run", "response, with the results of the tool"], shown)]


def draw(results: list[dict], figure) -> None:
    """The accuracy and the calls per response in training, of the runs with the calculator."""
    panels = zip(figure.subplots(1, 2), ("accuracy in training, %", "calls per response"),
                 (100, 1), strict=True)
    for i, (axes, label, factor) in enumerate(panels):
        for arm in ARMS:
            page.draw_steps(axes, arm, [[factor * point[i] for point in
                                         x[f"calculator, {arm}"]["curve"]] for x in results])
        axes.set(xlabel="step", ylabel=label)
    axes.legend()


def main(argv=None) -> int:
    numbers = [("--steps", 20, "steps of each run"),
               ("--held-out", HELD_OUT, "held-out problems")]
    return page.main("tools", "Tools, in several turns", __doc__, work, tables, draw, argv,
                     numbers, seeds="0,1,2")


if __name__ == "__main__":
    sys.exit(main())
