"""Tables of the arenas (bench/arenas.py) for docs/results.md, and whether an arena is good.

An arena is good if the algorithms with the highest and the lowest accuracy end at least 8 points
apart with intervals that do not overlap, nobody ends above 92%, and the second set of seeds has the
same first and the same last algorithm.
"""

from statistics import mean

from bench.stats import (
    after,
    bootstrap,
    column,
    group_by,
    markdown_table,
    tokens_cell,
    with_interval,
)

TUNING_SEED, SET = 100, 5  # seeds 0 to 4 are the first set, 5 to 9 the second
MIN_GAP, MAX_ACCURACY = 0.08, 0.92
LEVELS = {"sparse": 0.2, "stale": 0.8, "long": 0.75}  # greedy accuracy whose tokens are counted


def sets_of(rows) -> list[list[dict]]:
    """The rows of the first and of the second set of seeds."""
    rows = [row for row in rows if row["seed"] != TUNING_SEED]
    return [[r for r in rows if (r["seed"] < SET) == first] for first in (True, False)]


def ranking(rows) -> list[tuple]:
    """(algorithm, mean, low, high) of the final accuracy, from the highest mean to the lowest."""
    found = [(algo, *bootstrap([r["accuracy"] for r in runs]))
             for algo, runs in group_by(rows, "algo").items()]
    return sorted(found, key=lambda line: -line[1])


def late(runs, name: str, scale: float = 1, digits: int = 2) -> str:
    """Mean over runs of a metric over the last fifth of the run; empty where it does not exist."""
    if all(x is None for run in runs for x in column(run, name)):
        return ""
    return f"{scale * mean(after(run, 0.8, name) for run in runs):.{digits}f}"


def arena_table(arena: str, rows) -> list[str]:
    """A row per algorithm, best first: both sets of seeds, and what the first set's runs did."""
    first, second = sets_of(rows)
    again, level = group_by(second, "algo"), LEVELS[arena]
    columns = ["algorithm", "learning rate", "avg@4, seeds 0 to 4, %", "seeds 5 to 9, %",
               "greedy, %", f"thousand tokens to {level:.0%} greedy", "entropy, nats",
               "length", "groups with gradient, %", "seconds of CPU"]
    runs_of = group_by(first, "algo")
    lines = []
    for algo, *_ in ranking(first):
        runs = runs_of[algo]
        repeats = [r["accuracy"] for r in again.get(algo, [])]
        lines.append([
            f"`{algo}`", runs[0]["lr"], with_interval([r["accuracy"] for r in runs]),
            with_interval(repeats) if repeats else "", with_interval([r["greedy"] for r in runs]),
            tokens_cell(runs, level), late(runs, "entropy", digits=3), late(runs, "length", 1, 0),
            late(runs, "groups_with_gradient", 100, 0),
            f"{mean(r['cpu_seconds'] for r in runs):.0f}"])
    return markdown_table(columns, lines)


def default_table(rows) -> list[str]:
    """A row per algorithm with its defaults: greedy accuracy of each seed, and means over them."""
    lines = []
    for algo, runs in group_by(rows, "algo").items():
        runs = sorted(runs, key=lambda r: r["seed"])
        lines.append([
            f"`{algo}`", ", ".join(f"{100 * r['greedy']:.1f}" for r in runs),
            f"{100 * mean(r['accuracy'] for r in runs):.1f}", late(runs, "entropy", digits=3),
            f"{mean(r['length'] for r in runs):.0f}",
            f"{mean(r['tokens'] for r in runs) / 1e3:.0f}",
            f"{mean(r['cpu_seconds'] for r in runs):.0f}"])
    return markdown_table(["algorithm", "greedy of each seed, %", "avg@4, %", "entropy, nats",
                           "length", "thousand tokens", "seconds of CPU"], lines)


def verdict(rows) -> list[tuple[str, bool]]:
    """What a good arena must show, and whether it holds."""
    first, second = (ranking(part) for part in sets_of(rows))
    found = []
    for name, order in (("seeds 0 to 4", first), ("seeds 5 to 9", second)):
        (best, high, low_of_best, _), (worst, low, _, high_of_worst) = order[0], order[-1]
        gap = 100 * (high - low)
        found.append((f"{name}: `{best}` leads `{worst}` by {gap:.1f} points, and the intervals "
                      "are apart", high - low >= MIN_GAP and low_of_best > high_of_worst))
        found.append((f"{name}: nobody is above {MAX_ACCURACY:.0%}", high <= MAX_ACCURACY))
    same = first[0][0] == second[0][0] and first[-1][0] == second[-1][0]
    return [*found, ("both sets have the same first and the same last algorithm", same)]


def tuning_table(rows) -> list[str]:
    """The accuracy with each learning rate that was tried; the kept one is bold."""
    tuning = group_by([row for row in rows if row["seed"] == TUNING_SEED], "algo")
    lines = []
    for algo, runs in tuning.items():
        best = max(runs, key=lambda r: r["accuracy"])
        runs = sorted(runs, key=lambda r: float(r["lr"]))
        lines.append([f"`{algo}`", "; ".join(
            ("**{}: {:.1f}**" if run is best else "{}: {:.1f}").format(
                run["lr"], 100 * run["accuracy"]) for run in runs)])
    return markdown_table(["tuning, one run each, seed 100", "avg@4, %"], lines)


def lines(arena: str, flags: str, rows) -> list[str]:
    """The content of an arena's section."""
    out = [f"Flags of all runs: `{flags}`.", ""]
    if arena == "default":
        return out + default_table(rows)
    out += arena_table(arena, rows)
    if all(sets_of(rows)):
        out += [f"- {sentence}: {'yes' if holds else 'no'}." for sentence, holds in verdict(rows)]
        out.append("")
    return out + tuning_table(rows)
