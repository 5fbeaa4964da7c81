"""A run in the terminal, for those who work over ssh (report.py --text).

A curve is a line of blocks, one a step or the mean of a few steps. Text of the model is printed
with its control characters as escapes (terminal.py).
"""

import sys
import textwrap

from infra.charts import SHARE, charts_of, is_number, measures_of
from infra.terminal import echo, visible

BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
CURVE_WIDTH = 40   # characters
WIDTH = 100        # of a line
SHOWN = 4          # responses of the group
# (metric, what it may equal at all steps, in words, as a function of a line of metrics)
REPEATED = (("correct", "accuracy", lambda line: line["accuracy"]),
            ("zero_std_groups", "1 - groups_with_gradient",
             lambda line: 1 - line["groups_with_gradient"]))
LEGEND = (
    "Each curve has a scale of its own. A gap is a step without a value. accuracy: training "
    "problems, sampled at --temperature. eval_accuracy: held-out problems, greedy, at evaluations "
    "alone. runs_on: responses that go on after </answer>. no_verdict: responses that the verifier "
    "cannot decide. reward_advantage: correlation of reward and advantage. entropy, kl, approx_kl, "
    "logp_diff: nats (1.44 bits) per token. docs/metrics.md explains all.")


def show(run, command: str, key_settings: str, diagnoses: dict) -> None:
    """Prints a run: its settings, the diagnoses, before and after, the curves and one group.
    command, key_settings: as report.py makes them. diagnoses: {rule: (step, sentence)}."""
    options, summary = run.options, run.summary
    steps = run.metrics[-1]["step"] if run.metrics else 0
    state = (f"{summary['seconds_total']:.0f} s" if "seconds_total" in summary
             else "not ended")
    echo(f"\n{run.folder}: {options.get('algo')}, {options.get('task')}, seed "
         f"{options.get('seed')}, {steps} steps, {state}")
    echo(f"  {command}")
    if key_settings:
        echo(f"  {key_settings}")
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
    if run.metrics:
        show_curves(run)
    show_group(run.groups)


def with_interval(row: dict, when: str) -> str:
    """A measurement as text, with its interval if it has one."""
    value, ci = row[when], row.get(f"ci_{when}")
    if value is None:
        return "none"
    if row["unit"] != SHARE:
        return f"{value:.1f}"
    return f"{value:.1%}" + (f" [{ci[0]:.1%}, {ci[1]:.1%}]" if ci else "")


def show_curves(run) -> None:
    """Prints the curves of all metrics, the seconds last, and what the names mean."""
    steps = f"steps {run.metrics[0]['step']} to {run.metrics[-1]['step']}"
    columns = " ".join(f"{title:>8}" for title in ("first", "last", "lowest", "highest"))
    echo(f"\n{'Curves, ' + steps:{CURVE_WIDTH + 25}}{columns}")
    shown = [(series["name"], chart["unit"]) for chart in charts_of([run])
             for series in chart["series"]]
    repeated = {name: words for name, words, value in REPEATED if equals(run.metrics, name, value)}
    for name, unit in sorted(shown, key=lambda curve: curve[0].startswith("seconds_")):
        if name in repeated:
            echo(f"  {name:22} = {repeated[name]}")
        else:
            show_curve(run.metrics, name, unit)
    echo(textwrap.fill(LEGEND, WIDTH, initial_indent="  ", subsequent_indent="  "))


def equals(metrics: list[dict], name: str, value) -> bool:
    """Whether a metric equals value(line) at each step."""
    try:
        return all(abs(line[name] - value(line)) < 1e-9 for line in metrics)
    except (KeyError, TypeError):  # a value is missing, or is no number
        return False


def show_curve(metrics: list[dict], name: str, unit: str) -> None:
    """Prints a metric as a line of blocks, with its first, last, lowest and highest value."""
    found = [line[name] if is_number(line.get(name)) else None for line in metrics]
    values = [value for value in found if value is not None]
    counts = all(isinstance(value, int) for value in values)
    form = "{:8.1%}" if unit == SHARE else "{:8d}" if counts else "{:8.3g}"
    echo(f"  {name:22.22} {sparkline(found):{CURVE_WIDTH}}"
         + " ".join(form.format(v) for v in (values[0], values[-1], min(values), max(values))))


def sparkline(values: list[float | None]) -> str:
    """Values as blocks of eight heights, CURVE_WIDTH at most: each block is the mean of its share
    of the values, and a space where all of them are None. ASCII where the terminal cannot print
    the blocks."""
    n = min(CURVE_WIDTH, len(values))
    cuts = [len(values) * i // n for i in range(n + 1)]
    shares = [[v for v in values[a:b] if v is not None]
              for a, b in zip(cuts, cuts[1:], strict=False)]
    means = [sum(share) / len(share) if share else None for share in shares]
    low = min(v for v in means if v is not None)
    high = max(v for v in means if v is not None)
    blocks = BLOCKS
    try:
        BLOCKS.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        blocks = ASCII_BLOCKS
    scale = 7 / (high - low) if high > low else 0
    return "".join(" " if v is None else blocks[round(scale * (v - low))] for v in means)


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
                 if is_number(response.get(name))]
        ending = ["cut off"] if response.get("truncated") else []
        echo("  " + ", ".join(facts + ending))
        echo(textwrap.indent(visible(response["text"]), "    | ", lambda line: True))
        if response.get("words"):
            echo(textwrap.indent(f"judge: {visible(response['words'])}", "      "))
