"""Entropy collapse: GRPO's entropy falls to nearly 0, and seven ways to keep it up.

2505.22617 claims that the accuracy R of a policy is traded for its entropy H, in nats per token:

    R = -a exp(H) + b        so the accuracy cannot exceed b - a, its value at H = 0

and that two methods which keep the entropy up, Clip-Cov and KL-Cov, end higher. Each arm below
trains the same base with the same number of sampled tokens:

    grpo          no cure
    bonus         H is added to the objective, with a constant weight
    schedule      the weight begins as that of `bonus`, and falls linearly to 0
    target        the weight follows a target of H (2505.22312), from a high weight
    clip-higher   the upper clip is 0.28 instead of 0.2 (DAPO, 2503.14476)
    clip-cov      no gradient for a few tokens whose covariance of log-prob and advantage is high
    kl-cov        a KL penalty for the tokens with the highest covariance
    top fifth     a gradient only for the fifth of tokens with the highest entropy (2506.01939)

The base has 128 tokens to try combinations of Countdown's numbers. R and H of a step are measured
on its responses, at temperature 1, before the update. The control is `grpo`. Left out on
purpose: a learning rate tuned for each arm (bench/arenas.py tunes), and combinations of cures.
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

from functools import partial
from statistics import mean

import numpy as np

import entropy
import evaluate
from recipes import page, runs

FLAGS = ("--task countdown --base-seed 1 --max-new-tokens 128 --algo grpo --reward accuracy "
         "--prompts 8 --group-size 8 --minibatches 2 --lr 8e-4 --steps 100000")
ARMS = {  # name -> further flags
    "grpo": "",
    "bonus": "--entropy-coef 0.1",
    "schedule": "--entropy-coef 0.1 --entropy-schedule linear",
    "target": "--entropy-target 0.1 --entropy-coef 0.3",  # it moves by 0.005 a step
    "clip-higher": "--clip-high 0.28",
    "clip-cov": "--token-filter clip-cov",
    "kl-cov": "--token-filter kl-cov",
    "top fifth": "--token-filter top-entropy",
}
CURES = [name for name in ARMS if name != "grpo"]
POINTS = 20        # of an arm's curve
HELD_OUT = 300     # problems for the greedy accuracy
PASS_PROBLEMS = 100  # problems with 16 samples, for pass@1 and pass@16


# --- a seed

def curve(history: list[dict]) -> list[list]:
    """(tokens, accuracy, entropy) for each of POINTS parts of a run: the tokens sampled up to its
    end, and means over its steps."""
    tokens, points = np.cumsum([step["tokens"] for step in history]), []
    for part in np.array_split(np.arange(len(history)), min(POINTS, len(history))):
        means = [mean(history[i][key] for i in part) for key in ("accuracy", "entropy")]
        points.append([int(tokens[part[-1]]), *means])
    return points


def law(points: list[list]) -> dict:
    """The fit R = -a exp(H) + b over the points of a curve: a, its R2, and b - a, the accuracy that
    it gives at H = 0. {} where the entropy or the accuracy is constant."""
    _, accuracies, entropies = zip(*points, strict=True)
    try:
        a, b, r2 = entropy.fit(entropies, accuracies)
    except ValueError:
        return {}
    return {"a": a, "R2": r2, "ceiling": b - a}


def measure(policy, task, tokenizer, options) -> dict:
    """Accuracies of a policy on held-out problems, and the length and truncation at temperature 1.
    """
    found = evaluate.measure(policy, tokenizer, task, task.held_out(HELD_OUT), options.seed,
                             options.max_new_tokens, PASS_PROBLEMS, 16)
    return {"greedy": found["greedy"]["value"], "length": found["length"],
            "truncated": found["truncated"]["value"],
            **{f"pass@{k}": value for k, value in found["pass_at_k"].items()}}


def work(seed: int, folder: Path, args) -> dict:
    """The measures and curves of all arms of a seed."""
    base, *start = runs.start(f"{FLAGS} {args.flags}", seed, args.work)
    result = {"base": measure(base, *start)}
    for name, flags in ARMS.items():
        options, *of_task = runs.read(f"{FLAGS} {flags} --token-budget {args.tokens} {args.flags}",
                                      seed)
        policy, history = runs.reinforced(folder / f"{name}.pt", base, *of_task, options)
        points = curve(history)
        result[name] = measure(policy, *start) | law(points) | {
            "curve": points, "tokens": points[-1][0], "R at the end": points[-1][1],
            "entropy": points[-1][2]}
    return result


# --- the page

def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page."""
    cell = partial(page.cell, results)
    for result in results:
        result["base"]["entropy"] = mean(result[name]["curve"][0][2] for name in ARMS)
    accuracies = ("greedy", "pass@1", "pass@4", "pass@16", "truncated")
    columns = ["arm", "entropy at the end, nats", *(f"{key}, %" for key in accuracies),
               "length, tokens", "thousand tokens sampled"]
    rows = [[name, cell(name, "entropy", 1, 3), *(cell(name, key) for key in accuracies),
             cell(name, "length", 1, 0), cell(name, "tokens", 1e-3, 0)]
            for name in ("base", *ARMS)]
    fits = [[name, cell(name, "a", 1, 2), cell(name, "R2", 1, 2), cell(name, "ceiling"),
             cell(name, "R at the end")] for name in ARMS]
    return [("Held-out problems after training; the entropy is that of the last twentieth", columns,
             rows),
            ("The fit R = -a exp(H) + b of each run", ["arm", "a", "R2", "R at H = 0, %",
                                                       "R in the last twentieth, %"], fits),
            *((f"Against plain GRPO: {key}", page.DIFFERENCES,
               page.differences(results, [(name, "grpo") for name in CURES], key))
              for key in ("greedy", "pass@1", "pass@16"))]


def draw(results: list[dict], figure) -> None:
    """Left: the entropy against tokens, mean over seeds. Right: accuracy against entropy, and the
    fit over all points of plain GRPO."""
    left, right = figure.subplots(1, 2)
    for name in ARMS:
        curves = [result[name]["curve"] for result in results]
        xs = np.linspace(0, min(curve[-1][0] for curve in curves), 100)
        ys = np.array([[page.interpolate(curve, 0, x) for x in xs] for curve in curves])
        [line] = left.plot(xs / 1000, ys.mean(0), label=name)
        _, accuracies, entropies = zip(*sum(curves, []), strict=True)
        right.plot(entropies, 100 * np.array(accuracies), ".", color=line.get_color(), alpha=0.6)
        if name == "grpo" and law(sum(curves, [])):
            a, b, r2 = entropy.fit(entropies, accuracies)
            xs = np.linspace(0, max(entropies), 50)
            right.plot(xs, 100 * (b - a * np.exp(xs)), color=line.get_color(),
                       label=f"fit of grpo, R2 {r2:.2f}")
    left.set(xlabel="thousand sampled tokens", ylabel="entropy, nats per token", ylim=(0, None))
    right.set(xlabel="entropy, nats per token", ylabel="accuracy at temperature 1, %")
    left.legend()
    right.legend()


def main(argv=None) -> int:
    numbers = [("--tokens", 200_000, "sampled by an arm")]
    return page.main("entropy_collapse", "Entropy collapse and its cures", __doc__, work, tables,
                     draw, argv, numbers)


if __name__ == "__main__":
    sys.exit(main())
