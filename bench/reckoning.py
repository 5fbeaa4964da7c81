"""Makes the reckoning again: every recipe of docs/reckoning.md, seed by seed, then its page.

    python bench/reckoning.py                      all recipes
    python bench/reckoning.py spurious scaling     these alone

Each seed of a recipe is a process of one thread, and two of them work at a time. A seed that is
finished is not made again, so a reckoning that was stopped goes on. Each finished process is a line
of runs/reckoning.jsonl with its seconds. The recipes' own help says what they cost.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
SEEDS = {"r1_zero": 3, "spurious": 5, "pass_at_k": 3, "entropy_collapse": 5, "hacking": 5,
         "overthinking": 5, "forgetting": 5, "scaling": 3}  # recipe -> number of seeds


def jobs(names) -> list[tuple]:
    """(recipe, seed) of each process: the first seeds of all recipes first."""
    return [(name, seed) for seed in range(max(SEEDS.values())) for name in names
            if seed < SEEDS[name]]


def finished(name: str, seed: int) -> bool:
    """Whether the folder of a recipe has the result of this seed."""
    return (ROOT / "runs" / name / f"seed-{seed}" / "result.json").exists()


def make_seed(name: str, seed: int) -> dict:
    """Runs one seed of a recipe. Its page, which knows one seed alone, is thrown away. Returns a
    line of runs/reckoning.jsonl."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as docs:
        code = call_recipe(name, "--seeds", str(seed), "--docs", docs)
    seconds = round(time.perf_counter() - began)
    print(f"{name}, seed {seed}: {seconds} s" + (f", exit code {code}" if code else ""), flush=True)
    return {"recipe": name, "seed": seed, "seconds": seconds, "exit_code": code}


def call_recipe(name: str, *flags: str) -> int:
    """Runs a recipe as a process of one thread. What it prints goes to runs/NAME/log.txt. Returns
    its exit code."""
    log = ROOT / "runs" / name / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        return subprocess.run(
            [sys.executable, "-m", f"recipes.{name}", *flags], cwd=ROOT, stdout=file, stderr=file,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}).returncode


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("recipes", nargs="*", help=f"of {', '.join(SEEDS)} (default: all)")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time (default: 2)")
    args = parser.parse_args(argv)
    names, failed = args.recipes or list(SEEDS), False
    if unknown := [name for name in names if name not in SEEDS]:
        parser.error(f"{unknown[0]} is no recipe of the reckoning; they are {', '.join(SEEDS)}")
    # 1. the seeds
    missing = [job for job in jobs(names) if not finished(*job)]
    with ThreadPoolExecutor(args.workers) as pool:
        for line in pool.map(lambda job: make_seed(*job), missing):
            with (ROOT / "runs" / "reckoning.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
    # 2. the pages
    for name in names:
        if all(finished(name, seed) for seed in range(SEEDS[name])):
            failed |= call_recipe(name) != 0
        else:
            failed = True
            print(f"{name}: a seed failed; runs/{name}/log.txt says why")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
