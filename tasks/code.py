"""Task code: write a Python function from a description; the verifier runs six unit tests.

A specification is a list of steps. On an integer x, each step changes x. On a tuple a, a condition
keeps some numbers, each of these is changed, and the rest becomes one number. The description is
read from left to right, so the program needs brackets where Python's precedence is different:

    "f(x): plus 3, times 2"  ->  x+3, (x+3)*2  ->  def f(x): return (x+3)*2

Left out on purpose: loops, conditions, strings, programs of several lines.
"""

import random
import re
from functools import lru_cache

import verify
from grading import sandbox
from grading.expression import calculate
from tasks.base import Problem, Task

CHANGES = {"plus": "+", "minus": "-", "times": "*"}
CONDITIONS = {"above": ">", "below": "<"}
REDUCTIONS = {"total": "sum", "count": "len"}


class Code(Task):
    """Level 1 has one or two steps on an integer; level 2 up to three, or a tuple."""

    levels = range(1, 3)
    working = re.compile(r"\bx\W*[-+*]|\bfor x in\b")  # the expression so far, such as (x+3)*2

    def sample_problem(self, rng, held_out):
        spec = sample_spec(rng, self.level)
        question = describe(spec)
        return Problem(question, program(spec), quick_answer=program(spec, brackets=False),
                       solution="\n".join(expression_lines(spec)),
                       tests=unit_tests(spec, random.Random(question)))

    @staticmethod
    def correct(problem, text: str) -> bool:
        """Whether the answer is a program that passes all of the problem's unit tests in the
        sandbox, within a second."""
        answer = verify.extract(text)
        return answer is not None and passes_tests(answer, problem.tests)

    def write_solution(self, rng, problem, style, wrong, drill=False):
        """Outside the drill, wrong and direct documents forget the brackets."""
        lines, answer = super().write_solution(rng, problem, style, wrong, drill)
        quick = not drill and (wrong or style == "direct")
        return lines, problem.quick_answer if quick else answer


@lru_cache(maxsize=2**16)
def passes_tests(answer: str, tests: tuple) -> bool:
    return sandbox.passes(answer, "f", tests, seconds=1.0)


# --- specifications: (condition or None, changes, reduction or None)

def sample_spec(rng, level: int):
    """A random specification. The reduction is None for a function of an integer."""
    def change():
        return rng.choice(list(CHANGES)), rng.randint(2, 9)
    if level == 1 or rng.random() < 0.5:
        return None, tuple(change() for _ in range(rng.randint(1, level + 1))), None
    condition = rng.choice([("above", rng.randint(0, 9)), ("below", rng.randint(0, 9)), None])
    changes = tuple(change() for _ in range(rng.randint(1, 2)))
    return condition, changes, rng.choice(list(REDUCTIONS))


def describe(spec) -> str:
    """The specification in words, which is the question."""
    condition, changes, reduction = spec
    words = [f"{name} {k}" for name, k in ([condition] if condition else []) + list(changes)]
    return (f"f({'a' if reduction else 'x'}): "
            + ", ".join(words + ([reduction] if reduction else [])))


def expression_lines(spec, brackets: bool = True) -> list[str]:
    """The function's expression after each step; the last line is the whole of it. Without
    brackets it is the expression of a reader in a hurry, who forgets Python's precedence."""
    condition, changes, reduction = spec
    lines, ends_in_sum = ["x"], False  # a product after a sum needs brackets
    for name, k in changes:
        before = f"({lines[-1]})" if brackets and ends_in_sum and name == "times" else lines[-1]
        ends_in_sum = name != "times"
        lines.append(f"{before}{CHANGES[name]}{k}")
    if reduction:
        suffix = f" if x{CONDITIONS[condition[0]]}{condition[1]}" if condition else ""
        lines.append(f"[{lines[-1]} for x in a{suffix}]")
        lines.append(f"{REDUCTIONS[reduction]}({lines[-1]})")
    return lines[1:]


def program(spec, brackets: bool = True) -> str:
    return f"def f({'a' if spec[2] else 'x'}): return {expression_lines(spec, brackets)[-1]}"


def expected_value(spec, argument):
    """The value of the function for an integer, or for a tuple of integers."""
    condition, changes, reduction = spec

    def changed(x):
        for name, k in changes:
            x = calculate(x, CHANGES[name], k)
        return x
    if not reduction:
        return changed(argument)
    kept = [x for x in argument
            if not condition or (x > condition[1] if condition[0] == "above" else x < condition[1])]
    return {"total": sum, "count": len}[reduction]([changed(x) for x in kept])


def unit_tests(spec, rng) -> tuple:
    """Six calls with their values: ((arguments), expected)."""
    def argument():
        if spec[2]:
            return tuple(rng.randint(-9, 20) for _ in range(rng.randint(0, 6)))
        return rng.randint(-9, 20)
    arguments = [argument() for _ in range(6)]
    return tuple(((x,), expected_value(spec, x)) for x in arguments)
