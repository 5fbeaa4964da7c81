"""DAPO's table 1 in small: plain GRPO, GRPO with each trick, and DAPO without each trick.

    python bench/ablate_dapo.py --work DIR       trains, writes table and plot
    python bench/ablate_dapo.py --draw           both from bench/runs/ablate.jsonl

In this setting each trick has a problem to solve: a third of the problems are too easy, a third
are too hard, answers are cut off at 112 tokens, and each batch gives sixteen updates.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.compare import (  # noqa: E402
    BUDGET,
    COMMON,
    HEAD,
    ROOT,
    after,
    compact,
    draw,
    head,
    keep,
    load,
    shown,
    train_all,
    write_section,
)

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


def table(groups: dict) -> list[str]:
    lines = [HEAD.format(0.6) + " entropy, second half "
             "| prompts with gradient, % | mean length, second half | truncated, second half, % |",
             "|---" * 9 + "|"]
    for name, rows in groups.items():
        lines.append(
            f"{head(name, rows, 0.6)} {shown([after(r, 0.5, 'entropy') for r in rows], 1, 4)} "
            f"| {shown([after(r, 0, 'groups_with_gradient') for r in rows])} "
            f"| {shown([after(r, 0.5, 'length') for r in rows], 1)} "
            f"| {shown([after(r, 0.5, 'truncated') for r in rows])} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/ablate"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--draw", action="store_true", help="no training")
    args = parser.parse_args()
    data = ROOT / "bench" / "runs" / "ablate.jsonl"
    if not args.draw:
        names = {f"{i}-{seed}": (name, seed) for seed in SEEDS for i, name in enumerate(VARIANTS)}
        train_all({job: [*SETTING, "--seed", str(seed), *" ".join(VARIANTS[name]).split()]
                   for job, (name, seed) in names.items()}, args.work, args.workers)
        keep(data, [compact(args.work / job, variant=name, seed=seed)
                    for job, (name, seed) in names.items()])
    groups = load(data, "variant")
    groups = {name: groups[name] for name in VARIANTS}
    write_section("DAPO's tricks, one by one", [
        f"`python bench/ablate_dapo.py`: problems of levels 1, 2 and 4 in turn, answers of at most "
        f"112 tokens, sixteen updates a batch, {BUDGET:,} sampled tokens, {len(SEEDS)} seeds; "
        "mean and 95% bootstrap interval over seeds; accuracy on 500 held-out problems of level 2.",
        "", *table(groups)])
    draw({name: groups[name] for name in ("plain GRPO", "+ Clip-Higher", "+ Dynamic Sampling",
                                          "+ Overlong", "DAPO")},
         ROOT / "bench" / "ablate.png", ("eval_accuracy", "entropy", "groups_with_gradient"))


if __name__ == "__main__":
    main()
