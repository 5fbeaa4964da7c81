"""DAPO's table 1 in small: plain GRPO, GRPO with each trick, and DAPO without each trick.

    python bench/ablate_dapo.py --work DIR       trains, writes bench/runs/ablate.jsonl

Then bench/results.py makes the table and bench/plot.py the figure.

In this setting each trick has a problem to solve: a third of the problems are too easy, a third
are too hard, answers are cut off at 112 tokens, and each batch gives sixteen updates.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.compare import COMMON, compact, train_all  # noqa: E402
from bench.stats import RUNS, write_jsonl  # noqa: E402

SEEDS = range(3)
SETTING = ["--algo", "dapo", "--train-levels", "1,2,4", "--max-new-tokens", "112",
           "--minibatches", "16", *COMMON]
OFF = {"Clip-Higher": "--clip-high 0.2", "Dynamic Sampling": "--no-dynamic-sampling",
       "Token-Level": "--aggregate sequence", "Overlong": "--overlong none"}
VARIANTS = {
    "plain GRPO": list(OFF.values()),
    **{f"+ {trick}": [off for other, off in OFF.items() if other != trick] for trick in OFF},
    "+ Overlong (mask)": [off for other, off in OFF.items() if other != "Overlong"]
    + ["--overlong mask"],
    **{f"DAPO - {trick}": [off] for trick, off in OFF.items()},
    "DAPO": [],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/ablate"))
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    names = {f"{i}-{seed}": (name, seed) for seed in SEEDS for i, name in enumerate(VARIANTS)}
    train_all({job: [*SETTING, "--seed", str(seed), *" ".join(VARIANTS[name]).split()]
               for job, (name, seed) in names.items()}, args.work, args.workers)
    write_jsonl(RUNS / "ablate.jsonl", [compact(args.work / job, variant=name, seed=seed)
                                        for job, (name, seed) in names.items()])


if __name__ == "__main__":
    main()
