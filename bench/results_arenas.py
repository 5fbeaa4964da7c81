"""Tables of the arenas (bench/arenas.py) for docs/results.md, and the verdict on each arena.

A good arena tells algorithms apart. In each of its two sets of seeds, the best and the worst
algorithm end at least 8 points apart, their intervals do not overlap, and no algorithm ends above
92%. Both sets have the same best and the same worst algorithm. CONTROLS are in the tables, but are
not ranked: they show what happens without the idea that an arena tests.
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

TUNING_SEED, SET_SIZE = 100, 5  # seeds 0 to 4 are the first set, 5 to 9 the second
MIN_GAP, MAX_ACCURACY = 0.08, 0.92
CONTROLS = {"no correction"}
NO_SHARE = {"raft", "dpo", "reinforce++"}  # they drop the groups without a gradient, or have none
ACCURACY = {"sparse": "greedy", "stale": "avg4", "long": "avg4"}  # by which algorithms rank
LEVELS = {"sparse": 0.2, "stale": 0.8, "long": 0.4}  # greedy accuracy of "tokens to"


def sets_of(rows) -> list[list[dict]]:
    """The rows of the first and of the second set of seeds."""
    rows = [row for row in rows if row["seed"] != TUNING_SEED]
    return [[r for r in rows if (r["seed"] < SET_SIZE) == first] for first in (True, False)]


def best_line(runs: list[dict], accuracy: str) -> dict:
    """The tuning run with the best final accuracy; of equal ones that with the lowest rate."""
    return max(runs, key=lambda run: (run[accuracy], -float(run["lr"])))


def ranking(rows) -> list[tuple]:
    """(algorithm, mean, low, high) of the final accuracy, from the highest mean to the lowest. Low
    and high are the bounds of the 95% interval."""
    means = [(algo, *bootstrap([r[ACCURACY[r["arena"]]] for r in runs]))
             for algo, runs in group_by(rows, "algo").items()]
    return sorted(means, key=lambda found: -found[1])


def late(runs, name: str, scale: float = 1, digits: int = 2) -> str:
    """The mean over runs of a metric in the last fifth of the run; "" if it was not measured."""
    if all(x is None for run in runs for x in column(run, name)):
        return ""
    return f"{scale * mean(after(run, 0.8, name) for run in runs):.{digits}f}"


def arena_table(arena: str, rows) -> list[str]:
    """A row per algorithm, best first: the accuracies of both sets of seeds, and metrics of the
    first set."""
    # 1. the columns: the accuracy that ranks, then the other one
    shown, other = {"avg4": ("avg4", "greedy"), "greedy": ("greedy", "avg4")}[ACCURACY[arena]]
    names = {"avg4": "avg@4", "greedy": "greedy"}
    level = LEVELS[arena]
    columns = ["algorithm", "learning rate", f"{names[shown]}, seeds 0 to 4, %",
               "seeds 5 to 9, %", f"{names[other]}, seeds 0 to 4, %",
               f"thousand tokens to {level:.0%} greedy", "entropy, nats", "length",
               "groups with gradient, %", "seconds of CPU"]
    # 2. the rows, in the order of the first set
    first, second = sets_of(rows)
    first_runs, second_runs = group_by(first, "algo"), group_by(second, "algo")
    lines = []
    for algo, *_ in ranking(first):
        runs = first_runs[algo]
        repeats = [r[shown] for r in second_runs.get(algo, [])]
        lines.append([
            f"`{algo}`", runs[0]["lr"], with_interval([r[shown] for r in runs]),
            with_interval(repeats) if repeats else "", with_interval([r[other] for r in runs]),
            tokens_cell(runs, level), late(runs, "entropy", digits=3), late(runs, "length", 1, 0),
            "" if algo in NO_SHARE else late(runs, "groups_with_gradient", 100, 0),
            f"{mean(r['cpu_seconds'] for r in runs):.0f}"])
    return markdown_table(columns, lines)


def default_table(rows) -> list[str]:
    """A row per algorithm with its defaults: greedy accuracy of each seed, and means over them."""
    lines = []
    for algo, runs in group_by(rows, "algo").items():
        runs = sorted(runs, key=lambda r: r["seed"])
        lines.append([
            f"`{algo}`", ", ".join(f"{100 * r['greedy']:.1f}" for r in runs),
            f"{100 * mean(r['avg4'] for r in runs):.1f}", late(runs, "entropy", digits=3),
            f"{mean(r['length'] for r in runs):.0f}",
            f"{mean(r['tokens'] for r in runs) / 1e3:.0f}",
            f"{mean(r['cpu_seconds'] for r in runs):.0f}"])
    return markdown_table(["algorithm", "greedy of each seed, %", "avg@4, %", "entropy, nats",
                           "length", "thousand tokens", "seconds of CPU"], lines)


def verdict(rows) -> list[tuple[str, bool]]:
    """(sentence, whether it holds) of each condition of a good arena that the runs can show."""
    rows = [row for row in rows if row["algo"] not in CONTROLS]
    orders = [ranking(part) for part in sets_of(rows) if part]
    conditions = []
    for name, order in zip(("seeds 0 to 4", "seeds 5 to 9"), orders, strict=False):
        (best, best_mean, best_low, _), (worst, worst_mean, _, worst_high) = order[0], order[-1]
        gap = best_mean - worst_mean
        conditions.append((f"{name}: `{best}` leads `{worst}` by {100 * gap:.1f} points ("
                           f"{100 * MIN_GAP:.0f} are needed), and the intervals are apart",
                           gap >= MIN_GAP and best_low > worst_high))
        conditions.append((f"{name}: the best of them is not above {MAX_ACCURACY:.0%}",
                           best_mean <= MAX_ACCURACY))
    if len(orders) == 2:
        first, second = ((order[0][0], order[-1][0]) for order in orders)
        conditions.append(("both sets have the same best and the same worst algorithm",
                           first == second))
    return conditions


def tuning_table(rows) -> list[str]:
    """A row per algorithm: the accuracy with each tried learning rate, the best in bold."""
    tuning = group_by([row for row in rows if row["seed"] == TUNING_SEED], "algo")
    lines = []
    for algo, runs in tuning.items():
        accuracy = ACCURACY[runs[0]["arena"]]
        best = best_line(runs, accuracy)
        lines.append([f"`{algo}`", "; ".join(
            ("**{}: {:.1f}**" if run is best else "{}: {:.1f}").format(
                run["lr"], 100 * run[accuracy])
            for run in sorted(runs, key=lambda run: float(run["lr"])))])
    return markdown_table(["tuning, one run each, seed 100", "accuracy, %"], lines)


def lines(arena: str, flags: str, rows) -> list[str]:
    """The content of an arena's section."""
    out = [f"Flags of all runs: `{flags}`.", ""]
    if arena == "default":
        return out + default_table(rows)
    out += arena_table(arena, rows)
    out += [f"- {sentence}: {'yes' if holds else 'no'}." for sentence, holds in verdict(rows)]
    out.append("")
    return out + tuning_table(rows)
