"""Scores runs on held-out problems that no run has seen, and checks their budgets.

    python course/leaderboard.py runs/A runs/B --seed 17 --max-tokens 2000000

The problems are drawn with the lecturer's seed from the held-out side of the runs' task. A hash
decides the side of a problem (tasks/base.py), so no training and no corpus of a base can hold one.
Those that train.py measures with (the first 1,000 held-out problems) are left out too: students
have looked at them. The score is greedy accuracy with its 95% Wilson interval. Tokens and seconds
are those of summary.json, parameters are counted. These numbers are as honest as the folder, so
make the best run again before you give it a prize.
Left out on purpose: problems of files, which have no end; tests of significance.
"""

import random
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
import evaluate  # noqa: E402
from bench.stats import markdown_table  # noqa: E402
from infra import arguments, files  # noqa: E402
from infra.terminal import echo  # noqa: E402

SEEN = 1000  # held-out problems that train.py evaluates with, unless --eval-problems says otherwise
SAME = ("task", "level")  # settings that runs on one board share


class Entry(NamedTuple):
    """A run on the board."""

    run: str
    accuracy: float   # greedy, a share
    ci: list[float]   # its 95% interval
    tokens: int       # sampled in training
    seconds: float    # of the base, training and evaluations
    parameters: int   # trained, with those of a critic
    over: tuple       # names of the budgets that it exceeds


# --- problems

def fresh_problems(task, seed: int, n: int) -> list:
    """n different held-out problems of a task, drawn with `seed`, without those that train.py
    evaluates with. Raises ValueError for a task of a file, and where the level has fewer."""
    if task.paths:
        raise ValueError("a board needs a task with endless problems; those of --task file end")
    rng, found = random.Random(f"leaderboard {seed}"), {}
    seen = {problem.identity for problem in task.held_out(SEEN)}
    for _ in range(20 * n):
        [problem] = task.sample(rng, 1, held_out=True)
        if problem.identity not in seen:
            found.setdefault(problem.identity, problem)
        if len(found) == n:
            return list(found.values())
    raise ValueError(f"level {task.level} of this task has only {len(found)} held-out problems "
                     "that students have not seen; choose a smaller --problems, or a higher level")


# --- scores and budgets

def score(run: str, seed: int, n: int, limits: dict) -> tuple[Entry, dict]:
    """The Entry of a run, and those of its settings that all runs of a board share. limits:
    {"tokens" | "seconds" | "parameters": the most that a run may have}. Raises ValueError for a
    folder without an ended run."""
    policy, tokenizer, settings = evaluate.load_run(run)
    if not Path(run, "summary.json").exists():
        raise ValueError(f"{run} has no summary.json, so the run has not ended; continue it with "
                         "--resume")
    summary = files.read_json(Path(run, "summary.json"), tokens_sampled=int, parameters=int)
    task = evaluate.load_task(settings, tokenizer, policy.config.context)
    result = evaluate.greedy_accuracy(policy, tokenizer, task, fresh_problems(task, seed, n),
                                      settings["max_new_tokens"])
    spent = {"tokens": summary["tokens_sampled"],
             "seconds": float(summary.get("seconds_total", 0.0)),
             "parameters": max(summary["parameters"], sum(p.numel() for p in policy.parameters()))}
    over = tuple(name for name, limit in limits.items() if spent[name] > limit)
    entry = Entry(run, result["value"], result["ci"], **spent, over=over)
    return entry, {name: settings[name] for name in SAME}


def ranked(entries: list[Entry]) -> list[Entry]:
    """The highest accuracy first; of equal ones the run with fewer sampled tokens."""
    return sorted(entries, key=lambda entry: (-entry.accuracy, entry.tokens, entry.run))


def table(entries: list[Entry]) -> str:
    """The board as a markdown table. A run over a budget has no rank."""
    titles = ("rank", "run", "accuracy, %", "95% interval, %", "tokens", "seconds", "parameters",
              "budget")
    rows, rank = [], 0
    for entry in ranked(entries):
        rank += not entry.over
        low, high = entry.ci
        rows.append(("–" if entry.over else str(rank), entry.run, f"{100 * entry.accuracy:.1f}",
                     f"{100 * low:.1f} to {100 * high:.1f}", f"{entry.tokens:,}",
                     f"{entry.seconds:.0f}", f"{entry.parameters:,}",
                     f"over: {', '.join(entry.over)}" if entry.over else "kept"))
    return "\n".join(markdown_table(titles, rows)[:-1])


# --- the command line

def main(argv=None) -> int:
    parser = arguments.Parser("leaderboard.py", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("runs", nargs="+", type=arguments.path, metavar="RUN", help="folder of an ended run")
    add("--seed", type=arguments.integer(), default=0, help="of the problems; keep it secret until "
        "all runs are in (default: 0)")
    add("--problems", type=arguments.integer(1), default=500, help="(default: 500)")
    add("--max-tokens", type=arguments.integer(1), help="sampled in training")
    add("--max-seconds", type=arguments.number(above=0), help="base, training and evaluations")
    add("--max-parameters", type=arguments.integer(1), help="trained, with those of a critic")
    add("--out", type=arguments.path, metavar="FILE", help="also write the table there")
    return arguments.run(parser, argv, work)


def work(args) -> None:
    """Prints the board. Raises ValueError where the runs are of different tasks."""
    limits = {name: limit for name in ("tokens", "seconds", "parameters")
              if (limit := getattr(args, f"max_{name}"))}
    entries, shared = [], []
    for run in dict.fromkeys(args.runs):
        entry, settings = score(run, args.seed, args.problems, limits)
        entries.append(entry)
        shared.append(settings)
        if settings != shared[0]:
            raise ValueError(f"{run} has {settings}, but {entries[0].run} has {shared[0]}; runs on "
                             "one board need the same task and level")
    words = ", ".join(f"{name} {value}" for name, value in shared[0].items())
    text = (f"{words}, {args.problems} fresh held-out problems, seed {args.seed}\n\n"
            f"{table(entries)}")
    echo(text)
    if args.out:
        Path(args.out).write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
