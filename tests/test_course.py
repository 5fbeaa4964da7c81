"""docs/course.md: a function whose body is blank fails the tests that grade it."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The code of a function is replaced in place, so that it is blank wherever it has been imported.
SCRIPT = """
import functools, importlib, inspect, sys, pytest

def blank(*given, **named):
    raise NotImplementedError("this is the exercise")

for module, name, graded_by in (row.split() for row in sys.argv[1:]):
    function = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    function = inspect.unwrap(function)  # without the decorator torch.inference_mode
    code, function.__code__ = function.__code__, blank.__code__
    ended = pytest.main(["-qx", "--no-header", "-p", "no:cacheprovider", graded_by])
    print("graded", f"{module}.{name}", int(ended))
    function.__code__ = code
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
