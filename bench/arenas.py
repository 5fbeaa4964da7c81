"""Arenas for algorithms: the default task for all, and three that show a weakness of plain GRPO.

    python bench/arenas.py              tunes and trains: bench/runs/arenas.jsonl
    python bench/arenas.py sparse       one arena alone

    default  every algorithm with its defaults, 20 steps of the default task, three seeds, no tuning
    sparse   the base solves few problems, so most groups have no right response
    stale    each batch has many updates, so the policy moves far from the policy that sampled it
    long     many steps, a token limit that truncates responses, and an entropy that collapses

In each of the last three, all runs share the base and the number of sampled tokens. Every algorithm
has the same tuning: one run of seed 100 with each of three learning rates. The rate with the best
final accuracy is kept for two sets of five seeds. Each run is a line of arenas.jsonl. Runs that
have a line are not made again. Each run is a process of one thread.

After each arena docs/results.md and the arena's figure are made anew. Accuracies are measured on
500 held-out problems: greedy, and avg@4, the mean over four samples at temperature 1. `sparse`
compares greedy accuracies, because its weak policies have few right samples at temperature 1.
"""

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: E402, F401  (before torch)

import numpy as np  # noqa: E402
import torch  # noqa: E402

import evaluate  # noqa: E402
import train  # noqa: E402
from bench.results_arenas import LEVELS, TUNING_SEED, best_line  # noqa: E402
from bench.stats import CURVE, RUNS, group_by, read_jsonl  # noqa: E402
from config import PRESETS  # noqa: E402
from infra import cli  # noqa: E402
from infra.base_model import base_model  # noqa: E402
from infra.models import make_models  # noqa: E402

FILE = RUNS / "arenas.jsonl"
SETS = (range(5), range(5, 10))   # two sets of seeds: the second one repeats the first
PROBLEMS, SAMPLES = 500, 4        # of the final evaluation
POINTS = 25                       # of a curve in a line of the file


class Arena(NamedTuple):
    """The settings of an arena's runs."""

    flags: str               # of train.py, for all runs
    rates: tuple             # learning rates to try; empty: the default of the algorithm
    algorithms: dict         # name -> further flags of train.py
    sets: tuple = SETS       # of seeds
    accuracy: str = "avg4"   # by which algorithms are compared: avg4 or greedy


ARENAS = {
    "default": Arena(
        "--task arithmetic --base-seed 0 --steps 20 --eval-every 5", (),
        {**{algo: f"--algo {algo}" for algo in PRESETS},
         "raft, kept at random": "--algo raft --keep-at-random",
         "gfpo, efficient": "--algo gfpo --keep efficient",
         "grpo, GDPO": "--algo grpo --decouple-rewards",
         }, (range(3),)),
    "sparse": Arena(
        "--task arithmetic --base-steps 200 --base-seed 0 --prompts 32 --group-size 8 "
        "--minibatches 8 --steps 1000 --token-budget 800000 --reward accuracy --eval-every 5",
        ("1e-4", "2e-4", "4e-4"),
        {"grpo": "--algo grpo",
         "maxrl": "--algo maxrl",
         "passk": "--algo passk --pass-at 4",
         "reinforce++": "--algo reinforce++",
         "raft": "--algo raft",
         "dapo": "--algo dapo --overlong none --reward sign",
         "ppo": "--algo ppo",
         "dpo": "--algo dpo",
         "kimi": "--algo kimi --length-coef 0",
         }, accuracy="greedy"),
    "stale": Arena(
        "--task arithmetic --base-seed 0 --prompts 16 --group-size 16 --minibatches 8 --epochs 4 "
        "--steps 1000 --token-budget 200000 --reward accuracy --eval-every 2",
        ("1e-4", "2e-4", "4e-4"),
        {"grpo": "--algo grpo",
         "no correction": "--algo cispo --surrogate likelihood --aggregate sequence",
         "cispo": "--algo cispo",
         "sapo": "--algo sapo",
         "gmpo": "--algo gmpo",
         "gspo": "--algo gspo",
         "kimi": "--algo kimi --length-coef 0",
         "raft": "--algo raft",
         }),
    "long": Arena(
        "--task arithmetic --level 3 --base-seed 0 --max-new-tokens 192 --prompts 8 "
        "--group-size 8 --minibatches 2 --steps 1000 --token-budget 1300000 --reward accuracy "
        "--eval-every 25",
        ("2e-4", "4e-4", "8e-4"),
        {"grpo": "--algo grpo",
         "drgrpo": "--algo drgrpo",
         "clip-higher": "--algo grpo --clip-high 0.28",
         "token-level": "--algo grpo --aggregate token",
         "overlong": "--algo dapo --no-dynamic-sampling --clip-high 0.2 --aggregate sequence "
                     "--minibatches 2 --reward sign",
         "dapo": "--algo dapo --minibatches 2 --reward sign",
         "kl-cov": "--algo grpo --token-filter kl-cov",
         }),
}


def job_name(job: dict) -> tuple:
    """The key of a job or a line: arena, algorithm, learning rate and seed."""
    return job["arena"], job["algo"], job["lr"], job["seed"]


# --- one run

def run(job: dict, work: Path) -> dict:
    """Trains and evaluates. Returns the job with its results: a line of the file."""
    # 1. the options, the base and the networks
    arena = ARENAS[job["arena"]]
    options, _ = cli.parse([*arena.flags.split(), *arena.algorithms[job["algo"]].split(),
                            *(["--lr", job["lr"]] if job["lr"] else []),
                            "--seed", str(job["seed"]), "--device", "cpu"])
    task, tokenizer = cli.validate(options)
    models, optimizer = make_models(base_model(options, task, tokenizer, work), tokenizer, options)
    # all seeds have the same base, so only the run of seed 0 measures it
    before = accuracy(models.policy, tokenizer, task, options) if job["seed"] == 0 else {}
    # 2. training
    began, cpu = time.perf_counter(), time.process_time()
    history = train.reinforce(task, models, optimizer, options)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    # 3. the final accuracy, and the curve
    after = accuracy(models.policy, tokenizer, task, options)
    line = job | {f"{name}_before": value for name, value in before.items()} | after | {
        "steps": len(history), "tokens": sum(step["tokens"] for step in history),
        "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
    return line if job["seed"] == TUNING_SEED else line | {"curve": curve(history)}


def accuracy(policy, tokenizer, task, options) -> dict:
    """Results on the held-out problems: greedy accuracy; of four samples at temperature 1 avg@4,
    pass@4, the mean length in tokens and the share that is truncated."""
    problems = task.held_out(PROBLEMS)
    greedy = evaluate.greedy_accuracy(policy, tokenizer, task, problems, options.max_new_tokens)
    rollout, texts = evaluate.sample_responses(policy, tokenizer, problems, SAMPLES, 1.0, 0,
                                               options.max_new_tokens)
    right = np.array([bool(task.correct(problems[i // SAMPLES], text))
                      for i, text in enumerate(texts)]).reshape(-1, SAMPLES)  # (problems, samples)
    return {"greedy": greedy["value"], "avg4": float(right.mean()),
            "pass4": float(right.any(1).mean()), "length": float(rollout.mask.sum(1).mean()),
            "truncated": float(rollout.truncated.float().mean())}


def curve(history: list[dict]) -> list[list]:
    """Points with the columns CURVE, one for each of POINTS parts of the run. `step` and `tokens`
    are those at the end of the part, other metrics are means over it. None: not measured in it."""
    tokens, points = np.cumsum([step["tokens"] for step in history]), []
    for part in np.array_split(np.arange(len(history)), min(POINTS, len(history))):
        point = {"step": int(part[-1]) + 1, "tokens": int(tokens[part[-1]])}
        for name in CURVE[2:]:
            values = [history[i][name] for i in part if history[i].get(name) is not None]
            point[name] = round(float(np.mean(values)), 4) if values else None
        points.append([point[name] for name in CURVE])
    return points


# --- all runs

def missing(jobs: list[dict], done: dict) -> list[dict]:
    """The jobs that are not in done. done: job_name -> line of the file."""
    return [job for job in jobs if job_name(job) not in done]


def train_all(jobs: list[dict], done: dict, work: Path, workers: int) -> None:
    """Makes the missing runs, appends a line for each to the file and adds it to `done`."""
    work.mkdir(parents=True, exist_ok=True)
    jobs = missing(jobs, done)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"),
                             initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for future in as_completed([pool.submit(run, job, work) for job in jobs]):
            line = future.result()
            with FILE.open("a") as file:
                file.write(json.dumps(line) + "\n")
            done[job_name(line)] = line
            print(*job_name(line), f"avg@4 {line['avg4']:.1%} greedy {line['greedy']:.1%} "
                  f"{line['seconds']:.0f} s", flush=True)


def tuning_jobs(arena: str) -> list[dict]:
    """A run of each algorithm with each learning rate; none if the arena has no rates to try."""
    return [{"arena": arena, "algo": algo, "lr": lr, "seed": TUNING_SEED}
            for algo in ARENAS[arena].algorithms for lr in ARENAS[arena].rates]


def final_jobs(arena: str, done: dict) -> list[dict]:
    """The runs of all sets of seeds, with the best learning rate of each algorithm."""
    tuned = group_by([done[job_name(job)] for job in tuning_jobs(arena)], "algo")
    ranked_by, rates = ARENAS[arena].accuracy, ARENAS[arena].rates
    best = {algo: best_line(tuned[algo], ranked_by)["lr"] if rates else ""
            for algo in ARENAS[arena].algorithms}
    return [{"arena": arena, "algo": algo, "lr": lr, "seed": seed}
            for seeds in ARENAS[arena].sets for seed in seeds for algo, lr in best.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("arenas", nargs="*", default=list(ARENAS), help="default: all")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of the bases")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    from bench import plot, results  # here: they need requirements-dev.txt, the runs do not
    done = {job_name(line): line for line in (read_jsonl(FILE) if FILE.exists() else [])}
    for arena in args.arenas:
        train_all(tuning_jobs(arena), done, args.work, args.workers)
        train_all(final_jobs(arena, done), done, args.work, args.workers)
        results.PATH.write_text(results.page())
        if arena in LEVELS:  # not default, whose table has every seed
            plot.arena(arena, plot.IMAGES / f"arena-{arena}.png")


if __name__ == "__main__":
    main()
