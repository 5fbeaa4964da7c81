"""The files of a run as plain Python objects, for the programs that show a run (report.py).

A run may still be going on: summary.json is missing and the last line of a log is half written.
A run may also be old: metrics.jsonl alone, or samples.jsonl without groups. So everything but
config.json may be missing, and a line that cannot be read is left out and counted.
Left out on purpose: checkpoints, and everything else that needs torch.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

from infra.files import UserError, read_json

OLD_SAMPLE = ("step", "question", "text", "reward")  # the other keys of an old line are parts


class RunFiles(NamedTuple):
    """What a run has written so far. Numbers that are not finite are None."""

    folder: Path
    options: dict         # config.json
    metrics: list[dict]   # metrics.jsonl
    groups: list[dict]    # the groups of samples.jsonl
    held_out: list[dict]  # the held-out answers of samples.jsonl
    summary: dict         # summary.json; {} for a run that has not ended
    notes: list[str]      # what could not be read


def read_run(folder) -> RunFiles:
    """The files of a run's folder. Raises UserError for a folder that holds no run, and for a
    config.json or a summary.json that is damaged."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder of a run; train.py makes one")
    options, notes = read_json(folder / "config.json"), []
    metrics = read_lines(folder / "metrics.jsonl", notes)
    samples = read_lines(folder / "samples.jsonl", notes)
    path = folder / "summary.json"
    summary = finite(read_json(path)) if path.exists() else {}
    groups = [line for line in samples
              if line.get("kind") == "group" and is_group(line)]
    groups += [old_group(line) for line in samples if "kind" not in line and "text" in line]
    held_out = [line for line in samples if line.get("kind") == "held-out"]
    return RunFiles(folder, finite(options), metrics, groups, held_out, summary, notes)


def read_lines(path: Path, notes: list[str]) -> list[dict]:
    """The objects with a whole-numbered "step" in a JSONL log; [] without the file. Other lines are
    left out, and counted in `notes`, except a last line that is still being written."""
    if not path.exists():
        return []
    found, damaged, text = [], 0, path.read_bytes()
    for line in text.splitlines(keepends=True):
        try:
            content = json.loads(line, parse_constant=lambda name: None)  # NaN, Infinity
            if type(content["step"]) is not int:
                raise ValueError("no step")
            found.append(content)
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged += line.endswith(b"\n")
    if damaged:
        notes.append(f"{path.name}: {damaged} damaged line{'s' * (damaged > 1)} left out")
    return found


def finite(value):
    """A JSON value in which each number that is not finite is None: JSON has no word for it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return value


def is_group(line: dict) -> bool:
    """Whether a line has what a group must have: a question, and responses with a text each."""
    responses = line.get("responses")
    return isinstance(line.get("question"), str) and isinstance(responses, list) and all(
        isinstance(r, dict) and isinstance(r.get("text"), str)
        and type(r.get("reward")) in (int, float, type(None)) for r in responses)


def old_group(line: dict) -> dict:
    """A line of an old samples.jsonl, which holds one response, as a group of one."""
    parts = {key: value for key, value in line.items() if key not in OLD_SAMPLE}
    return {"step": line["step"], "question": str(line.get("question", "")), "answer": "",
            "dropped": "", "responses": [
                {"text": str(line["text"]), "reward": line.get("reward"), "parts": parts}]}
