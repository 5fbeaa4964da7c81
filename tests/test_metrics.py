"""docs/metrics.md: each key that a run writes has its line there."""

import json
import re
from pathlib import Path

import pytest
from test_train import run

import evaluate
import prm
import tasks
from infra import tensors

PAGE = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
RUNS = {
    "grpo": ["--kl-coef", "0.05", "--entropy-coef", "0.01", "--partial-rollouts", "5"],
    "dapo": ["--algo", "dapo", "--overlong", "soft"],
    "dpo": ["--algo", "dpo", "--reward", "correct"],
    "ppo": ["--algo", "ppo", "--critic-warmup", "1"],
    "process": ["--algo", "ppo", "--critic-warmup", "1", "--reward", "process"],
    "bilingual": ["--task", "bilingual", "--prompts", "8"],
    "tool": ["--task", "calculator", "--prompts", "8"],
}


def documented(file: str) -> set[str]:
    """The keys of a file's tables: the code in the first column, in all sections of that file."""
    sections = re.findall(rf"^## {re.escape(file)}.*?\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    rows = re.findall(r"^\| (`.*?) \|", "".join(sections), re.M)
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The runs of RUNS. That of GRPO has a process reward model, which judges the run "process".
    The verifier of "dpo" decides by the text alone, so that a base which can do nothing has pairs.
    """
    folder = tmp_path_factory.mktemp("runs")
    for name, flags in RUNS.items():
        if name == "process":
            flags = [*flags, "--judge", str(folder / "grpo")]
        with pytest.MonkeyPatch.context() as patch:
            if name == "dpo":
                patch.setattr(tasks.Arithmetic, "correct", staticmethod(
                    lambda problem, text: sum(text.encode()) % 2 == 0))
            assert run(folder / name, "--steps", "2", *flags) == 0
        if name == "grpo":
            scorer = prm.StepScorer(evaluate.load_policy(str(folder / name), "cpu")).state_dict()
            tensors.save(folder / name / "prm.pt", {"prm": scorer, "orm": scorer})
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_every_key_is_documented(name, folder):
    def lines(file):
        return [json.loads(line) for line in (folder / name / file).read_text().splitlines()]
    keys = {key for line in lines("metrics.jsonl") for key in line}
    assert keys - documented("metrics.jsonl") == set() and len(keys) > 25
    samples = [line for line in lines("samples.jsonl") if line["kind"] == "group"]
    keys = {key for line in samples for response in line["responses"] for key in response}
    assert keys - documented("samples.jsonl") == set()
    assert all(f"`{key}`" in PAGE for line in lines("samples.jsonl") for key in line)
    # a key of summary.json has _before or _after, or stands on the page as it is
    known = {re.sub(r"_(before|after|…)$", "", key) for key in documented("summary.json")}
    summary = json.loads((folder / name / "summary.json").read_text())
    keys = {re.sub(r"(_ci)?_(before|after)$", "", key) for key in summary}
    assert keys - known == set()


def test_each_key_has_one_line_and_belongs_to_some_run(folder):
    rows = re.findall(r"^\| (`.*?) \|", PAGE.split("## summary.json")[0], re.M)
    keys = [key for row in rows for key in re.findall(r"`([^`]+)`", row)]
    assert len(keys) == len(set(keys))
    written = {key for name in RUNS
               for line in (folder / name / "metrics.jsonl").read_text().splitlines()
               for key in json.loads(line)}
    assert set(keys) == written


def test_scores_are_recorded(folder):
    lines = (folder / "process" / "samples.jsonl").read_text().splitlines()
    rows = [r for line in map(json.loads, lines) for r in line.get("responses", ())]
    assert rows and all(len(r["scores"]) == len(r["values"]) == len(r["ids"]) for r in rows)
    assert all(r["reward"] == pytest.approx(sum(r["scores"]), abs=0.1) for r in rows)
