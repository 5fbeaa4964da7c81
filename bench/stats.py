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
DRAWN = ("step", "accuracy", "length", "reward", "eval_accuracy")  # of metrics.jsonl


def read_json(path: Path):
    return json.loads(path.read_text())


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_jsonl(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- the folder of a run

def metrics(run: Path) -> list[dict]:
    """The metrics of a run's steps so far. A last line that is half written is left out. Raises
    ValueError where the file is none of a run."""
    path, rows = run / "metrics.jsonl", []
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    for number, line in enumerate(lines, 1):
        if line.endswith(b"\n"):
            rows.append(parse_object(line, f"{path}, line {number}"))
            check_numbers(rows[-1], DRAWN, f"{path}, line {number}")
    if not rows:
        raise ValueError(f"{run}: its metrics.jsonl is missing or empty; name the folder of a run")
    return rows


def evaluations(run: Path) -> tuple[list, list]:
    """Steps and held-out greedy accuracies of a run. The accuracy before its first step is known
    once the run has ended."""
    points = [(line["step"], line["eval_accuracy"]) for line in metrics(run)
              if "eval_accuracy" in line]
    path = run / "summary.json"
    if path.exists():
        summary = parse_object(path.read_bytes(), path)
        check_numbers(summary, ["accuracy_before"], path)
        points.insert(0, (0, summary["accuracy_before"]))
    return [step for step, _ in points], [accuracy for _, accuracy in points]


def parse_object(text: bytes, place) -> dict:
    """The JSON object in a text. Raises ValueError that names the place."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{place} is damaged: it is no JSON object")
    return content


def check_numbers(row: dict, names, place) -> None:
    """Raises ValueError unless the entries with these names are numbers that can be drawn."""
    for name in names:
        value = row.get(name, 0.0 if name == "eval_accuracy" else None)
        if type(value) not in (int, float) or not abs(value) < 1e12:
            raise ValueError(f"{place} is damaged: {name} is missing, or no finite number")


# --- comparisons

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


def spearman(xs, ys) -> float:
    """The rank correlation of two lists, from -1 to 1. Equal values share the mean of their ranks.
    0.0 where all values of a list are equal."""
    ranks = []
    for values in (np.array(xs, dtype=float), np.array(ys, dtype=float)):
        less = values[:, None] > values
        equal = values[:, None] == values
        ranks.append(less.sum(1) + equal.sum(1) / 2)
    constant = any(np.ptp(r) == 0 for r in ranks)
    return 0.0 if constant else float(np.corrcoef(*ranks)[0, 1])


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
