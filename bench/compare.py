"""The algorithms side by side: the same base, problems and number of sampled tokens, five seeds.

    python bench/compare.py --work DIR      tunes, trains, writes bench/runs/compare*.json*

Then bench/results.py makes the tables and bench/plot.py the figure.

Every algorithm has the same small budget for tuning: the four settings in GRID, each one run of a
seed that is not used again, of which the one with the best accuracy at temperature 1 is kept. Runs
are processes of one thread each, `--workers` at a time; a run that is there is not made again.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))
import train  # noqa: E402
from bench.stats import CURVE, ROOT, RUNS, write_jsonl  # noqa: E402
from infra import cli  # noqa: E402

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
    "ppo": ["--lr 4e-4 --gae-lambda 1 --minibatches 4", "--lr 8e-4 --gae-lambda 1 --minibatches 4",
            "--lr 4e-4 --gae-lambda 0.95 --minibatches 4",
            "--lr 4e-4 --gae-lambda 1 --minibatches 8"],
}


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
    if not (folder / "base" / "summary.json").exists():
        subprocess.run([sys.executable, ROOT / "train.py", "--out", folder / "base", "--steps", "0",
                        "--eval-problems", "4"], cwd=ROOT, check=True)
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
        options, _ = cli.parse(["--algo", algo, "--out", str(folder / f"{algo}-0"),
                                "--seed", "0", *COMMON, *setting.split()])
        task, tokenizer = cli.validate(options)
        runs[algo] = options, task, *train.start(Path(options.out), task, tokenizer, options)
    for _ in range(rounds):
        for algo, (options, task, models, optimizer, state) in runs.items():
            one_more = replace(options, token_budget=0, steps=state["step"] + 1)
            lines = train.reinforce(task, models, optimizer, one_more, state)
            seconds.setdefault(algo, []).extend(lines)
    return {algo: [round(median(line["seconds_" + part] for line in lines), 2)
                   for part in ("sample", "score", "update")] for algo, lines in seconds.items()}


def tuned(folder: Path, workers: int) -> tuple[dict, dict]:
    """The best setting of each algorithm, and the accuracies of all settings."""
    jobs = {f"tune-{algo}-{i}": ["--algo", algo, "--seed", str(TUNING_SEED), *COMMON,
                                 *setting.split()]
            for algo, settings in GRID.items() for i, setting in enumerate(settings)}
    train_all(jobs, folder, workers)
    found = {algo: {setting: result(folder / f"tune-{algo}-{i}")["accuracy_sampled_after"]
                    for i, setting in enumerate(settings)} for algo, settings in GRID.items()}
    return {algo: max(of, key=of.get) for algo, of in found.items()}, found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/compare"))
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    best, tuning = tuned(args.work, args.workers)
    jobs = {f"{algo}-{seed}": ["--algo", algo, "--seed", str(seed), *COMMON, *setting.split()]
            for seed in SEEDS for algo, setting in best.items()}
    train_all(jobs, args.work, args.workers)
    write_jsonl(RUNS / "compare.jsonl", [
        compact(args.work / f"{algo}-{seed}", algo=algo, seed=seed, setting=best[algo])
        for algo in best for seed in SEEDS])
    for name, found in (("tuning", tuning), ("seconds", timed(args.work, best))):
        (RUNS / f"compare-{name}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
