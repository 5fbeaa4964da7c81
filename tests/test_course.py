"""docs/course.md: a function whose body is blank fails the tests that grade it. A right solution
that is written in another way passes them.
"""

import re
import subprocess
import sys
from pathlib import Path

from solutions import SOLUTIONS

ROOT = Path(__file__).parents[1]
# Collects a file of tests once, then runs it for each of its exercises until the first test fails.
# The code of a function is replaced in place, so that it is blank wherever it has been imported.
SCRIPT = """
import functools, importlib, inspect, sys, pytest
from _pytest.runner import runtestprotocol

def blank(*given, **named):
    raise NotImplementedError("this is the exercise")

class Grader:
    def __init__(self, exercises):
        self.exercises = exercises

    def pytest_runtestloop(self, session):
        for module, name in self.exercises:
            function = functools.reduce(getattr, name.split("."), importlib.import_module(module))
            function = inspect.unwrap(function)  # without the decorator torch.inference_mode
            last_name = name.split(".")[-1]      # the tests that name the function come first
            tests = sorted(session.items,
                           key=lambda test: last_name not in inspect.getsource(test.function))
            code, function.__code__ = function.__code__, blank.__code__
            failed = any(report.failed for test in tests
                         for report in runtestprotocol(test, nextitem=None, log=False))
            print("graded", f"{module}.{name}", int(failed))
            function.__code__ = code
        return True

exercises = {}
for row in sys.argv[1:]:
    *exercise, graded_by = row.split()
    exercises.setdefault(graded_by, []).append(exercise)
for graded_by, found in exercises.items():
    pytest.main(["-qs", "--no-header", "-p", "no:cacheprovider", "-n0", "-m",
                 "not exact", graded_by],
                plugins=[Grader(found)])
"""
SOLVE = """
import importlib, inspect, sys, pytest
sys.path.insert(0, "tests")
from solutions import SOLUTIONS

for module, functions in SOLUTIONS.items():
    for solution in functions:
        function = inspect.unwrap(getattr(importlib.import_module(module), solution.__name__))
        function.__code__ = solution.__code__
sys.exit(pytest.main(["-qx", "-p", "no:cacheprovider", "-n0", "-m", "not exact", *sys.argv[1:]]))
"""


def exercises() -> list[tuple[str, str, str]]:
    """Module, function and test file of each function in the table."""
    page = (ROOT / "docs" / "course.md").read_text()
    rows = re.findall(r"^\| `([\w/]+)\.py` \| (.*?) \| `(tests/\w+\.py)` \|$", page, re.M)
    return [(path.replace("/", "."), name, graded_by) for path, names, graded_by in rows
            for name in re.findall(r"`([\w.]+)`", names)]


def test_a_blank_body_fails_its_tests():
    wanted = exercises()
    assert len(wanted) > 20
    done = subprocess.run([sys.executable, "-c", SCRIPT, *map(" ".join, wanted)], cwd=ROOT,
                          capture_output=True, text=True)
    graded = dict(re.findall(r"^graded (\S+) (\d+)$", done.stdout, re.M))
    assert graded == {f"{module}.{name}": "1" for module, name, _ in wanted}, done.stderr


def test_a_right_solution_that_is_written_otherwise_passes():
    """In the textbook's float32, and with messages of its own."""
    rows = {f"{module}.{name}": graded_by for module, name, graded_by in exercises()}
    solved = [f"{module}.{f.__name__}" for module, found in SOLUTIONS.items() for f in found]
    files = sorted({rows[name] for name in solved})
    done = subprocess.run([sys.executable, "-c", SOLVE, *files], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
