"""Makes a notebook of each part of the handout: course/notebooks/part1.ipynb to part7.ipynb.

    python course/notebooks.py                        makes them; cells that have the same source as
                                                      before keep their outputs
    python course/notebooks.py --execute              executes them too, and keeps the outputs
    python course/notebooks.py --execute --short      tiny runs, to see that they work; the
                                                      outputs that are there stay

A block of Python becomes a code cell. A command becomes a call of `run`. All other text becomes
markdown. The first cell gets the repository and four packages where they are missing, as on a free
notebook service. Executing needs nbclient, nbformat and ipykernel (requirements-dev.txt). It works
in an empty folder, so it trains anew and leaves no run behind.
Left out on purpose: the exercises themselves; students write them in the files.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

COURSE = Path(__file__).parent
ROOT = COURSE.parent
sys.path.insert(0, str(ROOT))
from infra import arguments  # noqa: E402

REPOSITORY = "https://github.com/OWNER/REPOSITORY"  # of your copy; students must be able to read it
INSTALL = (f"!test -e ../../train.py -o -e laboratory || (git clone -q {REPOSITORY} laboratory && "
           "pip install -q torch tiktoken numpy tqdm)")
START = """import os
import sys

for folder in ("laboratory", "../.."):
    if not os.path.exists("train.py") and os.path.exists(folder + "/train.py"):
        os.chdir(folder)
sys.path.insert(0, os.getcwd())
from course.notebooks import run"""
FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n", re.M | re.S)
WORK, SHORT = "COURSE_WORK", "COURSE_SHORT"  # environment: folder of the runs; "1": tiny runs
SHORT_FLAGS = {
    "train.py": "--size nano --base-steps 60 --prompts 4 --group-size 4 --eval-problems 8 "
                "--eval-samples 4 --max-new-tokens 48",
    "prm.py": "--problems 8 --solutions 4 --completions 2 --epochs 1 --eval-problems 4",
    "search.py": "--count 4"}
SHORT_STEPS = "--steps 2"  # where the command trains at all
SHOWN = 2500  # characters of a command's output


# --- in a notebook

def run(command: str) -> None:
    """Runs a command of the handout, such as "python train.py --steps 0", and prints the end of its
    output. A run that is there already is kept. Raises RuntimeError where the command fails."""
    _, script, *flags = shlex.split(command)
    if os.environ.get(SHORT):
        flags += SHORT_FLAGS.get(script, "").split()
        flags += SHORT_STEPS.split() if script == "train.py" and "--steps 0" not in command else []
    done = subprocess.run([sys.executable, str(ROOT / script), *flags], text=True,
                          cwd=os.environ.get(WORK, ROOT), env=os.environ | {"TQDM_DISABLE": "1"},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout[-SHOWN:])
    if done.returncode and "already holds a run" not in done.stdout:
        raise RuntimeError(f"{command} ended with exit code {done.returncode}")


# --- making

def parts(handout: str) -> dict[int, str]:
    """{number: text} of the parts of a handout, each from its heading to the next one."""
    sections = re.split(r"^(?=## )", handout, flags=re.M)
    found = ((re.match(r"## Part (\d+)", section), section) for section in sections)
    return {int(match[1]): section for match, section in found if match}


def cells_of(text: str) -> list[tuple[str, str]]:
    """The cells of a part: ("markdown" or "code", source). Blocks of ```text stay markdown."""
    cells, end = [], 0

    def add(kind, source):
        if source.strip():
            cells.append((kind, source.strip("\n")))
    for match in FENCE.finditer(text):
        language, block = match.groups()
        if language == "text":
            continue
        add("markdown", text[end:match.start()])
        if language == "sh":
            block = "".join(f"run({json.dumps(line)})\n" for line in block.splitlines())
        add("code", block)
        end = match.end()
    add("markdown", text[end:])
    return cells


def notebook(number: int, text: str) -> dict:
    """The notebook of a part, in the format 4.5 of Jupyter, without outputs."""
    text = text.replace("](../", "](../../").replace("](#", "](../handout.md#")  # links
    cells = []
    for i, (kind, source) in enumerate([("code", INSTALL), ("code", START), *cells_of(text)]):
        cell = {"cell_type": kind, "id": f"part{number}-{i}", "metadata": {},
                "source": source.splitlines(keepends=True)}
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def make() -> dict[Path, dict]:
    """{path: notebook} of all parts of the handout."""
    found = parts((COURSE / "handout.md").read_text())
    return {COURSE / "notebooks" / f"part{number}.ipynb": notebook(number, text)
            for number, text in found.items()}


def with_outputs(made: dict, before: dict) -> dict:
    """A notebook with the outputs that cells of the same source had before, in the same order."""
    outputs = {}
    for cell in before["cells"]:
        if cell["cell_type"] == "code":
            outputs.setdefault("".join(cell["source"]), []).append(cell["outputs"])

    def kept(cell):
        found = outputs.get("".join(cell["source"])) if cell["cell_type"] == "code" else None
        return cell | {"outputs": found.pop(0)} if found else cell
    return made | {"cells": [kept(cell) for cell in made["cells"]]}


# --- executing

def execute(made: dict, path: Path, short: bool, seconds: int = 1800) -> dict:
    """The notebook with the outputs of its code. The runs go to a folder that is removed. Raises
    nbclient's CellExecutionError where a cell fails."""
    import nbclient  # for development only
    import nbformat

    with tempfile.TemporaryDirectory() as work:
        environment = os.environ | {WORK: work, SHORT: "1" if short else ""}
        node = nbformat.from_dict(made | {"cells": [
            cell | {"source": "".join(cell["source"])} for cell in made["cells"]]})
        client = nbclient.NotebookClient(node, timeout=seconds, kernel_name="python3",
                                         resources={"metadata": {"path": str(path.parent)}})
        done = client.execute(env=environment)
    return made | {"cells": [
        cell | ({"outputs": new["outputs"]} if cell["cell_type"] == "code" else {})
        for cell, new in zip(made["cells"], done["cells"], strict=True)]}


def main(argv=None) -> int:
    parser = arguments.Parser("notebooks.py", description=__doc__.split("\n")[0])
    parser.add_argument("--execute", action="store_true", help="execute them, keep the outputs")
    parser.add_argument("--short", action="store_true", help="with tiny runs; keep no outputs")
    parser.add_argument("--part", type=arguments.integer(1, 7), help="this part alone")

    def work(args):
        for path, made in make().items():
            if args.part and path.stem != f"part{args.part}":
                continue
            done = execute(made, path, args.short) if args.execute else made
            if args.execute and not args.short:
                made = done
            elif path.exists():
                made = with_outputs(made, json.loads(path.read_text()))
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(made, indent=1) + "\n")
            print(path.relative_to(ROOT))
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
