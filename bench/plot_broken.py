"""Draws the figures of docs/my-reward-is-flat.md: a run broken on purpose beside a healthy one.

    python bench/plot_broken.py            docs/img/broken-NAME.png, from bench/runs/broken-NAME/

The left panel has the accuracy, the right one the metric that tells the cause. Needs matplotlib.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.plot import GREY, IMAGES, RED, percent_axis, plt, save  # noqa: E402
from bench.stats import RUNS, metrics  # noqa: E402
from infra import arguments  # noqa: E402

HEALTHY = RUNS / "healthy-0"  # python train.py --algo grpo
TELLING = {  # run -> (metric, title, whether it is a share)
    "learning-rate": ("approx_kl", "approx_kl, nats a token", False),
    "false-verifier": ("format", "format: well-formed responses", True),
    "max-new-tokens": ("truncated", "truncated: responses cut off", True),
    "stop-token": ("runs_on", "runs_on: text after </answer>", True),
    "temperature": ("groups_with_gradient", "groups_with_gradient", True),
    "group-size": ("groups_with_gradient", "groups_with_gradient", True),
    "prompt-in-loss": ("logp_diff", "logp_diff, nats a token", False),
    "old-logp": ("logp_diff", "logp_diff, nats a token", False),
    "flipped-sign": ("reward_advantage", "reward_advantage, a correlation", False),
    "same-golds": ("most_common_answer", "most_common_answer", True),
}


def panel(axes, run: Path, name: str, title: str, is_share: bool) -> None:
    """A metric of a broken run (red) and of the healthy one (grey, dashed), as far as it has it."""
    rows = [row for row in metrics(run) if row.get(name) is not None]
    axes.plot([row["step"] for row in rows], [row[name] for row in rows], "o-", color=RED,
              markersize=3, label="broken")
    healthy = [row for row in metrics(HEALTHY)[:len(metrics(run))] if row.get(name) is not None]
    axes.plot([row["step"] for row in healthy], [row[name] for row in healthy], "--", color=GREY,
              label="healthy")
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)
    if is_share:
        percent_axis(axes, "")


def broken(name: str) -> None:
    metric, title, is_share = TELLING[name]
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 2))
    run = RUNS / f"broken-{name}"
    panel(left, run, "accuracy", "accuracy: right responses", True)
    panel(right, run, metric, title, is_share)
    right.legend(fontsize=8)
    save(figure, IMAGES / f"broken-{name}.png")


def main(argv=None) -> int:
    parser = arguments.Parser("plot_broken.py", description=__doc__.split("\n")[0])

    def work(args):
        plt.rcParams["savefig.dpi"] = 90  # ten small files
        for name in TELLING:
            broken(name)
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
