"""Scaling of RL: does a curve through the first half of a run predict the second half?

ScaleRL (2510.13786) describes the accuracy R of a run after the compute C by a sigmoid in log C:

    R(C) = R_0 + (A - R_0) / (1 + (C_mid / C)^B)

R_0 is the accuracy of the base, A the asymptote, C_mid the compute at half of the gain, and B the
steepness. The paper claims that the curve, fitted early, predicts the rest of a run; that larger
models and larger batches have a higher A; and that larger batches learn more slowly at first.

Here C is sampled tokens, and R the greedy accuracy on held-out problems. The fit is least squares
over the points up to half of the tokens. It is compared with two predictions that need no curve:

    last value    the mean of the last points of the first half goes on
    line          a straight line in log C, fitted to the same points and cut off at 0 and 1

and with a bound: the same sigmoid fitted to all points, which has seen the answer. Left out on
purpose: GPU hours as C, several samples of each problem for R, a constant learning rate (it falls
linearly here), runs of other lengths.
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

from functools import partial
from statistics import mean

import numpy as np
import torch

import evaluate
from infra import arguments, run_dir
from recipes import page, runs

PROBLEMS = 200     # held-out ones, for each point
FLAGS = ("--task arithmetic --level 1 --algo grpo --reward accuracy --group-size 8 --lr 3e-5 "
         f"--steps 100000 --eval-problems {PROBLEMS}")
SETTINGS = {  # name -> further flags; a point every 128 responses
    "nano": "--size nano --prompts 8 --eval-every 2",
    "tiny": "--size tiny --prompts 8 --eval-every 2",
    "wide": "--size wide --prompts 8 --eval-every 2",
    "tiny, 4 problems": "--size tiny --prompts 4 --eval-every 4",
    "tiny, 16 problems": "--size tiny --prompts 16 --eval-every 1",
}
PANELS = {"size of the model": ("nano", "tiny", "wide"),
          "problems per step": ("tiny, 4 problems", "tiny", "tiny, 16 problems")}
PAIRS = (("nano", "tiny"), ("wide", "tiny"), ("tiny, 4 problems", "tiny"),
         ("tiny, 16 problems", "tiny"))
LAST = 3           # points of a half whose mean is its last value
STEEPNESS = np.geomspace(0.25, 8, 80)     # B that are tried
MIDPOINTS = np.geomspace(0.02, 20, 160)   # C_mid that are tried, in units of the last C of the fit
PREDICTIONS = ("sigmoid", "last value", "line", "sigmoid of all points")


# --- the curve

def sigmoid(c, r0: float, a: float, b: float, c_mid: float):
    """R(C) of ScaleRL for compute c, an array above 0."""
    return r0 + (a - r0) / (1 + (c_mid / c) ** b)


def fit(c, r, r0: float) -> tuple[float, float, float]:
    """(A, B, C_mid) of the least-squares fit to the accuracies r at compute c, both (n,). Of each B
    and C_mid of a grid, A is the solution of a linear problem, between r0 and 1."""
    b, c_mid = np.meshgrid(STEEPNESS, MIDPOINTS * c.max(), indexing="ij")
    shapes = 1 / (1 + (c_mid[..., None] / c) ** b[..., None])                # (B, C_mid, n)
    gains = (shapes @ (r - r0) / (shapes**2).sum(-1)).clip(0, 1 - r0)         # A - R_0
    errors = ((r0 + gains[..., None] * shapes - r) ** 2).sum(-1)
    best = np.unravel_index(errors.argmin(), errors.shape)
    return float(r0 + gains[best]), float(b[best]), float(c_mid[best])


def points_of(history: list[dict]) -> list[list]:
    """(C, R) of each evaluation of a run: the tokens that were sampled before it, the accuracy."""
    tokens = np.cumsum([step["tokens"] for step in history])
    return [[int(c), step["eval_accuracy"]] for c, step in zip(tokens, history, strict=True)
            if "eval_accuracy" in step]


def predictions(points, tokens: int, r0: float) -> dict:
    """The predictions at each point of the second half, and the fit of the first half. Raises
    UserError for fewer than 3 points in the first half."""
    c, r = np.array(points).T
    first = c <= tokens / 2
    if first.sum() < 3:
        raise run_dir.UserError(f"--tokens {tokens} gives {first.sum()} points to fit; a curve "
                                "needs at least 3")
    a, b, c_mid = fit(c[first], r[first], r0)
    line = np.polyfit(np.log(c[first]), r[first], 1)
    later = c[~first]
    return {"A": a, "B": b, "C_mid": c_mid, "A of all points": fit(c, r, r0)[0],
            "half": float(r[first][-LAST:].mean()), "end": float(r[-LAST:].mean()),
            "sigmoid": sigmoid(later, r0, a, b, c_mid),
            "last value": np.full(len(later), r[first][-LAST:].mean()),
            "line": np.polyval(line, np.log(later)).clip(0, 1),
            "sigmoid of all points": sigmoid(later, r0, *fit(c, r, r0))}


# --- a seed

def assess(points, tokens: int, r0: float) -> dict:
    """The numbers of a run: its fit, and of each prediction the root mean square error over the
    second half ("error of ...") and the signed error at the end ("bias of ...")."""
    found = predictions(points, tokens, r0)
    later = np.array([r for c, r in points if c > tokens / 2])
    for name in PREDICTIONS:
        gaps = found.pop(name) - later
        found |= {f"error of {name}": float((gaps**2).mean() ** 0.5),
                  f"bias of {name}": float(gaps[-LAST:].mean())}
    return found


def work(args, seed: int, folder: Path) -> dict:
    """The points and numbers of all settings of a seed, and the means of errors over settings."""
    result = {}
    for name, flags in SETTINGS.items():
        start = runs.start(f"{FLAGS} {flags} --token-budget {args.tokens} {args.flags}", seed,
                           args.work)
        base, task, tokenizer, options = start
        r0 = evaluate.greedy_accuracy(base, tokenizer, task, task.held_out(PROBLEMS),
                                      options.max_new_tokens)["value"]
        _, history = runs.reinforced(folder / f"{name}.pt", *start)
        points = points_of(history)
        result[name] = {"R0": r0, "points": points} | assess(points, args.tokens, r0)
    for name in PREDICTIONS:
        result[name] = {"error": mean(result[x][f"error of {name}"] for x in SETTINGS)}
    return result


# --- the page

def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page."""
    cell = partial(page.cell, results)
    shares = {"R0": "R_0, %", "half": "R at half, %", "end": "R at the end, %"}
    errors = [["mean", "", "", "", *(cell(name, "error") for name in PREDICTIONS), "", ""]]
    for name in SETTINGS:
        errors.append([name, *(cell(name, key) for key in shares),
                       *(cell(name, f"error of {x}") for x in PREDICTIONS),
                       *(cell(name, f"bias of {x}") for x in PREDICTIONS[:2])])
    fits = [[name, cell(name, "A"), cell(name, "A of all points"), cell(name, "B", 1, 2),
             cell(name, "C_mid", 1e-3, 0)] for name in SETTINGS]
    better = [("sigmoid", name) for name in PREDICTIONS[1:]]
    return [
        (f"Error over the second half, in points; R at half and at the end: mean of {LAST} points",
         ["setting", *shares.values(), *PREDICTIONS, "sigmoid - R at the end",
          "last value - R at the end"], errors),
        ("Error of the sigmoid against the others, mean over settings; lower is better",
         page.DIFFERENCES, page.differences(results, better, "error")),
        ("The fitted curves; A and C_mid from the first half", [
            "setting", "A, %", "A from all points, %", "B", "C_mid, thousand tokens"], fits),
        *((f"Sizes and batches: {title}", page.DIFFERENCES,
           page.differences(results, PAIRS, key)) for key, title in (
               ("half", "R at half of the tokens"), ("end", "R at the end"),
               ("A of all points", "A from all points")))]


def draw(results: list[dict], tokens: int, figure) -> None:
    """The points, and the curves through the first half (dashed where they predict): means over
    seeds. One panel for the sizes, one for the batches."""
    for axes, (title, names) in zip(figure.subplots(1, 2, sharey=True), PANELS.items(),
                                    strict=True):
        for name in names:
            runs_of = [result[name] for result in results]
            xs = np.geomspace(max(run["points"][0][0] for run in runs_of), tokens, 200)
            means = [mean(page.interpolate(run["points"], 0, x) for run in runs_of) for x in xs]
            fitted = np.mean([sigmoid(xs, run["R0"], run["A"], run["B"], run["C_mid"])
                              for run in runs_of], axis=0)
            [line] = axes.plot(xs / 1000, 100 * np.array(means), alpha=0.5, label=name)
            for style, where in (("-", xs <= tokens / 2), ("--", xs >= tokens / 2)):
                axes.plot(xs[where] / 1000, 100 * fitted[where], style, color=line.get_color())
        axes.axvline(tokens / 2000, color="grey", linewidth=0.8)
        axes.set(title=title, xlabel="thousand sampled tokens", xscale="log",
                 ylabel="greedy accuracy, %")
        axes.legend()


def main(argv=None) -> int:
    parser = arguments.Parser("recipes.scaling", description=__doc__.split("\n\n")[0])
    page.add_flags(parser, "scaling")
    parser.add_argument("--tokens", type=arguments.integer(1), default=150_000,
                        help="sampled by a run (default: 150000)")

    def run(args):
        torch.set_num_threads(1)
        results = page.run_seeds(partial(work, args), args)
        page.write("scaling", "ScaleRL's curve: what the first half of a run predicts",
                   tables(results), partial(draw, results, args.tokens), args.docs,
                   about=__doc__.partition("\n\n")[2])
    return arguments.run(parser, argv, run)


if __name__ == "__main__":
    sys.exit(main())
