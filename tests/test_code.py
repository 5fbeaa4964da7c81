"""tasks/code.py: description, program and expected values of a specification agree."""

import random

import pytest

import tasks
from tasks import code

LEVELS = pytest.mark.parametrize("level", [1, 2])


def specs(level, n=400):
    rng = random.Random(level)
    return [code.sample_spec(rng, level) for _ in range(n)]


def function(text):
    """Only the test may run a program as it is: it wrote the text itself."""
    space = {}
    exec(text, space)
    return space["f"]


@LEVELS
def test_the_program_does_what_is_expected(level):
    for spec in specs(level):
        made = function(code.program(spec))
        for args, expected in code.unit_tests(spec, random.Random(0)):
            assert made(*args) == expected, (spec, code.program(spec))


@LEVELS
def test_a_program_without_brackets_is_often_wrong(level):
    wrong = 0
    for spec in specs(level):
        made = function(code.program(spec, brackets=False))
        wrong += any(made(*args) != expected
                     for args, expected in code.unit_tests(spec, random.Random(0)))
    assert 0.05 < wrong / 400 < 0.6


def test_the_example_of_the_docstring():
    spec = (None, (("plus", 3), ("times", 2)), None)
    assert code.describe(spec) == "f(x): plus 3, times 2"
    assert code.expression_lines(spec) == ["x+3", "(x+3)*2"]
    assert code.program(spec) == "def f(x): return (x+3)*2"
    assert code.program(spec, brackets=False) == "def f(x): return x+3*2"


@LEVELS
def test_a_question_has_one_meaning(level):
    """And the tests of a problem are the same whenever it is drawn."""
    found = {}
    for p in tasks.Code(level).sample(random.Random(0), 500):
        assert found.setdefault(p.question, (p.answer, p.tests)) == (p.answer, p.tests)
    assert len(found) > 100


def test_the_verifier_runs_programs_in_the_sandbox():
    problem = tasks.Code(2).sample(random.Random(3), 1)[0]
    says = "<think>t</think><answer>{}</answer>".format
    assert tasks.Code.correct(problem, says(problem.answer))
    for bad in ("", "def f(x): return 10**6", "def f(*x): raise SystemExit", "f = 5", "def f(",
                "class E(int):\n def __eq__(s, o): return True\ndef f(*x): return E()",
                "import os; os._exit(0)"):
        assert not tasks.Code.correct(problem, says(bad))
    assert not tasks.Code.correct(problem, problem.answer)  # no tags
