"""Writes the repository for students: the bodies of exercises are removed, everything else works.

    python course/blank.py --part 4 --out DIR          part 4 is to be written, the others are there
    python course/blank.py --all --out DIR             all parts
    python course/blank.py --all --solutions --out DIR everything, for another lecturer

Signature, decorators and docstring of a function stay. Its body becomes `raise
NotImplementedError`. The lambdas of a table become `...`. Left out of the students' copy: the
lecturer's files (LECTURER), tests that hold a slow version of a removed function (ORACLES), and
lines of docs/ that quote removed code.
Left in on purpose: engine/, whose samplers (turns.py is the nearest), kernels and packed log-probs
compute the same in other ways, because training and recipes need them.
"""

import argparse
import ast
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

from exercises import EXERCISES, PARTS

ROOT = Path(__file__).parents[1]
CACHES = ("runs", "data", ".*", "*.pyc", "__pycache__", "venv")  # without git: not in the copy
LECTURER = ("course/answers/*", "course/broken.py", "course/README.md", "tests/test_course*.py")
ORACLES = {  # part -> test files, and the helpers in them that are solutions of the part
    3: {"tests/test_model.py": ["logp_loop"]},
    4: {"tests/test_ppo.py": ["surrogate_loop", "weights_loop"],
        "tests/test_grpo.py": ["advantages_loop"]},
    5: {"tests/test_ppo.py": ["gae_loop"]},
}
MIN_QUOTE = 20  # characters of a line of code that no page may quote
STUDENT_README = """# The course

Read [handout.md](handout.md), write the functions that raise `NotImplementedError`, and grade them:

    python course/grade.py 1        part 1; without a number all parts
"""


# --- removing code: functions from a text to a text

def body_lines(function: ast.FunctionDef) -> tuple[int, int]:
    """The first and the last line number of a function's body, without its docstring."""
    first = function.body[0]
    start = first.end_lineno + 1 if ast.get_docstring(function) else first.lineno
    return start, function.end_lineno


def find(tree: ast.Module, name: str):
    """The function "f" or the method "Class.f" of a module, or the assignment to a name."""
    *classes, last = name.split(".")
    nodes = tree.body
    for one in classes:
        nodes = next(n.body for n in nodes if isinstance(n, ast.ClassDef) and n.name == one)
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name == last:
            return node
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == last:
            return node
    raise ValueError(f"there is no {name} in the file: mend course/exercises.py")


def without_body(text: str, exercise) -> str:
    """The text of a module in which the body of the exercise's function is removed."""
    function = find(ast.parse(text), exercise.function)
    start, end = body_lines(function)
    indent = " " * function.body[0].col_offset
    lines = text.splitlines(keepends=True)
    lines[start - 1:end] = [f'{indent}raise NotImplementedError('
                            f'"part {exercise.part}: {exercise.name}")\n']
    return "".join(lines)


def without_lambdas(text: str, table: str) -> str:
    """The text of a module in which the lambdas of a dict are replaced by `...`."""
    lines = text.splitlines(keepends=True)
    for value in reversed(find(ast.parse(text), table).value.values):
        assert value.lineno == value.end_lineno  # a lambda is one line
        line = lines[value.lineno - 1].encode()  # ast counts bytes
        line = line[:value.col_offset] + b"..." + line[value.end_col_offset:]
        lines[value.lineno - 1] = line.decode()
    return "".join(lines)


def without_quotes(page: str, removed: set[str]) -> str:
    """The text of a page in which lines that quote removed code are replaced by `...`."""
    return "".join("...\n" if any(code in line for code in removed) else line
                   for line in page.splitlines(keepends=True))


def without_oracles(text: str, oracles: list[str]) -> str:
    """The text of a test file without some helpers, and without the tests that call them."""
    lines = text.splitlines(keepends=True)
    for node in reversed(ast.parse(text).body):
        if isinstance(node, ast.FunctionDef):
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {node.name}
            if names & set(oracles):
                start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                del lines[start - 1:node.end_lineno]
    return "".join(lines)


# --- the copy

def tracked_files() -> list[str]:
    """The repository's files, as git knows them; without git all files but caches."""
    if shutil.which("git"):
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True,
                                encoding="utf-8").stdout
        if listed:
            return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    names = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("*")) if path.is_file()]
    return [name.as_posix() for name in names
            if not any(fnmatch(piece, cache) for piece in name.parts for cache in CACHES)]


def blank(out: Path, parts: list[int], solutions: bool = False) -> None:
    """Copies the repository to the folder `out`, without the solutions of the parts."""
    for name in tracked_files():
        if solutions or not any(fnmatch(name, pattern) for pattern in LECTURER):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, out / name)
    if solutions:
        return
    removed = set()  # lines of code
    for exercise in EXERCISES:
        if exercise.part in parts:
            path = out / exercise.file
            text = path.read_text("utf-8")
            blanked = without_lambdas(text, exercise.table) if exercise.table \
                else without_body(text, exercise)
            path.write_text(blanked, "utf-8")
            removed |= set(map(str.strip, text.splitlines())) - set(
                map(str.strip, blanked.splitlines()))
    for part in parts:
        for name, oracles in ORACLES.get(part, {}).items():
            text = without_oracles((out / name).read_text("utf-8"), oracles)
            (out / name).write_text(text, "utf-8")
    removed = {code for code in removed if len(code) > MIN_QUOTE}
    for page in sorted((out / "docs").rglob("*.md")):
        page.write_text(without_quotes(page.read_text("utf-8"), removed), "utf-8")
    (out / "course" / "README.md").write_text(STUDENT_README, "utf-8")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--part", type=int, nargs="+", choices=PARTS, help="parts to be written")
    which.add_argument("--all", action="store_true", help="all parts")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--solutions", action="store_true", help="leave all solutions in")
    args = parser.parse_args(argv)
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"{args.out} is not empty; give a new folder")
    blank(args.out, PARTS if args.all else args.part, args.solutions)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
