"""docs/course.md: a function whose body is blank fails the tests that grade it. A right solution
that is written in another way passes them.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from solutions import SOLUTIONS

ROOT = Path(__file__).parents[1]
# Collects each file of tests once. For each exercise it runs them with a blank body until the first
# test fails. Those that name the function are also run with the solution of tests/solutions.py.
# The code of a function is replaced in place, so that it counts wherever it has been imported.
SCRIPT = """
import functools, importlib, inspect, sys, pytest
from _pytest.runner import runtestprotocol
sys.path.insert(0, "tests")
from solutions import SOLUTIONS

source_of = functools.cache(inspect.getsource)  # the cases of a test share its function

def blank(*given, **named):
    raise NotImplementedError("this is the exercise")

def fails(function, body, tests):
    code, function.__code__ = function.__code__, body.__code__
    failed = any(report.failed for test in tests
                 for report in runtestprotocol(test, nextitem=None, log=False))
    function.__code__ = code
    return int(failed)

class Grader:
    def __init__(self, exercises):
        self.exercises = exercises

    def pytest_runtestloop(self, session):
        for module, name in self.exercises:
            function = functools.reduce(getattr, name.split("."), importlib.import_module(module))
            function = inspect.unwrap(function)  # without the decorator torch.inference_mode
            last_name = name.split(".")[-1]
            named = [test for test in session.items if last_name in source_of(test.function)]
            tests = named + [test for test in session.items if test not in named]
            print("blank", f"{module}.{name}", fails(function, blank, tests))
            for solution in SOLUTIONS.get(module, ()):
                if solution.__name__ == name:
                    failed = fails(function, solution, named)
                    print("solved", f"{module}.{name}", failed, len(named))
        return True

exercises = {}
for row in sys.argv[1:]:
    *exercise, graded_by = row.split()
    exercises.setdefault(graded_by, []).append(exercise)
for graded_by, found in exercises.items():
    pytest.main(["-qs", "--no-header", "-p", "no:cacheprovider", "-n0", "-m", "not exact",
                 graded_by], plugins=[Grader(found)])
"""


def exercises() -> list[tuple[str, str, str]]:
    """Module, function and test file of each function in the table."""
    page = (ROOT / "docs" / "course.md").read_text()
    rows = re.findall(r"^\| `([\w/]+)\.py` \| (.*?) \| `(tests/\w+\.py)` \|$", page, re.M)
    return [(path.replace("/", "."), name, graded_by) for path, names, graded_by in rows
            for name in re.findall(r"`([\w.]+)`", names)]


@pytest.fixture(scope="module")
def graded():
    """The output of SCRIPT."""
    wanted = exercises()
    assert len(wanted) > 20
    return subprocess.run([sys.executable, "-c", SCRIPT, *map(" ".join, wanted)], cwd=ROOT,
                          capture_output=True, text=True).stdout


def test_a_blank_body_fails_its_tests(graded):
    found = dict(re.findall(r"^blank (\S+) (\d+)$", graded, re.M))
    assert found == {f"{module}.{name}": "1" for module, name, _ in exercises()}


def test_a_right_solution_that_is_written_otherwise_passes(graded):
    """In the textbook's float32, and with messages of its own."""
    found = re.findall(r"^solved (\S+) (\d+) (\d+)$", graded, re.M)
    assert sorted(name for name, *_ in found) == sorted(
        f"{module}.{f.__name__}" for module, functions in SOLUTIONS.items() for f in functions)
    assert not [name for name, failed, tests in found if failed != "0" or tests == "0"]
