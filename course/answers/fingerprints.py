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


def prints_of(exercise, function) -> list[dict]:
    return [outputs.prints(f"{exercise.name} {i}", message["output"])
            for i, message in enumerate(messages_of(exercise, function))]


def fingerprints_of(exercise) -> dict:
    """{"cases": one per input, "mutants": the same of each mistake, None where it is right}."""
    right = prints_of(exercise, compiled(exercise, true_source(exercise)))
    found = []
    for message, function in mutants(exercise):
        cases = zip(prints_of(exercise, function), right, strict=True)
        found.append({"message": message,
                      "cases": [None if own == other else own for own, other in cases]})
    return {"cases": right, "mutants": found}


def as_text(found: dict) -> str:
    """JSON with one exercise per line."""
    lines = [f"{json.dumps(name)}: {json.dumps(found[name])}" for name in found]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    FILE.write_text(as_text({e.name: fingerprints_of(e) for e in EXERCISES}), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
