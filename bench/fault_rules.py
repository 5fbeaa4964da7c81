"""Judges how a command handled damaged input, for bench/faults.py.

It may refuse the input: exit code 2, and one sentence that begins with the program's name. Or it
may do its work: exit code 0, and a valid output. Valid is JSON without NaN, proportions from 0 to
1, and text without control characters.
"""

import json
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path

from infra import checkpoint

VERDICTS = {"right", "wrong", "cannot tell"}
INTERNAL = re.compile(r"(?<![-\w])(?:group_size|max_new_tokens|top_k|top_p|eval_problems|"
                      r"NoneType|object has no|object is not|unsupported operand|not subscriptable|"
                      r"not iterable|unhashable|indices must be|expected str|_io\.)")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
COLOUR = re.compile(r"\x1b\[\d+m")       # of search.py --show
PROGRESS = re.compile(r"\d+%\||\?step|step/s")


@dataclass
class Case:
    """One damaged command and its outcome."""

    number: int
    entry: str
    argv: list[str]
    damage: list[str] = field(default_factory=list)  # of files and folders, in words
    fault: str = ""
    code: int | None = None
    said: str = ""   # the last line on stderr


def judge(case: Case, folder: Path, out: str, err: str) -> str:
    """The fault of an outcome, in a few words; "" for none."""
    # 1. any exit code
    if case.code < 0:
        return "hang" if case.code == -signal.SIGALRM else f"killed by signal {-case.code}"
    if case.code == 70 or "Traceback" in err:
        return "traceback"
    if "Warning:" in err:
        return "a warning of a library"
    if CONTROL.search(COLOUR.sub("", out).replace("\t", "")) or CONTROL.search(
            "".join(line for line in err.split("\n") if not PROGRESS.search(line))):
        return "a control character reaches the terminal"
    # 2. an exit code other than that of a refusal
    if case.code == 0:
        return output_fault(case, folder, out)
    if case.entry == "verify.py" and case.code == 1:  # some gold was not understood
        return ""
    if case.code != 2:
        return f"exit code {case.code}"
    # 3. the sentence of a refusal
    said = [line for line in err.splitlines() if line.strip() and not PROGRESS.search(line)]
    if not said or not said[-1].startswith(f"{case.entry}: "):
        return "no sentence of the program"
    if case.entry != "verify.py" and (  # which has a sentence for each gold that cannot be read
            sum(line.startswith(f"{case.entry}: ") for line in said) != 1 or len(said) > 2):
        return "several sentences"
    if len(said[-1]) > 3000:  # 600 characters, where each is an escape
        return "a very long sentence"
    if ".json" not in said[-1] and INTERNAL.search(said[-1]):
        return "a message names no flag"
    return ""


def output_fault(case: Case, folder: Path, out: str) -> str:
    """The fault in the output of a command with exit code 0; "" for none."""
    if "-h" in case.argv or "--help" in case.argv:
        return ""
    try:
        if case.entry == "train.py":
            run_folder = folder / (value_of(case.argv, "--out", "") or newest_run(folder))
            check_numbers(strict((run_folder / "summary.json").read_text()))
            log = run_folder / "metrics.jsonl"  # none with --steps 0
            if "--resume" not in case.argv and log.exists():  # else it may be the damaged file
                for line in log.read_text().splitlines():
                    check_numbers(strict(line))
        elif case.entry in ("search.py", "prm.py") or "--problems" in " ".join(case.argv):
            check_numbers(strict(out.splitlines()[-1]))
        elif case.entry == "infra.checkpoint":
            checkpoint.load_pretrained(folder / value_of(case.argv, "--out", ""))
        elif case.entry == "verify.py" and not set(out.splitlines()) <= VERDICTS:
            return "a line that is no verdict"
    except (ValueError, OSError, IndexError, KeyError) as error:
        return f"invalid output with exit code 0: {error}"
    return ""


def value_of(argv: list[str], name: str, default: str) -> str:
    """The last value of a flag in a command line."""
    value = default
    for i, word in enumerate(argv):
        if word == name and i + 1 < len(argv):
            value = argv[i + 1]
        elif word.startswith(name + "="):
            value = word.partition("=")[2]
    return value


def newest_run(folder: Path) -> Path:
    """The run folder whose config.json is the newest."""
    return max(folder.glob("runs/*/config.json"), key=lambda path: path.stat().st_mtime).parent


def strict(text: str):
    """The value of a JSON text. Raises ValueError for NaN and Infinity too."""
    def refuse(name):
        raise ValueError(f"{name} in the output")
    return json.loads(text, parse_constant=refuse)


def check_numbers(result: dict) -> None:
    """Raises ValueError for an accuracy outside 0 and 1."""
    for name, value in result.items():
        if name.startswith("accuracy") and isinstance(value, float) and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}")
