"""Other versions of an exercise's function: mistakes (mutants/) and further solutions (solutions/).

A mistake is the true source text with pieces replaced. A version is compiled with the names of the
function's own module, so it runs as if it stood there.
"""

import ast
import importlib
import inspect
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "course")]

from blank import find  # noqa: E402
from checks.child import load, run  # noqa: E402
from exercises import EXERCISES, PARTS  # noqa: E402, F401
from grade import checked  # noqa: E402

CHECKS = {part: load(ROOT / f"course/checks/part{part}.py").CHECKS for part in PARTS}


def true_source(exercise) -> str:
    """The text of the exercise's function, with its table if it has one."""
    text = (ROOT / exercise.file).read_text("utf-8")
    tree, lines = ast.parse(text), text.splitlines(keepends=True)
    pieces = []
    for name in (exercise.table, exercise.function):
        if name:
            node = find(tree, name)
            decorators = getattr(node, "decorator_list", [])
            start = min([node.lineno, *(d.lineno for d in decorators)])
            pieces.append(textwrap.dedent("".join(lines[start - 1:node.end_lineno])))
    return "\n\n".join(pieces)


def compiled(exercise, source: str, name: str = "", more: dict | None = None):
    """The function `name` that the source text defines, with the names of the exercise's module,
    and with `more` names."""
    names = (more or {}) | vars(importlib.import_module(exercise.module))
    exec(compile(source, f"<{exercise.name}>", "exec"), names)
    return names[name or exercise.short]


def mutated(exercise, edits):
    """The function with pieces of its source replaced: edits = old, new, old, new, ..."""
    source = true_source(exercise)
    for old, new in zip(edits[::2], edits[1::2], strict=True):
        if source.count(old) != 1:
            raise ValueError(f"{exercise.name}: {source.count(old)} times in the source: {old!r}")
        source = source.replace(old, new)
    return compiled(exercise, source)


def mutants(exercise) -> list[tuple]:
    """(message, function) of each common mistake."""
    table = load(ROOT / f"course/answers/mutants/part{exercise.part}.py").MUTANTS
    return [(message, mutated(exercise, edits)) for message, *edits in table[exercise.function]]


def solutions(exercise) -> list:
    """Right functions that are written otherwise than the true one."""
    file = vars(load(ROOT / f"course/answers/solutions/part{exercise.part}.py"))
    return [compiled(exercise, inspect.getsource(f), f.__name__, file)
            for f in file["SOLUTIONS"][exercise.function]]


def messages_of(exercise, function) -> list[dict]:
    """What the student's process would send about the function."""
    return [checked(run(case)) for case in CHECKS[exercise.part][exercise.function](function)]
