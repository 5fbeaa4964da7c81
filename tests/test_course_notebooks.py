"""course/notebooks.py: the notebooks are those of the handout, and their code works."""

import json
import re
from pathlib import Path

import pytest

from course import notebooks

MADE = notebooks.make()
HANDOUT = notebooks.parts((notebooks.COURSE / "handout.md").read_text())


def text_of(cell: dict) -> str:
    return "".join(cell["source"])


def without_outputs(content: dict) -> dict:
    cells = [cell | ({"outputs": [], "execution_count": None} if cell["cell_type"] == "code"
                     else {}) for cell in content["cells"]]
    return content | {"cells": cells}


@pytest.mark.parametrize("path", sorted(MADE), ids=lambda path: path.stem)
def test_the_notebook_is_made_from_the_handout(path):
    """The one in the repository has outputs, of less than 100 kB. Nothing is lost."""
    assert path.stat().st_size < 100_000
    stored = json.loads(path.read_text())
    assert without_outputs(stored) == MADE[path] == notebooks.make()[path]
    assert any(cell.get("outputs") for cell in stored["cells"])
    cells = [(cell["cell_type"], text_of(cell)) for cell in MADE[path]["cells"]]
    code = "\n".join(text for kind, text in cells if kind == "code")
    part = HANDOUT[int(path.stem.removeprefix("part"))]
    words = "\n".join(text for kind, text in cells if kind == "markdown")
    for language, block in notebooks.FENCE.findall(part):
        for line in block.splitlines():
            place = {"text": words, "python": code, "sh": code}[language]
            assert (f"run({json.dumps(line)})" if language == "sh" else line) in place
    text = notebooks.FENCE.sub(lambda block: block[0] * (block[1] == "text"), part)
    assert all(word in words for word in re.findall(r"^### .+$|^\d\. .+$|^\| `.+$", text, re.M))
    ids = [cell["id"] for cell in MADE[path]["cells"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path", sorted(MADE), ids=lambda path: path.stem)
def test_links_lead_somewhere_from_the_folder_of_the_notebooks(path):
    links = [link for cell in MADE[path]["cells"] if cell["cell_type"] == "markdown"
             for link in re.findall(r"\]\(([^)#]+)", text_of(cell))]
    assert all((path.parent / link).exists() for link in links)


def test_a_command_runs_in_the_folder_of_the_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(notebooks.WORK, str(tmp_path))
    (tmp_path / "a.jsonl").write_text('{"gold": "1/2", "pred": "0.5"}\n')
    notebooks.run("python verify.py a.jsonl")
    assert capsys.readouterr().out == "right\n\n"
    with pytest.raises(RuntimeError, match="exit code 2"):
        notebooks.run("python verify.py missing.jsonl")


def test_a_run_that_is_there_is_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(notebooks.WORK, str(tmp_path))
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "config.json").write_text("{}")
    notebooks.run("python train.py --steps 0 --out runs/x")
    assert "already holds a run" in capsys.readouterr().out


@pytest.mark.parametrize("command, steps", [
    ("python train.py --algo grpo", ["--steps", "2"]), ("python train.py --steps 0", []),
    ("python sample.py --run runs/x", None)])
def test_the_short_form_has_tiny_runs(monkeypatch, command, steps):
    calls = []

    class Done:
        returncode, stdout = 0, ""

    def call(arguments, **more):
        calls.append(arguments)
        return Done
    monkeypatch.setattr(notebooks.subprocess, "run", call)
    monkeypatch.setenv(notebooks.SHORT, "1")
    notebooks.run(command)
    flags = calls[0][2:]
    given = command.split()[2:]
    assert flags[:len(given)] == given
    more = [] if steps is None else notebooks.SHORT_FLAGS["train.py"].split() + steps
    assert flags[len(given):] == more


def test_cells_with_the_same_source_keep_their_outputs():
    def code(source, outputs):
        return {"cell_type": "code", "source": source, "outputs": outputs}
    text = {"cell_type": "markdown", "source": ["a"]}
    before = {"cells": [code(["a"], [1]), text, code(["b"], [2]), code(["a"], [3])]}
    made = {"cells": [text, code(["a"], []), code(["c"], []), code(["a"], []), code(["a"], [])]}
    done = notebooks.with_outputs(made, before)
    assert [cell.get("outputs") for cell in done["cells"]] == [None, [1], [], [3], []]


@pytest.mark.parametrize("number", [1, 3])
def test_a_notebook_executes(number):
    pytest.importorskip("nbclient", reason="for development only")
    path = notebooks.COURSE / "notebooks" / f"part{number}.ipynb"
    done = notebooks.execute(MADE[path], path, short=True, seconds=300)
    assert without_outputs(done) == MADE[path]
    printed = json.dumps([cell.get("outputs") for cell in done["cells"]])
    assert ("mean entropy" if number == 1 else "greedy accuracy") in printed
    assert "Error" not in printed


def test_a_wrong_assertion_stops_the_notebook():
    nbclient = pytest.importorskip("nbclient", reason="for development only")
    path = notebooks.COURSE / "notebooks" / "part2.ipynb"
    made = notebooks.notebook(2, "```python\nassert 1 == 2\n```\n")
    with pytest.raises(nbclient.exceptions.CellExecutionError):
        notebooks.execute(made, Path(path), short=True)
