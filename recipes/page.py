"""The results of a recipe: a result per seed on disk, and a page in docs/recipes/ with its table.

A recipe is a function work(seed, folder) -> dict of numbers. `run_seeds` calls it for each seed and
keeps each result as seed-S/result.json, so a run that was stopped goes on with the next seed.
`write` makes the page of all seeds: docs/recipes/NAME.md, and the figure docs/img/NAME.png. A cell
is bench.stats.with_interval(values of the seeds): their mean with a bootstrap interval.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.stats import bootstrap, markdown_table, with_interval
from infra import arguments, run_dir
from infra.terminal import echo

DOCS = Path(__file__).parents[1] / "docs"
DIFFERENCES = ("row", "against", "difference, points", "")  # columns of `differences`
BARS = ("what", "mean and interval", "bar", "")  # columns of `bars`


def add_flags(parser, name: str, seeds: str = "0,1,2") -> None:
    """Adds the flags that recipes share to a command line. seeds: the default of --seeds."""
    parser.add_argument("--seeds", type=seed_list, default=seed_list(seeds),
                        help=f"seeds, with a comma between them (default: {seeds})")
    parser.add_argument("--work", type=Path, default=Path("runs", name),
                        help=f"folder of the runs and results (default: runs/{name})")
    parser.add_argument("--docs", type=Path, default=DOCS,
                        help="folder of the page (default: docs)")
    parser.add_argument("--flags", default="", help="further flags of train.py, for all runs")


def seed_list(text: str) -> list[int]:
    """The type of the flag --seeds: numbers with commas between them."""
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: seeds look like 0,1,2") from None


def open_seed(args, seed: int) -> Path:
    """Makes the folder of a seed, and keeps the flags in it. Raises UserError where the folder has
    results of other flags."""
    path = args.work / f"seed-{seed}" / "settings.json"
    settings = {k: v for k, v in vars(args).items() if k not in ("seeds", "work", "docs", "stages")}
    saved = json.loads(path.read_text()) if path.exists() else settings
    for name in settings:
        if saved.get(name) != settings[name]:
            raise run_dir.UserError(f"{path.parent} has results with --{name.replace('_', '-')} "
                                    f"{saved.get(name)}; name another folder by --work")
    path.parent.mkdir(parents=True, exist_ok=True)
    run_dir.write_json(path, settings)
    return path.parent


def run_seeds(work, args) -> list[dict]:
    """The results of work(seed, folder of the seed) for each of args.seeds; a finished one is read.
    """
    results = []
    for seed in args.seeds:
        folder = open_seed(args, seed)
        results.append(kept(folder / "result.json", partial(work, seed, folder)))
    return results


def main(name: str, title: str, about: str, work, tables, draw, argv, numbers=(),
         seeds="0,1,2,3,4", image="") -> int:
    """The command line of a recipe: runs work(seed, folder, args) for each seed, and writes the
    page with tables(results) and draw(results, figure). about: the recipe's docstring. numbers:
    (flag, default, help, least value) of its own flags, whole numbers; without a least value it is
    1. image: see `write`. Returns the exit code."""
    parser = arguments.Parser(f"recipes.{name}", description=about.split("\n\n")[0])
    add_flags(parser, name, seeds)
    for flag, default, text, *least in numbers:
        parser.add_argument(flag, type=arguments.integer(*least or [1]), default=default,
                            help=f"{text} (default: {default})")

    def run(args):
        torch.set_num_threads(1)
        results = run_seeds(partial(work, args=args), args)
        write(name, title, tables(results), partial(draw, results), args.docs,
              about.partition("\n\n")[2], image)
    return arguments.run(parser, argv, run)


def kept(path: Path, make):
    """The result of make(), which JSON can hold. It is kept in the file `path`, and read from it
    the next time."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        run_dir.write_json(path, make())
    return json.loads(path.read_text())


def write(name: str, title: str, tables: list[tuple], draw=None, docs: Path = DOCS,
          about: str = "", image: str = "") -> None:
    """Writes docs/recipes/NAME.md. tables: (heading, columns, rows) of each. draw(figure) fills a
    matplotlib figure, which becomes docs/img/NAME.png; without matplotlib there is none. about:
    text above the tables, such as the docstring of the recipe. image: another NAME of the figure.
    """
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=DOCS.parent, text=True,
                            capture_output=True).stdout.strip()
    lines = [f"# {title}", "", f"Made by `python -m recipes.{name} "
             f"{' '.join(sys.argv[1:])}`".rstrip(" `") + f"` at commit {commit}.", ""]
    if draw and (drawn := save_figure(docs / "img" / f"{image or name}.png", draw)):
        lines += [f"![{title}](../img/{drawn.name})", ""]
    lines += [about.strip("\n"), ""] if about else []
    for heading, columns, rows in tables:
        lines += [f"## {heading}", "", *markdown_table(columns, rows)]
        echo("\n".join(["", heading, *markdown_table(columns, rows)]))
    path = docs / "recipes" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    echo(f"\n{path}")


def cell(results: list[dict], name: str, key: str, scale=100, digits=1) -> str:
    """A cell of a table: the mean of result[name][key] over the seeds, with its interval; "" where
    a result has no such number."""
    values = [result[name][key] for result in results if key in result[name]]
    return with_interval(values, scale, digits) if values else ""


def differences(results: list[dict], pairs, key: str) -> list[list]:
    """Rows of the table DIFFERENCES: for each (name, other) the difference of a share, paired by
    seed."""
    rows = []
    for name, other in pairs:
        gaps = [result[name][key] - result[other][key] for result in results]
        _, low, high = bootstrap(gaps)
        rows.append([name, other, with_interval(gaps),
                     "higher" if low > 0 else "lower" if high < 0 else "not shown"])
    return rows


def bars(rows) -> list[list]:
    """Rows of the table BARS, each of (what, values of the seeds, scale, word, bar). The word is
    "at least", "above" or "below". A bar is met where the whole interval of the values meets it."""
    table = []
    for what, values, scale, word, bar in rows:
        _, low, high = bootstrap(scale * np.array(values))
        met = {"at least": low >= bar, "above": low > bar, "below": high < bar}[word]
        table.append([what, with_interval(values, scale), f"{word} {bar}",
                      "met" if met else "not met"])
    return table


def interpolate(curve, column: int, x: float) -> float:
    """The last number of a curve's points where the one in `column` is x."""
    return float(np.interp(x, [point[column] for point in curve], [point[-1] for point in curve]))


def first_at(curve: list[dict], key: str, target: float) -> dict:
    """The numbers of a curve where `key` first reaches the target: on the line between the points
    around it. The curve, a list of dicts with equal keys, reaches it."""
    last = next(i for i, point in enumerate(curve) if point[key] >= target)
    before, after = curve[max(0, last - 1)], curve[last]
    rise = after[key] - before[key]
    share = (target - before[key]) / rise if rise > 0 else 1.0
    return {name: before[name] + share * (after[name] - before[name]) for name in after}


def draw_curves(lines: dict, labels, figure) -> None:
    """Fills a figure with a panel for each label. Panel i shows a share, in percent, against number
    i of each point: the mean over seeds, and each seed as a thin line. lines: name -> a curve for
    each seed, which is a list of points (number 0, ..., share)."""
    for i, axes in enumerate(figure.subplots(1, len(labels), sharey=True)):
        for name, curves in lines.items():
            xs = np.linspace(0, min(curve[-1][i] for curve in curves), 100)
            ys = 100 * np.array([[interpolate(curve, i, x) for x in xs] for curve in curves])
            draw_seeds(axes, name, xs, ys)
        axes.set(xlabel=labels[i], ylabel="greedy accuracy, %")
    axes.legend()


def draw_steps(axes, label: str, curves) -> None:
    """Draws curves with a number for each step of a run, a list for each seed."""
    draw_seeds(axes, label, range(1, len(curves[0]) + 1), np.array(curves))


def draw_seeds(axes, label: str, xs, ys: np.ndarray) -> None:
    """Draws ys (seeds, n) against xs (n,): their mean, and each seed as a thin line."""
    [line] = axes.plot(xs, ys.mean(0), label=label)
    axes.plot(xs, ys.T, color=line.get_color(), alpha=0.3, linewidth=0.8)


def draw_points(panels, results: list[dict], figure, log="") -> None:
    """Fills a figure with a panel for each (x, y) of two numbers of the points of curves: a colour
    for each row, a thin line for each seed, and a thick one for the means of its points. results:
    of each seed, row -> curve, which is a list of dicts. log: the number that has a logarithmic
    axis."""
    for (x, y), axes in zip(panels, figure.subplots(1, len(panels)), strict=True):
        for i, name in enumerate(results[0]):
            curves = [[[point[key] for point in result[name]] for key in (x, y)]
                      for result in results]
            common = min(len(points) for points, _ in curves)
            means = np.mean([[row[:common] for row in curve] for curve in curves], axis=0)
            for curve in curves:
                axes.plot(*curve, color=f"C{i}", alpha=0.25, linewidth=0.7)
            axes.plot(*means, ".-", color=f"C{i}", label=name)
        axes.set(xlabel=x, ylabel=y, xscale="log" if x == log else "linear")
        if x != log:
            axes.locator_params(axis="x", nbins=5)
    axes.legend()


def save_figure(path: Path, draw) -> Path | None:
    """Saves the figure that draw(figure) fills. None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    draw(figure)
    figure.savefig(path)
    return path
