"""Reward hacking: six rewards with a hole, what a report says of each, and a cure for each.

    python -m recipes.hacking                   five seeds, about 55 minutes of one core

A policy that is paid by a proxy of the goal finds what the proxy overpays (2209.13085). Gold is the
share of right answers. r is the reward of a response; recipes/hacks.py has the code:

    claim    r = form, and "check" before "ok"         cure: correct + 0.1 * form
    format   r = form                                  cure: correct * form
    short    r = correct + 2 * (1 - length / limit)    cure: correct * (3 - 2 * length / limit)
    long     r = correct + 2 * length / limit          cure: correct * (1 + 2 * length / limit)
    steps    r = the least of a PRM's step scores      cure: correct + the least score
    tests    r = passes the test in the question       cure: passes it and two hidden tests

Two more runs test cures that were claimed: `short, kimi` is paid correct + the length reward of
kimi.py, and `steps, sum` the sum of the scores (2504.15275 prefers the least one to the sum).
The runs of a hack start from one base and sample equally many tokens. The corpus of the base shows
each bad habit in some of its documents. The report is that of diagnose.py, made twice: with all
metrics of the run, and without those that need right answers, as for a user with the proxy alone.
Left out on purpose: hacks of a learned preference (recipes/overoptimization.py).
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

import random
from dataclasses import asdict
from functools import lru_cache
from statistics import mean, median

import numpy as np

import diagnose
import evaluate
import prm
from infra import tensors
from infra.terminal import echo, quote
from recipes import page, runs
from recipes.hacks import Chain, Code, hacks, paid_by

FLAGS = ("--size tiny --base-steps 250 --prompts 16 --group-size 8 --eval-problems 100 "
         "--eval-every 3")
CODE_TOKENS = 3  # times the tokens of a chain run: in 8 steps, one time, little happened
HELD_OUT = 300  # problems of a measurement, each with one response at temperature 1
GOLD = ("accuracy", "correct", "eval_accuracy", "length_correct", "length_wrong")  # metrics
PROBLEMS, SOLUTIONS, COMPLETIONS, EPOCHS = 128, 4, 4, 4  # of the PRM's training, as in prm.py
COLUMNS = {  # heading -> measure, scale, digits
    "proxy": ("proxy", 1, 2), "gold, %": ("gold", 100, 1), "greedy gold, %": ("greedy", 100, 1),
    "length": ("length", 1, 1)}


# --- a seed

def step_scores_of(path: Path, base, task, tokenizer, options):
    """The function step_scores of recipes/hacks.py: a PRM of the base's solutions, kept in `path`.
    """
    scorer = prm.StepScorer(base).requires_grad_(False)
    if not path.exists():
        problems = task.sample(random.Random(f"prm {options.seed}"), PROBLEMS)
        of_base = base, tokenizer, task
        solutions = prm.sample_solutions(*of_base, problems, SOLUTIONS, options.max_new_tokens,
                                         options.seed)
        prm.label_steps(*of_base, solutions, COMPLETIONS, options.max_new_tokens, options.seed)
        scorer = prm.train_reward_model(base, tokenizer, solutions, EPOCHS, options.seed)
        tensors.save(path, scorer.state_dict())
    scorer.load_state_dict(tensors.load(path))

    @lru_cache(maxsize=2**12)
    def scores(question, ids):
        return prm.score_steps(scorer, tokenizer, [(tokenizer.encode_prompt(question), ids)])[0]
    return lambda sample: scores(sample.problem.question, tuple(sample.tokens))


def measure(policy, task, tokenizer, options) -> dict:
    """Of one response to each held-out problem: the proxy, the gold and the length in tokens.
    "greedy": the gold of greedy responses. "example": the wrong response that the proxy pays most.
    """
    problems = task.held_out(HELD_OUT)
    rollout, texts = evaluate.sample_responses(policy, tokenizer, problems, seed=1,
                                               max_new_tokens=options.max_new_tokens)
    parts = [task.score(problem, text, tokens=tokens).parts for problem, text, tokens in
             zip(problems, texts, rollout.responses(), strict=True)]
    i = max(range(len(parts)), key=lambda i: (1 - parts[i]["correct"], parts[i]["proxy"]))
    return {"proxy": mean(part["proxy"] for part in parts),
            "gold": mean(part["correct"] for part in parts),
            "greedy": evaluate.greedy_accuracy(policy, tokenizer, task, problems,
                                               options.max_new_tokens)["value"],
            "length": float(rollout.mask.sum(1).mean()),
            "example": f"{problems[i].question} {texts[i]}"}


def report(history, options, without=()) -> dict[str, int]:
    """{rule of diagnose.py: first step} for a run, without some of its metrics."""
    lines = [{name: x for name, x in line.items() if name not in without} for line in history]
    found = diagnose.diagnoses(diagnose.Run(asdict(options), lines, []))
    return {name: step for name, (step, _) in found.items()}


def run_seed(seed: int, folder: Path, args) -> dict:
    """For each hack the measures of its base, and of the runs by the hacked and cured rewards."""
    result, starts = {}, {}
    for kind, name, times in ((Chain, "chain", 1), (Code, "code", CODE_TOKENS)):
        flags = f"{FLAGS} --task {name} --token-budget {times * args.tokens} {args.flags}"
        starts[kind] = runs.start(flags, seed, folder, kind())
    step_scores = step_scores_of(folder / "prm.pt", *starts[Chain])
    for name, (kind, rewards) in hacks(step_scores).items():
        base, _, tokenizer, options = starts[kind]
        for arm, pay in rewards.items():
            # 1. the run
            task = paid_by(kind, pay, proxy=rewards["hacked"])
            path = folder / f"{name}-{arm}.pt"
            policy, history = runs.reinforced(path, base, task, tokenizer, options)
            # 2. its measures, its curve, and its two reports
            tokens = np.cumsum([line["tokens"] for line in history]).tolist()
            result[f"{name}, {arm}"] = measure(policy, task, tokenizer, options) | {
                "curve": [tokens, *([line[key] for line in history]
                                    for key in ("proxy", "accuracy"))],
                "with gold": report(history, options),
                "without gold": report(history, options, GOLD)}
        result[f"{name}, base"] = measure(base, task, tokenizer, options)
        for run in ("base", *rewards):
            found = {x: y for x, y in result[f"{name}, {run}"].items() if x != "curve"}
            echo(f"seed {seed}, {name}, {run}: {found}", flush=True)
    return result


# --- the page

def rules(results, name: str, which: str) -> str:
    """The rules that fire in a run, each with its median step and the number of seeds."""
    found = [result[name][which] for result in results]
    steps = {rule: [x[rule] for x in found if rule in x] for rule in dict.fromkeys(sum(
        map(list, found), []))}
    return ", ".join(f"{rule} (step {median(x):.0f}, {len(x)} of {len(found)} seeds)"
                     for rule, x in steps.items()) or "none"


def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page: measures, gold of hacked against cured, reports, and responses."""
    names = [name for name in results[0] if not name.endswith("base")]
    hacked = [name for name in names if name.endswith("hacked")]
    base = {name: f"{name.partition(',')[0]}, base" for name in names}
    return [
        ("The runs of each hack, at equal tokens",
         ["run", *(f"{key}, {when}" for key in COLUMNS for when in ("base", "end"))],
         [[name, *(page.cell(results, of, *how) for how in COLUMNS.values()
                   for of in (base[name], name))] for name in names]),
        ("Greedy gold of the hacked run against the cured one", page.DIFFERENCES, page.differences(
            results, [(name, name.replace("hacked", "cured")) for name in hacked], "greedy")),
        ("Greedy gold of the hacked run against the base", page.DIFFERENCES, page.differences(
            results, [(name, base[name]) for name in hacked], "greedy")),
        ("Rules of diagnose.py that fire", ["run", "with gold", "without gold"],
         [[name, *(rules(results, name, f"{which} gold") for which in ("with", "without"))]
          for name in names]),
        ("The wrong response that the proxy pays most, first seed", ["run", "response"],
         [[name, f"`{quote(results[0][name]['example'], 160)}`"] for name in hacked])]


def draw(results, figure) -> None:
    """A panel for each hack, means over seeds: its proxy, as a share of the highest value, and the
    gold of both runs."""
    names = [name.partition(",")[0] for name in results[0] if name.endswith("base")]
    for name, axis in zip(names, figure.subplots(2, 3, sharey=True).flat, strict=True):
        for label, arm, column in (("proxy of the hacked run, of its maximum", "hacked", 1),
                                   ("gold of the hacked run", "hacked", 2),
                                   ("gold of the cured run", "cured", 2)):
            curves = [result[f"{name}, {arm}"]["curve"] for result in results]
            x = np.linspace(0, min(curve[0][-1] for curve in curves), 100)
            y = np.mean([np.interp(x, curve[0], curve[column]) for curve in curves], axis=0)
            axis.plot(x / 1000, 100 * y / (y.max() or 1.0 if column == 1 else 1), label=label)
        axis.set(title=name, xlabel="thousand sampled tokens", ylabel="%")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def main(argv=None) -> int:
    numbers = [("--tokens", 50_000, "sampled by a run; three times as many for programs")]
    return page.main("hacking", "Reward hacking and its cures", __doc__, run_seed, tables, draw,
                     argv, numbers,
                     image="reward-hacking")  # docs/img/hacking.png is a figure of docs/tasks.md


if __name__ == "__main__":
    sys.exit(main())
