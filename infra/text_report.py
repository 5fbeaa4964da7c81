"""A run in the terminal, for those who work over ssh (report.py --text).

A curve is a line of blocks, one a step or the mean of a few steps. Text of the model is printed
with its control characters as escapes (terminal.py).
"""

import sys
import textwrap

from infra.charts import SHARE, charts_of, measures_of
from infra.terminal import echo, visible

BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
CURVE_WIDTH = 40   # characters
WIDTH = 100        # of a line
SHOWN = 4          # responses of the group


def show(run, command: str, diagnoses: dict) -> None:
    """Prints a run: its settings, the diagnoses, before and after, the curves and one group.
    diagnoses: {rule: (step, sentence)}."""
    options, summary = run.options, run.summary
    steps = run.metrics[-1]["step"] if run.metrics else 0
    state = (f"{summary['seconds_total']:.0f} s" if "seconds_total" in summary
             else "not ended")
    echo(f"\n{run.folder}: {options.get('algo')}, {options.get('task')}, seed "
         f"{options.get('seed')}, {steps} steps, {state}")
    echo(f"  {command}")
    for note in run.notes:
        echo(f"  {note}")
    # diagnoses, and before and after
    echo("\nDiagnoses")
    for step, text in sorted(diagnoses.values(), key=lambda said: said[0]):  # causes first
        echo(textwrap.fill(visible(f"step {step}: {text}"), WIDTH, initial_indent="  ! ",
                           subsequent_indent="    "))
    if not diagnoses:
        echo("  none")
    if rows := measures_of(summary):
        echo(f"\n{'Held-out problems':28}{'before':26}after")
    for row in rows:
        echo(f"  {row['label']:26}{with_interval(row, 'before'):26}{with_interval(row, 'after')}")
    # curves
    if run.metrics:
        echo(f"\nCurves, steps {run.metrics[0]['step']} to {steps}"
             f"{'':{CURVE_WIDTH - 6}}first    last   lowest  highest")
    for chart in charts_of([run]):
        for series in chart["series"]:
            show_curve(run.metrics, series["name"], chart["unit"])
    show_group(run.groups)


def with_interval(row: dict, when: str) -> str:
    """A measurement as text, with its interval if it has one."""
    value, ci = row[when], row.get(f"ci_{when}")
    if row["unit"] != SHARE:
        return f"{value:.1f}"
    return f"{value:.1%}" + (f" [{ci[0]:.1%}, {ci[1]:.1%}]" if ci else "")


def show_curve(metrics: list[dict], name: str, unit: str) -> None:
    """Prints a metric as a line of blocks, with its first, last, lowest and highest value."""
    values = [line[name] for line in metrics if type(line.get(name)) in (int, float)]
    form = "{:8.1%}" if unit == SHARE else "{:8.3g}"
    echo(f"  {name:22.22} {sparkline(values):{CURVE_WIDTH}}"
         + " ".join(form.format(v) for v in (values[0], values[-1], min(values), max(values))))


def sparkline(values: list[float]) -> str:
    """Values as blocks of eight heights, CURVE_WIDTH at most: each block is the mean of its
    share of the values. ASCII where the terminal cannot print the blocks."""
    n = min(CURVE_WIDTH, len(values))
    cuts = [len(values) * i // n for i in range(n + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(cuts, cuts[1:], strict=False)]
    low, high = min(means), max(means)
    blocks = BLOCKS
    try:
        BLOCKS.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        blocks = ASCII_BLOCKS
    return "".join(blocks[round(7 * (v - low) / (high - low)) if high > low else 0] for v in means)


def show_group(groups: list[dict]) -> None:
    """Prints the last recorded group with both right and wrong answers, or else the last one."""
    mixed = [group for group in groups
             if len({str(r.get("reward")) for r in group["responses"]}) > 1]
    if not groups:
        return
    group = (mixed or groups)[-1]
    responses = sorted(group["responses"], key=lambda r: -(r.get("advantage") or 0))
    dropped = f", dropped: {group['dropped']}" if group.get("dropped") else ""
    echo(f"\nStep {group['step']}: {group['question']}   (answer {group.get('answer')}{dropped})")
    # the best and the worst ones
    half = SHOWN // 2
    shown = responses if len(responses) <= SHOWN else responses[:half] + responses[-half:]
    for i, response in enumerate(shown):
        if len(responses) > SHOWN and i == half:
            echo(f"  ... {len(responses) - SHOWN} more")
        facts = [f"{name} {response[name]:{form}}" for name, form in
                 (("reward", ".2f"), ("advantage", "+.2f"), ("length", "d"))
                 if type(response.get(name)) in (int, float)]
        ending = ["cut off"] if response.get("truncated") else []
        echo("  " + ", ".join(facts + ending))
        echo(textwrap.indent(visible(response["text"]), "    | ", lambda line: True))
