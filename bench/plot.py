"""Draws accuracy and length against step from the metrics of runs, one line a run.

    python bench/plot.py bench/runs/grpo-arithmetic-{0,1,2} --out bench/learning.png
    python bench/plot.py bench/runs/grpo-arithmetic-0-claim --hacking --out bench/hacking.png

--hacking draws the reward that was paid beside the true accuracy, a panel a run, to see a verifier
or a judge being fooled.
Needs matplotlib (requirements-dev.txt)."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def read(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def hacking(runs: list[Path], out: str):
    figure, row = plt.subplots(1, len(runs), figsize=(1 + 4 * len(runs), 3.2), squeeze=False,
                               constrained_layout=True)
    for run, axes in zip(runs, row[0], strict=True):
        lines = read(run)
        steps = [line["step"] for line in lines]
        paid, right = ([line[name] for line in lines] for name in ("reward", "accuracy"))
        scale = axes.twinx() if max(paid) > 1.2 else axes  # a sum over steps has its own
        curves = scale.plot(steps, paid, color="C0", label="reward paid")
        curves += axes.plot(steps, right, color="C1", label="right answers")
        scale.set_ylim(0, None)
        axes.set(xlabel="step of reinforcement learning", ylim=(0, 1.02), title=run.name)
        axes.legend(handles=curves, fontsize=8, loc="center right")
        axes.grid(alpha=0.2)
    figure.savefig(out, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", default="bench/learning.png")
    parser.add_argument("--hacking", action="store_true", help="reward against true accuracy")
    args = parser.parse_args()
    if lacking := [str(run) for run in args.runs if not (run / "metrics.jsonl").exists()]:
        parser.error(f"no metrics.jsonl in {', '.join(lacking)}")
    if args.hacking:
        return hacking(args.runs, args.out)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    for i, run in enumerate(args.runs):
        lines, summary = read(run), json.loads((run / "summary.json").read_text())
        steps, colour = [line["step"] for line in lines], f"C{i}"
        left.plot(steps, [line["accuracy"] for line in lines], color=colour, alpha=0.35)
        held_out = [(0, summary["accuracy_before"])]
        held_out += [(line["step"], line["eval_accuracy"]) for line in lines
                     if "eval_accuracy" in line]
        left.plot(*zip(*held_out, strict=True), "o-", color=colour, markersize=4,
                  label=run.name)
        right.plot(steps, [line["length"] for line in lines], color=colour)
    left.set(xlabel="step of reinforcement learning", ylabel="accuracy", ylim=(0, 1),
             title="right answers: held out, greedy (dots); sampled (faint)")
    left.legend(loc="lower right", fontsize=8)
    right.set(xlabel="step of reinforcement learning", ylabel="tokens", ylim=(0, None),
              title="mean length of an answer")
    for axes in (left, right):
        axes.grid(alpha=0.2)
        axes.title.set_fontsize(9)
    figure.savefig(args.out, dpi=150)


if __name__ == "__main__":
    main()
