"""Grades the exercises in a student's folder: points, or a message that says what is wrong.

    python course/grade.py                 all parts of the folder that this file is in
    python course/grade.py 4               part 4
    python course/grade.py gae whiten      two exercises
    python course/grade.py --folder DIR    another folder: the lecturer's own grader
    python course/grade.py --json FILE     also writes a results.json for Gradescope

The student's code runs in a process of its own, one per part (checks/child.py). It receives inputs
and sends outputs back. This process compares them with checks/fingerprints.json, so the code never
meets an answer or the comparison (judge.py). Format of the JSON file:
gradescope-autograders.readthedocs.io/en/latest/specs. Left out on purpose: points for half of the
inputs; a network or file sandbox (a lecturer's machine should run it in a container).
"""

import argparse
import difflib
import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from exercises import DIAGNOSIS, EXERCISES, PARTS
from judge import judge

COURSE = Path(__file__).resolve().parent
START_SECONDS = 300  # for importing PyTorch on a busy machine
WIDTH = 96
CHOICES = [str(part) for part in PARTS] + [e.short for e in EXERCISES]
TEXTS = ("input", "error", "text", "place", "fatal", "changed")  # fields of a message


@dataclass
class Result:
    part: int
    name: str
    points: int
    max_points: int
    message: str = ""


# --- the student's process

class Child:
    """A process that runs the student's functions of a part."""

    def __init__(self, folder: Path, part: int):
        checks = COURSE / "checks"
        self.process = subprocess.Popen(
            [sys.executable, "-B", str(checks / "child.py"), str(folder),
             str(checks / f"part{part}.py")], cwd=folder, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=os.name == "posix")
        self.messages = queue.Queue(maxsize=100)
        threading.Thread(target=self.read, daemon=True).start()
        self.alive = "ready" in self.next(time.monotonic() + START_SECONDS)

    def read(self) -> None:
        """Puts all messages into the queue; after the last one, or an unreadable one, None."""
        try:
            while length := self.process.stdout.read(8):
                if int(length, 16) > 2**22:
                    break
                self.messages.put(json.loads(self.process.stdout.read(int(length, 16))))
        except (ValueError, RecursionError):
            pass
        self.messages.put(None)

    def next(self, deadline: float) -> dict:
        """The next message, or {"ended": why}."""
        try:
            message = self.messages.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return {"ended": "time"}
        return message if isinstance(message, dict) else {"ended": "exit"}

    def ask(self, exercise, seconds: float) -> list[dict]:
        """The messages about a function, one per input. The last one may have "ended"."""
        if not self.alive:
            return [{"ended": "start"}]
        question = json.dumps({"module": exercise.module, "function": exercise.function})
        try:
            self.process.stdin.write(question.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return [{"ended": "exit"}]
        deadline, found, begins = time.monotonic() + seconds, [], ""
        while True:
            message = self.next(deadline)
            if "done" in message:
                return found
            if "ended" in message:
                self.alive = False
                return [*found, message | {"input": begins, "seconds": seconds}]
            if "begins" in message:
                begins = message["begins"]
            else:
                found.append(checked(message))

    def close(self) -> None:
        """Ends the process and all that it has started."""
        try:
            if os.name == "posix":
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        except ProcessLookupError:
            pass
        self.process.wait()


def checked(message: dict) -> dict:
    """The fields of a message that are known; the student's code may have sent any JSON."""
    texts = {name: str(message[name])[:500] for name in TEXTS if message.get(name)}
    return {"output": message.get("output"), "input": "", "text": "", "place": ""} | texts


# --- all exercises

def grade_part(part: int, exercises, folder: Path, seconds: float, stored: dict) -> list[Result]:
    """The results of exercises of one part."""
    results, child = [], None
    for exercise in exercises:
        if child is None or not child.alive:
            if child:
                child.close()
            child = Child(folder, part)
        message = judge(exercise, child.ask(exercise, seconds), stored[exercise.name])
        results.append(Result(part, exercise.name, 0 if message else exercise.points,
                              exercise.points, message))
    if child:
        child.close()
    return results


def name_causes(results: list[Result]) -> None:
    """Adds to a wrong exercise which wrong ones it calls."""
    wrong = {result.name for result in results if result.message}
    for exercise in EXERCISES:
        called = [e.name for e in EXERCISES if e.function in exercise.uses and e.name in wrong]
        for result in (r for r in results if r.message):
            if result.name == exercise.name and called and result.message != "not written yet":
                result.message += f". It calls {called[0]}, which is not right yet: mend that first"


def seal(salt: str, run: str, cause: str) -> str:
    """The digest that stands for the cause of a run in course/broken/sealed.json. It hides a cause
    from readers, but not from those who try all names."""
    return hashlib.sha256(f"{salt} {run} {cause}".encode()).hexdigest()


def grade_diagnosis(folder: Path) -> list[Result]:
    """A point for each broken run whose cause answers.json names: {"run-01": name, ...}."""
    broken = COURSE / "broken"
    if not (broken / "sealed.json").exists():
        return []
    sealed = json.loads((broken / "sealed.json").read_text("utf-8"))
    causes = json.loads((broken / "causes.json").read_text("utf-8"))
    runs = sorted(sealed.keys() - {"salt"})[:DIAGNOSIS]
    try:
        answers = dict(json.loads((folder / "answers.json").read_text("utf-8")))
        trouble = f"of the answers, {', '.join(sorted(answers.keys() - set(runs)))} is no run" \
            if answers.keys() - set(runs) else ""
    except FileNotFoundError:
        answers, trouble = {}, 'there is no answers.json; it holds {"run-01": "a cause", ...}'
    except (ValueError, TypeError) as error:
        answers, trouble = {}, f"answers.json is no JSON object: {error}"
    results = []
    for run in runs:
        answer = answers.get(run)
        near = "".join(difflib.get_close_matches(str(answer), causes, 1))
        if seal(sealed["salt"], run, answer) == sealed[run]:
            message = ""
        elif answer is None:
            message = trouble or "no answer yet"
            trouble = ""  # once is enough
        elif answer not in causes:
            message = f"{answer!r} is no name in course/broken/causes.json" \
                + f"; is it {near}?" * bool(near)
        else:
            message = ("not this cause. Compare its step 1 with that of healthy (metrics.jsonl), "
                       "then read samples.jsonl")
        results.append(Result(6, f"diagnosis {run}", int(not message), 1, message))
    return results


def grade(folder: Path, wanted=CHOICES, seconds: float = 60.0) -> list[Result]:
    """The results of exercises. wanted: numbers of parts and names of functions, as texts."""
    stored = json.loads((COURSE / "checks" / "fingerprints.json").read_text("utf-8"))
    results = []
    for part in PARTS:
        exercises = [e for e in EXERCISES if e.part == part
                     and {str(part), e.function, e.short} & set(wanted)]
        results += grade_part(part, exercises, folder.resolve(), seconds, stored)
    name_causes(results)
    return results + (grade_diagnosis(folder) if "6" in wanted else [])


def gradescope(results: list[Result], seconds: float) -> dict:
    """The content of a results.json."""
    return {"score": sum(r.points for r in results), "execution_time": round(seconds),
            "tests": [{"name": r.name, "number": str(r.part), "score": r.points,
                       "max_score": r.max_points, "output": r.message or "right",
                       "status": "failed" if r.message else "passed"} for r in results]}


def show(results: list[Result]) -> None:
    for part in sorted({r.part for r in results}):
        print(f"part {part}")
        for r in (r for r in results if r.part == part):
            print(f"  {r.points}/{r.max_points}  {r.name}")
            if r.message:
                print(textwrap.fill(r.message, WIDTH, initial_indent=" " * 7,
                                    subsequent_indent=" " * 7))
    print(f"{sum(r.points for r in results)} of {sum(r.max_points for r in results)} points")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("wanted", nargs="*", metavar="PART|FUNCTION", help="default: all parts")
    add("--folder", type=Path, default=COURSE.parent, help="the student's folder")
    add("--json", type=Path, metavar="FILE", help="write a results.json for Gradescope")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds for an exercise")
    args = parser.parse_args(argv)
    if unknown := set(args.wanted) - {*CHOICES, *(e.function for e in EXERCISES)}:
        parser.error(f"there is no part or exercise {', '.join(sorted(unknown))}; choose of "
                     f"{', '.join(CHOICES)}")
    if not args.folder.is_dir():
        parser.error(f"{args.folder} is not a folder")
    start = time.monotonic()
    results = grade(args.folder, args.wanted or CHOICES, args.timeout)
    show(results)
    if args.json:
        text = json.dumps(gradescope(results, time.monotonic() - start), indent=1)
        args.json.write_text(text + "\n", "utf-8")
    return int(any(r.message for r in results))


if __name__ == "__main__":
    sys.exit(main())
