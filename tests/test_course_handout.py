"""course/handout.md and course/README.md: the worked examples, the exercises, links and flags."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from test_docs import TRAIN, anchors, without_code

from config import Options
from course import exercises, notebooks

COURSE = Path(__file__).parents[1] / "course"
HANDOUT = (COURSE / "handout.md").read_text()
PARTS = notebooks.parts(HANDOUT)
TITLES = ["The idea", "The equation", "By hand", "Implement", "See it work"]
RESULTS = (COURSE.parent / "docs" / "results.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    """The blocks of code of a text in a language."""
    return [block for name, block in notebooks.FENCE.findall(text) if name == language]


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables of a text."""
    return [[cell.strip() for cell in line.strip("|").split("|")]
            for line in text.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("part", sorted(PARTS))
def test_the_examples_are_right(part):
    """Each block in turn, as a student types them. An assert fails where a number is wrong."""
    names = {}
    found = blocks(PARTS[part], "python")
    assert any(re.search(r"^from \w+", block, re.M) for block in found)  # of the student's code
    for block in found:
        assert "assert" in block
        exec(compile(block, f"part {part}", "exec"), names)


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_part_has_all_sections(part):
    titles = re.findall(r"^### (.+)$", PARTS[part], re.M)
    assert titles[:5] == TITLES and titles[-1] == "Questions"
    questions = re.findall(r"^\d\. ", PARTS[part].partition("### Questions")[2], re.M)
    assert 3 <= len(questions) <= 5
    assert blocks(PARTS[part], "sh") or part == 1


def test_the_exercises_are_those_that_are_graded():
    """In the same order, and with the same points in each part."""
    assert sorted(PARTS) == list(exercises.PARTS)
    for part in PARTS:
        found = re.findall(r"^\| `([\w/.]+)` `([\w.]+)` \|", PARTS[part], re.M)
        graded = [e for e in exercises.EXERCISES if e.part == part]
        assert found == [(e.file, e.function) for e in graded]
        points = sum(e.points for e in graded) + exercises.DIAGNOSIS * (part == 6)
        [row] = [row for row in rows(HANDOUT) if row[0].startswith(f"[{part}](")]
        assert int(row[2]) == points


def test_the_causes_are_those_of_the_grader():
    causes = json.loads((COURSE / "broken" / "causes.json").read_text())
    shown = dict(re.findall(r"^\| `([\w-]+)` \| ([^`|]+) \|$", PARTS[6], re.M))
    assert shown == causes


@pytest.mark.parametrize("name", ["README.md", "answers/questions.md", "handout.md"])
def test_links_and_flags(name):
    text, folder = (COURSE / name).read_text(), (COURSE / name).parent
    for link in re.findall(r"\]\(([^)]+)\)", without_code(text)):
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else COURSE / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    known = {"--" + f.name.replace("_", "-") for f in fields(Options)}
    for flags in TRAIN.findall(text):
        for flag in re.findall(r"--[a-z][a-z-]*", flags):
            assert flag in known or flag.replace("--no-", "--") in known, flag


def test_each_question_has_an_answer():
    answers = re.split(r"^## Part ", (COURSE / "answers" / "questions.md").read_text(), flags=re.M)
    found = {int(text[0]): re.findall(r"^(\d)\. ", text, re.M) for text in answers[1:]}
    assert found == {part: re.findall(r"^(\d)\. ", text.partition("### Questions")[2], re.M)
                     for part, text in PARTS.items()}


def numbers(cells) -> list[float]:
    """The first number of each cell, without intervals; empty cells are left out."""
    return [float(re.match(r"[\d.]+", cell)[0]) for cell in cells if re.match(r"[\d.]", cell)]


@pytest.mark.parametrize("here, there, columns", [
    ("`accuracy`, sampled", "`accuracy`", (0, 1, 2, 3, 4, 5, 7)),
    ("`length`, tokens", "`length`", (0, 1, 2, 3, 4, 5, 7)),
    ("`entropy`, nats", "`entropy`", (0, 1, 2, 3, 4, 5, 7)),
    ("vote", "vote", (0, 2, 4, 6)), ("ORM, best of n", "orm", (0, 2, 4, 6)),
    ("PRM, best of n", "prm", (0, 2, 4, 6)), ("DVTS", "dvts", (1, 3, 5))])
def test_the_figures_are_measured(here, there, columns):
    """The rows of tables that docs/results.md has too."""
    section = RESULTS[RESULTS.index("## The default run" if "`" in here else
                                    "## Test-time compute on chains"):]
    [shown] = [numbers(row[1:]) for row in rows(HANDOUT) if row[0] == here]
    measured = next(numbers(row[1:]) for row in rows(section) if row[0] == there)
    assert shown == [measured[column] for column in columns]
