"""Writes course/checks/fingerprints.json, from the true functions and the mutants.

    python course/answers/fingerprints.py

Run it after a change of an exercise's function, of its inputs in course/checks/, or of a mutant.
tests/test_course.py fails until then.
"""

import json
import sys

from variants import EXERCISES, ROOT, compiled, messages_of, mutants, true_source  # isort: skip
from checks import outputs

FILE = ROOT / "course" / "checks" / "fingerprints.json"


def outputs_of(exercise, function) -> list[tuple]:
    """The salt and the output of each input."""
    return [(f"{exercise.name} {i}", message["output"])
            for i, message in enumerate(messages_of(exercise, function))]


def fingerprints_of(exercise) -> dict:
    """{"cases": one per input, "mutants": the same of each mistake, None where it is right}."""
    true = compiled(exercise, true_source(exercise))
    right = [outputs.prints(*output) for output in outputs_of(exercise, true)]

    def cases(function):
        return [outputs.prints(*output)
                if outputs.first_difference(outputs.hashed(*output), case) else None
                for output, case in zip(outputs_of(exercise, function), right, strict=True)]
    return {"cases": right, "mutants": [{"message": message, "cases": cases(function)}
                                        for message, function in mutants(exercise)]}


def as_text(found: dict) -> str:
    """JSON with one exercise per line."""
    lines = [f"{json.dumps(name)}: {json.dumps(found[name])}" for name in found]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    FILE.write_text(as_text({e.name: fingerprints_of(e) for e in EXERCISES}), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
