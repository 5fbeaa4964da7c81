"""Makes docs/results.md from the measurements in bench/runs/.

    python bench/results.py             writes docs/results.md
    python bench/results.py --check     exit status 1 where docs/results.md is another text

Every table stands under its command, commit and machine. Three kinds of files hold measurements:
run folders (config.json, metrics.jsonl, summary.json), the curves of comparisons (*.jsonl), and
reports (*.json): lists of {title, command, commit, machine, tables}, each table with a caption,
columns and rows. sources.json names title, command, commit and machine of the first two kinds.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench import results_arenas, results_search  # noqa: E402
from bench.stats import (  # noqa: E402
    ROOT,
    RUNS,
    after,
    group_by,
    markdown_table,
    read_json,
    read_jsonl,
    tokens_cell,
    with_interval,
)

PATH = ROOT / "docs" / "results.md"
INTRODUCTION = """# Results

`python bench/results.py` makes this page from `bench/runs/`. Edit the measurements, not the page.

How to read the tables:

- 95% intervals stand in brackets. The interval of one run is Wilson's, over its held-out problems.
  The interval of a mean over seeds is a bootstrap over the seeds.
- An arrow stands between the value before and the value after reinforcement learning.
- Greedy accuracy is measured on all held-out problems. pass@k is measured with 64 samples of each
  of a fifth of them, at temperature 1. All other shares come from one sample a problem.
- The sections "The default run" and "GPU" have the present model. All others are older than commit
  ecbceec. That commit gave the model QK norms and a lower RoPE base, and cut the training of the
  default base from 1,000 to 450 steps.
- All machines are shared. Seconds vary by a third and more from hour to hour.
"""


def section(title: str, command: str, commit: str, machine: str, lines: list[str]) -> list[str]:
    """A heading, where the numbers are from, and the tables."""
    return [f"## {title}", "", "```text", *command.split("; "), "```", "",
            f"Commit {commit}. Machine: {machine}.", "", *lines]


def report_lines(report: dict) -> list[str]:
    """The section of a report file's entry."""
    lines = []
    for table in report["tables"]:
        lines += [table["caption"], ""] * bool(table["caption"])
        lines += markdown_table(table["columns"], table["rows"])
    return section(*(report[key] for key in ("title", "command", "commit", "machine")), lines)


def reports(name: str) -> list[str]:
    """The sections of a report file."""
    return [line for report in read_json(RUNS / f"{name}.json") for line in report_lines(report)]


# --- run folders

def percent(value: float, interval=None) -> str:
    text = f"{100 * value:.1f}"
    return text if interval is None else text + " [{:.1f}, {:.1f}]".format(
        *(100 * x for x in interval))


def before_after(name: str, interval: bool = False):
    """A proportion before and after RL, the latter with its interval if wanted."""
    def cell(run):
        return (percent(run[name + "_before"]) + " → "
                + percent(run[name + "_after"], run[name + "_ci_after"] if interval else None))
    return cell


def pass_at_k(when: str):
    return lambda run: " / ".join(percent(x) for x in run["pass_at_k_" + when].values())


def templates(when: str):
    """Accuracy on trained and on new templates (task gsm)."""
    return lambda run: ", ".join(f"{kind.split()[0]} {percent(value['value'])}" for kind, value in
                                 sorted(run["accuracy_by_kind_" + when].items(), reverse=True))


def seconds(run) -> str:
    parts = [run[f"seconds_{name}"] for name in ("base", "rl", "eval")]
    return " + ".join(f"{x:.0f}" for x in parts) + f" = {sum(parts):.0f}"


RUN_LINES = {
    "greedy accuracy, %": before_after("accuracy", interval=True),
    "at temperature 1, %": before_after("accuracy_sampled", interval=True),
    "pass@1 / 4 / 16 / 64 before, %": pass_at_k("before"),
    "… after": pass_at_k("after"),
    "mean length, tokens": lambda run: f"{run['length_before']:.1f} → {run['length_after']:.1f}",
    "answers with working, %": before_after("working_share"),
    "right answers among those with working, %":
        before_after("accuracy_given_working", interval=True),
    "right answers among those without, %": before_after("accuracy_given_no_working"),
    "answers with a self-check, %": before_after("self_check_share"),
    "truncated, %": before_after("truncated"),
    "seconds: base + RL + evaluations = total": seconds,
    "peak memory, MiB": lambda run: f"{run['peak_rss_mb']:.0f}",
}


def run_table(folders: dict, lines: dict) -> list[str]:
    """A column per run folder {column: folder}, a row per line {label: function of a summary}."""
    runs = [read_json(RUNS / folder / "summary.json") for folder in folders.values()]
    return markdown_table(["", *folders], [[label, *map(cell, runs)]
                                           for label, cell in lines.items()])


def runs_of(pattern: str) -> dict:
    """{'seed 0': folder name, ...} of the run folders whose names fit a pattern with * for the
    seed."""
    prefix, suffix = pattern.split("*")
    seeds = sorted(int(path.name[len(prefix):len(path.name) - len(suffix)])
                   for path in RUNS.glob(prefix + "[0-9]" + suffix))
    return {f"seed {seed}": f"{prefix}{seed}{suffix}" for seed in seeds}


def curve_line(name: str, steps: list[int], scale: float = 1.0, digits: int = 1):
    """The values of a metric at some steps of a run folder."""
    def cell(folder):
        lines = {line["step"]: line for line in read_jsonl(RUNS / folder / "metrics.jsonl")}
        return ", ".join(f"{scale * lines[step][name]:.{digits}f}" for step in steps)
    return cell


def curves(folders: dict, lines: dict) -> list[str]:
    return markdown_table(["", *folders], [[label, *map(cell, folders.values())]
                                           for label, cell in lines.items()])


HEALTHY = {  # metric: digits, for a table of a run that learns
    "reward": 2, "accuracy": 2, "format": 2, "truncated": 3, "length": 0, "entropy": 3, "kl": 3,
    "zero_std_groups": 2, "groups_with_gradient": 2, "clipfrac_low": 4, "clipfrac_high": 4,
    "approx_kl": 4, "grad_norm": 2}


def metrics_table(folder: str, steps: list[int]) -> list[str]:
    """Metrics of a run, a row per name in metrics.jsonl, a column per step."""
    lines = {line["step"]: line for line in read_jsonl(RUNS / folder / "metrics.jsonl")}
    rows = [[f"`{name}`", *(f"{lines[step][name]:.{digits}f}" for step in steps)]
            for name, digits in HEALTHY.items()]
    return markdown_table(["metrics of seed 0 at step", *map(str, steps)], rows)


def run_sections(sources: dict) -> list[str]:
    """The sections of all run folders."""
    lines = []
    lines += section(*sources["arithmetic"], [
        *run_table(runs_of("grpo-arithmetic-*"), RUN_LINES),
        *metrics_table("grpo-arithmetic-0", [1, 2, 3, 5, 10, 20, 30, 40])])
    lines += section(*sources["random"], run_table(runs_of("grpo-arithmetic-*-random"), RUN_LINES))
    claims, steps = runs_of("grpo-arithmetic-*-claim"), [1, 5, 10, 20, 40]
    at = ", ".join(map(str, steps))
    lines += section(*sources["claim"], [*run_table(claims, RUN_LINES), *curves(claims, {
        f"reward paid at steps {at}": curve_line("reward", steps, digits=2),
        f"right answers, sampled, at steps {at}, %": curve_line("accuracy", steps, 100)})])
    for task in ("countdown", "gsm", "code"):
        extra = {"by template before, %": templates("before"),
                 "… after, %": templates("after")} if task == "gsm" else {}
        lines += section(*sources[task], run_table(runs_of(f"grpo-{task}-*"), RUN_LINES | extra))
    waits = runs_of("grpo-wait-*") | {"seed 0, two threads": "grpo-wait-0-two-threads"}
    steps = [1, 3, 5, 10, 20, 40]
    lines += section(*sources["wait"], [*run_table(waits, RUN_LINES), *curves(waits, {
        f"answers that say `wait` at steps {', '.join(map(str, steps))}, %":
            curve_line("self_check", steps, 100, 0)})])
    for name in ("process", "process-sum", "process-again"):
        folders = runs_of(f"ppo-chain-{name}-*")
        table = run_table(folders, RUN_LINES)
        if name == "process":
            steps = [10, 20, 30, 40, 50, 60]
            at = ", ".join(map(str, steps))
            table += curves(folders, {
                f"greedy, 200 problems, at steps {at}, %": curve_line("eval_accuracy", steps, 100),
                f"reward at steps {at}": curve_line("reward", steps, digits=2)})
        lines += section(*sources[name], table)
    return lines


# --- comparisons

def comparison_cells(rows, level: float) -> list[str]:
    """The cells that both tables of comparisons begin with."""
    return [*(with_interval([row[name] for row in rows])
              for name in ("accuracy", "sampled", "pass16")), tokens_cell(rows, level)]


def algorithm_table(groups: dict, step_seconds: dict) -> list[str]:
    """A row per algorithm of bench/compare.py: means over seeds."""
    columns = ["", "greedy accuracy, %", "at temperature 1, %", "pass@16, %",
               "thousand tokens to 80%", "final entropy, nats", "mean length",
               "groups with gradient, %", "seconds a step: sample + score + update",
               "peak memory, MiB", "parameters trained"]
    rows = []
    for name, runs in groups.items():
        gradient = "no groups" if name == "ppo" else with_interval(
            [after(run, 0, "groups_with_gradient") for run in runs])
        rows.append([name, *comparison_cells(runs, 0.8),
                     with_interval([after(run, 1, "entropy") for run in runs], 1, 3),
                     f"{mean(run['length'] for run in runs):.0f}", gradient,
                     " + ".join(f"{x:.2f}" for x in step_seconds[name]),
                     max(run["peak_rss_mb"] for run in runs),
                     f"{runs[0]['parameters'] / 1e6:.2f} M"])
    return markdown_table(columns, rows)


def ablation_table(groups: dict) -> list[str]:
    """A row per variant of bench/ablate_dapo.py: means over seeds."""
    columns = ["", "greedy accuracy, %", "at temperature 1, %", "pass@16, %",
               "thousand tokens to 60%", "entropy, second half", "prompts with gradient, %",
               "mean length, second half", "truncated, second half, %"]
    return markdown_table(columns, [
        [name, *comparison_cells(runs, 0.6),
         with_interval([after(run, 0.5, "entropy") for run in runs], 1, 4),
         with_interval([after(run, 0, "groups_with_gradient") for run in runs]),
         with_interval([after(run, 0.5, "length") for run in runs], 1),
         with_interval([after(run, 0.5, "truncated") for run in runs])]
        for name, runs in groups.items()])


def tuning_table(tuning: dict) -> list[str]:
    """{algorithm: {flags: accuracy}}; the best setting of each algorithm is bold."""
    rows = []
    for algo, found in tuning.items():
        best = max(found, key=found.get)
        rows.append([algo, "; ".join(("**{}: {}**" if flags == best else "{}: {}").format(
            flags, percent(accuracy)) for flags, accuracy in found.items())])
    return markdown_table(["tuning, one run each, seed 100", "accuracy at temperature 1, %"], rows)


def comparison_sections(sources: dict) -> list[str]:
    groups = group_by(read_jsonl(RUNS / "compare.jsonl"), "algo")
    late = [after(run, 0.5, "explained_variance") for run in groups["ppo"]]
    lines = section(*sources["compare"], [
        "One base, 500,000 sampled tokens a run, 5 seeds, 500 held-out problems.", "",
        *algorithm_table(groups, read_json(RUNS / "compare-seconds.json")),
        "Explained variance of PPO's critic in the second half of training: "
        f"{with_interval(late, 1, 2)}.", "",
        *tuning_table(read_json(RUNS / "compare-tuning.json"))])
    lines += reports("compare-repeats")
    lines += section(*sources["ablate"], [
        "Problems of levels 1, 2 and 4 in turn, answers of at most 112 tokens, sixteen updates a "
        "batch, 500,000 sampled tokens, 3 seeds, 500 held-out problems of level 2.", "",
        *ablation_table(group_by(read_jsonl(RUNS / "ablate.jsonl"), "variant"))])
    return lines + reports("ablate-repeats")


def arena_sections(sources: dict) -> list[str]:
    """A section per arena of bench/arenas.py whose tuning is done, with the flags of its runs."""
    lines = []
    for arena, rows in group_by(read_jsonl(RUNS / "arenas.jsonl"), "arena").items():
        if any(results_arenas.sets_of(rows)):
            *source, flags = sources[f"arena-{arena}"]
            lines += section(*source, results_arenas.lines(arena, flags, rows))
    return lines


def page() -> str:
    """The whole of docs/results.md."""
    sources = read_json(RUNS / "sources.json")
    lines = [*INTRODUCTION.splitlines(), "", *run_sections(sources), *comparison_sections(sources)]
    lines += arena_sections(sources)
    for name in ("explained", "ppo", "questions-together"):
        lines += reports(name)
    lines += section(*sources["search"], results_search.method_table(
        read_jsonl(RUNS / "search-arithmetic-0.jsonl")))
    lines += reports("forced-arithmetic")
    lines += section(*sources["ttc"], results_search.tables(read_jsonl(RUNS / "ttc.jsonl")))
    for name in ("wait-bases", "gpu", "sampling", "step", "busy", "pretrained", "memory-plan",
                 "verifier", "sandbox"):
        lines += reports(name)
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only; write nothing")
    args = parser.parse_args()
    if args.check:
        return int(PATH.read_text() != page())
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
