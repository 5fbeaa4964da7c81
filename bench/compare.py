"""The algorithms side by side: the same base, problems and number of sampled tokens, five seeds.

    python bench/compare.py --work DIR                 tunes, trains, writes table and plots
    python bench/compare.py --work DIR --draw          table and plots from bench/runs/compare.jsonl

Every algorithm has the same small budget for tuning: the four settings in GRID, each one run of a
seed that is not used again, of which the one with the best accuracy at temperature 1 is kept. Runs
are processes of one thread each, `--workers` at a time; a run that is there is not made again.
Needs matplotlib.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import config  # noqa: E402
import train  # noqa: E402

SEEDS = range(5)
TUNING_SEED = 100
BUDGET = 500_000  # sampled tokens of a run
COMMON = ("--base-seed 0 --eval-every 2 --eval-problems 500 --eval-samples 16 --steps 1000 "
          f"--token-budget {BUDGET}").split()
GRID = {  # what is tried for each: four settings
    **{algo: ["--lr 4e-4 --minibatches 4", "--lr 2e-4 --minibatches 4", "--lr 8e-4 --minibatches 4",
              "--lr 4e-4 --minibatches 8"] for algo in ("grpo", "drgrpo", "rloo", "dapo")},
    "gspo": ["--lr 4e-4 --clip-low 0.0003 --clip-high 0.0004",
             "--lr 4e-4 --clip-low 0.003 --clip-high 0.004",
             "--lr 4e-4 --clip-low 0.03 --clip-high 0.04",
             "--lr 8e-4 --clip-low 0.0003 --clip-high 0.0004"],
    "ppo": [f"{setting} --minibatches {n}" for setting, n in (
        ("--lr 4e-4 --gae-lambda 1", 4), ("--lr 8e-4 --gae-lambda 1", 4),
        ("--lr 4e-4 --gae-lambda 0.95", 4), ("--lr 4e-4 --gae-lambda 1", 8))],
}
CURVE = ("step", "tokens", "eval_accuracy", "accuracy", "entropy", "length", "truncated",
         "groups_with_gradient", "explained_variance", "clipfrac_high", "kl")


def train_all(jobs: dict, folder: Path, workers: int) -> None:
    """Runs train.py once per job {name: arguments}, each into folder/name; those that are finished
    are left alone. The base is made first, and once."""
    def run(item):
        name, arguments = item
        out = folder / name
        if (out / "summary.json").exists():
            return
        resume = ["--resume"] if (out / "checkpoint.pt").exists() else []
        command = [sys.executable, ROOT / "train.py", "--out", out, *arguments, *resume]
        done = subprocess.run(command,
                              env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=ROOT,
                              capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        print(name, *(f"{result(out)[key]:.1%}" for key in (
            "accuracy_after", "accuracy_sampled_after")), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, ROOT / "train.py", "--out", folder / "base", "--steps", "0",
                    "--eval-problems", "4", "--resume"], cwd=ROOT, check=True)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, jobs.items()))


def result(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def compact(run: Path, **names) -> dict:
    """A run in one line: what it was, what came out, and its curve."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary, short = result(run), lambda x: round(x, 4) if isinstance(x, float) else x
    tokens, curve = 0, []
    for line in lines:
        tokens += line["tokens"]
        curve.append([short(tokens if name == "tokens" else line.get(name)) for name in CURVE])
    return names | {
        "accuracy": summary["accuracy_after"], "sampled": summary["accuracy_sampled_after"],
        "pass16": summary["pass_at_k_after"]["16"],
        "before": summary["accuracy_before"], "length": summary["length_after"],
        "truncated": summary["truncated_after"], "parameters": summary["parameters"],
        "peak_rss_mb": round(summary["peak_rss_mb"]), "curve": curve}


def timed(folder: Path, best: dict, rounds: int = 5) -> dict:
    """Median seconds of sampling, scoring and updating in a step of each algorithm.

    The steps follow the algorithm's training, in one process, and the algorithms take turns.
    """
    runs, seconds = {}, {}
    for algo, setting in best.items():
        options, _ = config.parse(["--algo", algo, "--out", str(folder / f"{algo}-0"),
                                  "--seed", "0", *COMMON, *setting.split()])
        task = config.validate(options)
        runs[algo] = options, task, *train.start(Path(options.out), task, options)
    for _ in range(rounds):
        for algo, (options, task, models, optimizer, state) in runs.items():
            one_more = replace(options, token_budget=0, steps=state["step"] + 1)
            lines = train.reinforce(task, models, optimizer, one_more, state)
            seconds.setdefault(algo, []).extend(lines)
    return {algo: [round(median(line["seconds_" + part] for line in lines), 2)
                   for part in ("sample", "score", "update")] for algo, lines in seconds.items()}


def bootstrap(values, draws: int = 10_000) -> tuple[float, float, float]:
    """Mean, and its 95% percentile interval over resampled seeds."""
    values = np.array(values, dtype=float)
    picks = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def shown(values, scale=100, digits=1) -> str:
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(scale * x for x in bootstrap(values)), d=digits)


def column(row, name: str) -> list:
    return [point[CURVE.index(name)] for point in row["curve"]]


def tokens_to(row, level: float = 0.8) -> float | None:
    """Tokens sampled until the held-out greedy accuracy first reached the level."""
    for tokens, accuracy in zip(column(row, "tokens"), column(row, "eval_accuracy"), strict=True):
        if accuracy is not None and accuracy >= level:
            return tokens
    return None


def tokens_cell(rows, level: float = 0.8) -> str:
    found = [tokens_to(row, level) for row in rows]
    reached = [x for x in found if x is not None]
    if len(reached) < len(found):
        return f"{len(reached)} of {len(found)} reach it"
    return shown(reached, 1e-3, 0)


def after(row, share: float, name: str) -> float:
    """The mean of a metric over what follows the given share of the run; for 1, its last value."""
    values = [x for x in column(row, name) if x is not None]
    return mean(values[min(int(share * len(values)), len(values) - 1):])


HEAD = "| | greedy accuracy, % | at temperature 1, % | pass@16, % | thousand tokens to {:.0%} |"


def head(name: str, rows, level: float) -> str:
    """The cells that a line of any table begins with; HEAD names them."""
    return (f"| {name} | {shown([r['accuracy'] for r in rows])} "
            f"| {shown([r['sampled'] for r in rows])} | {shown([r['pass16'] for r in rows])} "
            f"| {tokens_cell(rows, level)} |")


def table(groups: dict, seconds: dict) -> list[str]:
    """groups: {name: rows}; a line of the table for each."""
    lines = [HEAD.format(0.8) + " final entropy, nats | mean length | groups with gradient, % "
             "| seconds a step: sample + score + update "
             "| peak memory, MiB | parameters trained |", "|---" * 11 + "|"]
    for name, rows in groups.items():
        gradient = "no groups" if name == "ppo" else shown(
            [after(r, 0, "groups_with_gradient") for r in rows])
        lines.append(
            f"{head(name, rows, 0.8)} {shown([after(r, 1, 'entropy') for r in rows], 1, 3)} "
            f"| {mean(r['length'] for r in rows):.0f} | {gradient} "
            f"| {' + '.join(f'{x:.2f}' for x in seconds[name])} "
            f"| {max(r['peak_rss_mb'] for r in rows)} | {rows[0]['parameters'] / 1e6:.2f} M |")
    return lines


def draw(groups: dict, path: Path, names=("eval_accuracy", "entropy")) -> None:
    """Each group's mean over seeds against sampled tokens, and the range of its seeds."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 3.4),
                                constrained_layout=True)
    for i, (name, rows) in enumerate(groups.items()):
        for axis, metric in zip(axes, names, strict=True):
            curves = []
            for row in rows:
                points = [(t, y) for t, y in zip(column(row, "tokens"), column(row, metric),
                                                 strict=True) if y is not None]
                curves.append(np.interp(np.linspace(0.05, 1, 40) * points[-1][0],
                                        *zip(*points, strict=True)))
            x = np.linspace(0.05, 1, 40) * mean(column(r, "tokens")[-1] for r in rows) / 1e6
            axis.plot(x, np.mean(curves, 0), color=f"C{i}", label=name)
            axis.fill_between(x, np.min(curves, 0), np.max(curves, 0), color=f"C{i}", alpha=0.12)
    for axis, metric in zip(axes, names, strict=True):
        axis.set(xlabel="million tokens sampled", title={
            "eval_accuracy": "greedy accuracy, 200 held-out problems",
            "entropy": "entropy, nats per token"}.get(metric, metric))
        axis.grid(alpha=0.2)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def write_section(title: str, lines: list[str]) -> None:
    """Puts a section of bench/RESULTS.md in place of the one of that title, or at the end."""
    path = ROOT / "bench" / "RESULTS.md"
    sections = path.read_text().split("\n## ")
    new = title + "\n\n" + "\n".join(lines).strip("\n")
    if not any(s.startswith(title + "\n") for s in sections):
        sections.append(title + "\n")
    path.write_text("\n## ".join((new if s.startswith(title + "\n") else s).rstrip("\n") + "\n"
                                for s in sections))


def keep(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def load(path: Path, by: str) -> dict:
    groups = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        groups.setdefault(row[by], []).append(row)
    return groups


def tuned(folder: Path, workers: int) -> tuple[dict, list[str]]:
    """The best setting of each algorithm, and the table of all."""
    jobs = {f"tune-{algo}-{i}": ["--algo", algo, "--seed", str(TUNING_SEED), *COMMON,
                                 *setting.split()]
            for algo, settings in GRID.items() for i, setting in enumerate(settings)}
    train_all(jobs, folder, workers)
    best, lines = {}, ["| tuning (one run each, seed 100) | accuracy at temperature 1, % |",
                       "|---|---|"]
    for algo, settings in GRID.items():
        found = [result(folder / f"tune-{algo}-{i}")["accuracy_sampled_after"]
                 for i in range(len(settings))]
        best[algo] = settings[found.index(max(found))]
        cells = [("**{}: {:.1f}**" if s == best[algo] else "{}: {:.1f}").format(s, 100 * x)
                 for s, x in zip(settings, found, strict=True)]
        lines.append(f"| {algo} | {'; '.join(cells)} |")
    return best, lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/compare"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--draw", action="store_true", help="no training")
    args = parser.parse_args()
    data = ROOT / "bench" / "runs" / "compare.jsonl"
    tuning = ROOT / "bench" / "runs" / "compare-tuning.md"
    clock = ROOT / "bench" / "runs" / "compare-seconds.json"
    if not args.draw:
        best, lines = tuned(args.work, args.workers)
        tuning.write_text("\n".join(lines) + "\n")
        jobs = {f"{algo}-{seed}": ["--algo", algo, "--seed", str(seed), *COMMON,
                                   *setting.split()]
                for seed in SEEDS for algo, setting in best.items()}
        train_all(jobs, args.work, args.workers)
        keep(data, [compact(args.work / f"{algo}-{seed}", algo=algo, seed=seed,
                            setting=best[algo]) for algo in best for seed in SEEDS])
        clock.write_text(json.dumps(timed(args.work, best)) + "\n")
    groups = load(data, "algo")
    late = [after(row, 0.5, "explained_variance") for row in groups["ppo"]]
    write_section("The algorithms side by side", [
        f"`python bench/compare.py`: one base, {BUDGET:,} sampled tokens a run, "
        f"{len(SEEDS)} seeds, mean and 95% bootstrap interval over seeds; 500 held-out problems; "
        "two runs at a time on two cores, one thread each; seconds a step measured after it, in "
        "one process of two threads, the algorithms taking turns.", "",
        *table(groups, json.loads(clock.read_text())), "",
        f"PPO's explained variance in the second half of training: {shown(late, 1, 2)}.", "",
        *tuning.read_text().splitlines()])
    draw(groups, ROOT / "bench" / "compare.png")


if __name__ == "__main__":
    main()
