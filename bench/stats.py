"""Curves of runs and their uncertainty, shared by results.py, plot.py and the benches.

A run of a comparison is one JSON line: its settings, its final accuracies and its curve, a list of
points with the columns CURVE. Intervals are percentile bootstraps over seeds, since runs of
different seeds are the independent trials.
"""

import json
from pathlib import Path
from statistics import mean

import numpy as np

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "bench" / "runs"
CURVE = ("step", "tokens", "eval_accuracy", "accuracy", "entropy", "length", "truncated",
         "groups_with_gradient", "explained_variance", "clipfrac_high", "kl")


def read_json(path: Path):
    return json.loads(path.read_text())


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_jsonl(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def group_by(rows, key: str) -> dict:
    """{value of key: rows with it}, in the order of the first row of each."""
    groups = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def bootstrap(values, draws: int = 10_000) -> tuple[float, float, float]:
    """The mean of the values and its 95% percentile interval over resampled values."""
    values = np.array(values, dtype=float)
    picks = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def with_interval(values, scale=100, digits=1) -> str:
    """Mean and interval as text, such as '95.3 [94.5, 96.1]'; scale 100 gives percent."""
    numbers = (scale * x for x in bootstrap(values))
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*numbers, d=digits)


def markdown_table(columns, rows) -> list[str]:
    """The lines of a Markdown table, and an empty line after it."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows] + [""]


def column(row, name: str) -> list:
    """One metric of a run's curve, a value per step; None where it was not measured."""
    return [point[CURVE.index(name)] for point in row["curve"]]


def tokens_to(row, level: float = 0.8) -> float | None:
    """Tokens sampled until the held-out greedy accuracy first reached the level."""
    for tokens, accuracy in zip(column(row, "tokens"), column(row, "eval_accuracy"), strict=True):
        if accuracy is not None and accuracy >= level:
            return tokens
    return None


def tokens_cell(rows, level: float = 0.8) -> str:
    """Thousand tokens to the level, or how many of the runs reach it if some do not."""
    found = [tokens_to(row, level) for row in rows]
    reached = [x for x in found if x is not None]
    if len(reached) < len(found):
        return f"{len(reached)} of {len(found)} reach it"
    return with_interval(reached, 1e-3, 0)


def after(row, share: float, name: str) -> float:
    """The mean of a metric over what follows the given share of the run; for 1, its last value."""
    values = [x for x in column(row, name) if x is not None]
    return mean(values[min(int(share * len(values)), len(values) - 1):])
