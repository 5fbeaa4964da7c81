"""Draws the curves of runs, and all figures of the documentation.

    python bench/plot.py runs/NAME [runs/OTHER ...]      accuracy and length: runs/NAME/curves.png
    python bench/plot.py runs/NAME --hacking             reward and accuracy: runs/NAME/hacking.png
    python bench/plot.py --docs                          the figures of docs/img/

The figures of docs/img/ are drawn from bench/runs/; plot_broken.py draws those of broken runs. A
line is the mean over seeds. Its band is the range of the seeds for run folders, and the 95%
bootstrap interval over seeds for comparisons.
Colours are those of Okabe and Ito, which colour-blind readers tell apart. Needs matplotlib.
"""

import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.results_arenas import LEVELS, ranking, sets_of  # noqa: E402
from bench.results_search import KS, select  # noqa: E402
from bench.stats import (  # noqa: E402
    ROOT,
    RUNS,
    bootstrap,
    column,
    evaluations,
    group_by,
    metrics,
    read_json,
    read_jsonl,
)
from infra import arguments  # noqa: E402
from infra.terminal import echo  # noqa: E402

IMAGES = ROOT / "docs" / "img"
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = COLOURS = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
GREY = "#777777"
STEP = "step of reinforcement learning"
plt.rcParams.update({
    "font.size": 12, "axes.titlesize": 12.5, "axes.grid": True, "grid.alpha": 0.25,
    "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2,
    "legend.frameon": False, "savefig.dpi": 130, "figure.constrained_layout.use": True})


def percent_axis(axes, label: str) -> None:
    axes.set(ylabel=label, ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))


def banded(axes, x, curves, colour, label: str, style: str = "-", marker: str = "") -> None:
    """The mean of curves (runs, points) over the runs, and the range of the runs as a band."""
    axes.plot(x, np.mean(curves, 0), style, color=colour, label=label, marker=marker)
    axes.fill_between(x, np.min(curves, 0), np.max(curves, 0), color=colour, alpha=0.18, lw=0)


def save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.get_layout_engine().set(w_pad=0.1)
    figure.savefig(path)
    plt.close(figure)


# --- run folders

def metric(run: Path, name: str) -> list:
    return [line[name] for line in metrics(run)]


def steps_of(run: Path) -> list[int]:
    return metric(run, "step")


def curves(runs: list[Path], out: Path) -> None:
    """Accuracy and length of some runs, a colour a run: for a reader's own runs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4))
    for run, colour in zip(runs, COLOURS * len(runs), strict=False):
        left.plot(*evaluations(run), "o-", color=colour, label=run.name)
        left.plot(steps_of(run), metric(run, "accuracy"), color=colour, alpha=0.4, lw=1)
        right.plot(steps_of(run), metric(run, "length"), color=colour)
    left.set(xlabel=STEP, title="Right answers: held out, greedy (dots); sampled (thin)")
    percent_axis(left, "right answers")
    right.set(xlabel=STEP, ylabel="tokens", ylim=(0, None), title="Mean length of an answer")
    figure.legend(loc="outside lower center", ncols=3)
    save(figure, out)


def hacking(runs: list[Path], out: Path, title: str = "Reward paid, and right answers") -> None:
    """The reward that was paid beside the true accuracy: to see a verifier being fooled. A reward
    that exceeds 1, such as a sum over steps, gets a panel of its own."""
    n_steps = min(len(steps_of(run)) for run in runs)  # of a run that is going on
    paid = [metric(run, "reward")[:n_steps] for run in runs]
    apart = np.max(paid) > 1.05
    figure, row = plt.subplots(1, 1 + apart, figsize=(8 + 3 * apart, 4.4), squeeze=False)
    left, right = row[0][0], row[0][-1]
    right_answers = [metric(run, "accuracy")[:n_steps] for run in runs]
    banded(left, steps_of(runs[0])[:n_steps], paid, RED, "reward paid")
    banded(right, steps_of(runs[0])[:n_steps], right_answers, BLUE, "right answers (sampled)", "--")
    left.set(xlabel=STEP, title=title, ylabel="reward", ylim=(0, None))
    right.set_xlabel(STEP)
    percent_axis(right, "right answers" if apart else "share of the answers")
    figure.legend(loc="outside lower center", ncols=2)
    save(figure, out)


def learning(out: Path) -> None:
    """The default run: accuracy with its control, and length."""
    runs = sorted(RUNS.glob("grpo-arithmetic-[0-9]"))
    control = RUNS / "grpo-arithmetic-0-random"
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6))
    at, greedy = evaluations(runs[0])[0], [evaluations(run)[1] for run in runs]
    banded(left, at, greedy, BLUE, "held-out problems, greedy", marker="o")
    sampled = [metric(run, "accuracy") for run in runs]
    banded(left, steps_of(runs[0]), sampled, ORANGE, "training problems, sampled")
    left.plot(*evaluations(control), "s--", color=GREY, label="control: random reward, greedy")
    before, after = (mean(read_json(run / "summary.json")[f"accuracy_{when}"] for run in runs)
                     for when in ("before", "after"))
    left.set(xlabel=STEP, title=f"Right answers: {before:.1%} before, {after:.1%} after "
             f"({len(runs)} seeds)")
    percent_axis(left, "right answers")
    lengths = [metric(run, "length") for run in runs]
    banded(right, steps_of(runs[0]), lengths, ORANGE, "")
    first, last = (np.mean([length[i] for length in lengths]) for i in (0, -1))
    right.set(xlabel=STEP, ylabel="mean length, tokens", ylim=(0, None),
              title=f"Answers show working: {first:.0f} tokens become {last:.0f}")
    figure.legend(loc="outside lower center", ncols=3)
    save(figure, out)


def process(out: Path) -> None:
    """Paid by a process reward model: the reward rises, right answers need not."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6))
    runs = sorted(RUNS.glob("ppo-chain-process-[0-9]"))
    styles = zip(runs, (BLUE, RED, GREEN), ("o", "s", "^"), strict=True)
    for run, colour, marker in styles:
        name = f"seed {run.name[-1]}"
        left.plot(steps_of(run), metric(run, "reward"), color=colour)
        right.plot(*evaluations(run), marker=marker, color=colour, label=name)
    left.set(xlabel=STEP, ylabel="reward of an answer (sum over its steps)", ylim=(0, None),
             title="The reward model pays more and more")
    right.set(xlabel=STEP, title="Right answers follow, but for seed 1")
    percent_axis(right, "right answers, held out, greedy")
    figure.legend(loc="outside lower center", ncols=3)
    save(figure, out)


def wait(out: Path) -> None:
    """Task wait: accuracy, answers that say wait, and length, for four bases."""
    names = {"grpo-wait-0": "seed 0", "grpo-wait-1": "seed 1", "grpo-wait-2": "seed 2",
             "grpo-wait-0-two-threads": "seed 0, other base"}
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.6))
    for (folder, name), colour, style in zip(names.items(), (RED, BLUE, GREEN, PURPLE),
                                             ("-", "-", "-", "--"), strict=True):
        run = RUNS / folder
        left.plot(*evaluations(run), style, marker="o", color=colour, label=name)
        middle.plot(steps_of(run), metric(run, "self_check"), style, color=colour)
        right.plot(steps_of(run), metric(run, "length"), style, color=colour)
    left.set(xlabel=STEP, title="Three of four bases learn")
    percent_axis(left, "right answers, held out, greedy")
    middle.set(xlabel=STEP, title="In these three, `wait` rises first")
    percent_axis(middle, "answers that say `wait`")
    middle.set_ylim(0, 0.8)
    right.set(xlabel=STEP, ylabel="mean length, tokens", ylim=(0, None),
              title="Answers get shorter again")
    figure.legend(loc="outside lower center", ncols=4)
    save(figure, out)


# --- comparisons

def comparison_curve(axes, runs, name: str, colour, label: str, style: str) -> None:
    """The mean over seeds of a metric against sampled tokens, with its 95% interval."""
    curves = [[(t, y) for t, y in zip(column(run, "tokens"), column(run, name), strict=True)
               if y is not None] for run in runs]
    # all begin where each has been measured once
    grid = np.linspace(max(points[0][0] / points[-1][0] for points in curves), 1, 40)
    interpolated = [np.interp(grid * points[-1][0], *zip(*points, strict=True))
                    for points in curves]
    middle, low, high = zip(*(bootstrap(values, 2000) for values in np.transpose(interpolated)),
                            strict=True)
    x = grid * mean(column(run, "tokens")[-1] for run in runs) / 1e3
    axes.plot(x, middle, style, color=colour, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def comparison(groups: dict, panels: dict):
    """A panel a metric: {name: (title, y label, whether in percent)}; a line a group."""
    figure, row = plt.subplots(1, len(panels), figsize=(13, 4.9))
    looks = zip((BLACK, ORANGE, SKY, GREEN, PURPLE, RED, BLUE, GREY) * 2, ("-", "--", "-.") * 6,
                strict=False)
    looks = dict(zip(groups, looks, strict=False))  # group -> colour and style
    for axes, (name, (title, label, in_percent)) in zip(row, panels.items(), strict=True):
        for group, runs in groups.items():
            comparison_curve(axes, runs, name, looks[group][0], group if axes is row[0] else "",
                             looks[group][1])
        axes.set(xlabel="thousand tokens sampled", title=title, ylabel=label, ylim=(0, None))
        if in_percent:
            percent_axis(axes, label)
    figure.legend(loc="outside lower center", ncols=6)
    return figure


def compare(out: Path) -> None:
    figure = comparison(group_by(read_jsonl(RUNS / "compare.jsonl"), "algo"), {
        "eval_accuracy": ("Greedy, all end alike (axis from 80%)",
                          "right answers, held out, greedy", True),
        "accuracy": ("Sampled, GSPO lags", "right answers, training, sampled", True),
        "entropy": ("GSPO keeps the most entropy", "entropy, nats a token", False)})
    figure.axes[0].set(ylim=(0.8, 1), yticks=[0.8, 0.85, 0.9, 0.95, 1])
    save(figure, out)


def ablate(out: Path) -> None:
    groups = group_by(read_jsonl(RUNS / "ablate.jsonl"), "variant")
    shown = ("plain GRPO", "+ Clip-Higher", "+ Dynamic Sampling", "+ Overlong", "DAPO")
    save(comparison({name: groups[name] for name in shown}, {
        "eval_accuracy": ("Overlong alone hurts", "right answers, held out, greedy", True),
        "entropy": ("Overlong keeps entropy", "entropy, nats a token", False),
        "groups_with_gradient": ("Dynamic Sampling: all groups teach",
                                      "groups with gradient", True)}), out)


def arena(name: str, out: Path) -> None:
    """An arena of bench/arenas.py, seeds 0 to 4: the algorithms, the best one first."""
    rows, _ = sets_of(group_by(read_jsonl(RUNS / "arenas.jsonl"), "arena")[name])
    groups = group_by(rows, "algo")
    save(comparison({algo: groups[algo] for algo, *_ in ranking(rows)}, {
        "accuracy": ("Sampled, training problems", "right answers", True),
        "eval_accuracy": ("Greedy, held-out problems", "right answers", True),
        "entropy": ("Entropy", "nats a token", False)}), out)


# --- test-time compute

METHOD_STYLES = {
    "verifier": ("any of n (needs the truth)", GREY, ":"), "dvts": ("DVTS", PURPLE, "-"),
    "prm": ("best of n, PRM", BLUE, "-"), "beam": ("beam search", GREEN, "-"),
    "lookahead": ("lookahead", GREEN, "--"), "weighted": ("vote weighted by PRM", SKY, "-"),
    "weighted-orm": ("vote weighted by ORM", ORANGE, "-"), "vote": ("vote", BLACK, "-"),
    "orm": ("best of n, ORM", RED, "-")}


def log_axis(axes, label: str, ticks: list[int]) -> None:
    axes.set(xscale="log", xlabel=label)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()


def search_panel(axes, rows) -> None:
    """Accuracy against tokens a problem, by method, with intervals over seeds."""
    for method, (name, colour, style) in METHOD_STYLES.items():
        by_n = group_by(sorted(select(rows, kind="search", method=method),
                               key=lambda r: r["n"]), "n").values()
        x = [mean(r["tokens_per_problem"] for r in runs) for runs in by_n]
        y, low, high = zip(*(bootstrap([r["accuracy"] for r in runs]) for runs in by_n),
                           strict=True)
        axes.plot(x, y, style, color=colour, label=name, marker="o", markersize=4)
        axes.fill_between(x, low, high, color=colour, alpha=0.10, lw=0)
    log_axis(axes, "tokens a problem", [50, 100, 300, 1000, 3000])
    axes.set_title("Search with a PRM gains,\na vote and the ORM hardly")
    percent_axis(axes, "right answers")


def force_panel(axes, rows) -> None:
    """Accuracy against tokens a problem where thinking is cut off or made to go on."""
    for task, colour in (("chain", ORANGE), ("wait", BLUE)):
        for word, methods, style in (("wait", ("cut", "greedy", "force"), "-"),
                                     ("apples", ("greedy", "force-neutral"), ":")):
            points = defaultdict(list)
            for r in select(rows, kind="force", task=task):
                if r["method"] in methods:
                    points[r["method"], r["n"]].append((r["tokens_per_problem"], r["accuracy"]))
            x, y, low, high = zip(*sorted(
                (mean(t for t, _ in runs), *bootstrap([a for _, a in runs]))
                for runs in points.values()), strict=True)
            axes.plot(x, y, style, color=colour, marker="o", markersize=4,
                      label=f"task {task}, by \"{word}\"")
            axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="tokens a problem",
             title="Forced to think on: only the task\nthat knows `wait` gains")
    percent_axis(axes, "right answers, greedy")


def pass_panel(axes, rows) -> None:
    """pass@k of the base and after RL, counted by true steps and by answers."""
    for policy, colour in (("base", ORANGE), ("RL", BLUE)):
        for of, name, style in (("worked_at_k", "true steps", "-"), ("pass_at_k", "answer", ":")):
            runs = select(rows, kind="pass", policy=policy, difficulty="all")
            banded(axes, KS, [[r[of][str(k)] for k in KS] for r in runs], colour,
                   f"{policy}, {name}", style)
    axes.plot(KS, [1 - 0.9**k for k in KS], "--", color=GREY, label="a guess")
    log_axis(axes, "k", [1, 4, 16, 64, 256])
    axes.set_title("By true steps, RL stays ahead\nof its base at every k")
    percent_axis(axes, "pass@k")


def ttc(out: Path) -> None:
    rows = read_jsonl(RUNS / "ttc.jsonl")
    figure, row = plt.subplots(1, 3, figsize=(14, 6.2))
    for axes, panel in zip(row, (search_panel, force_panel, pass_panel), strict=True):
        panel(axes, rows)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=10.5,
                    ncols=1 if axes is row[1] else 2, columnspacing=1)
    save(figure, out)


def draw_all() -> None:
    for figure in (learning, process, wait, compare, ablate, ttc):
        figure(IMAGES / f"{figure.__name__}.png")
    measured = {row["arena"] for row in sets_of(read_jsonl(RUNS / "arenas.jsonl"))[0]}
    for name in measured & set(LEVELS):
        arena(name, IMAGES / f"arena-{name}.png")
    hacking(sorted(RUNS.glob("grpo-arithmetic-[0-9]-claim")), IMAGES / "hacking.png",
            "A verifier that pays for the claim:\nthe reward rises to 99%, right answers fall away")


def main(argv=None) -> int:
    parser = arguments.Parser("plot.py", description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs")
    parser.add_argument("--out", type=arguments.path, help="the picture (default: curves.png or "
                        "hacking.png in the folder of the first run)")
    parser.add_argument("--hacking", action="store_true", help="reward beside true accuracy")
    parser.add_argument("--docs", action="store_true", help="draw all figures of docs/img/ anew")

    def work(args):
        if args.docs == bool(args.runs):
            parser.error("name folders of runs, such as runs/grpo-arithmetic-0, or --docs")
        if args.docs:
            draw_all()
            return
        for run in args.runs:
            evaluations(run)  # checks the files before the first figure
        draw = hacking if args.hacking else curves
        out = Path(args.out or args.runs[0] / f"{draw.__name__}.png")
        draw(args.runs, out)
        echo(out)
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
