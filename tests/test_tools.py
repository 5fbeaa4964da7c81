"""recipes/tools.py: its arms, its tables, and a short form of the recipe."""

import json
import random

import pytest
from small import tiny_model

import tasks
from recipes import page, tools


def test_the_arms_differ_in_tool_and_reward_alone():
    task = tasks.TASKS["calculator"](2)
    problems = task.sample(random.Random(0), 20)
    for arm, (change, _) in tools.ARMS.items():
        changed = change(task).sample(random.Random(0), 20)
        assert [(p.question, p.answer) for p in changed] == [
            (p.question, p.answer) for p in problems]
        results = [p.tool and p.tool.result(p.steps[0], 1) for p in changed]
        right = [r == p.answer for r, p in zip(results, problems, strict=True)]
        honest = arm in ("tool", "price", "turn credit")
        assert all(right) if honest else sum(right) < 10, arm
        assert any(results) != (arm == "no tool")
    text = "<think><call>1</call><call>2</call></think><answer>7</answer>"
    reward, plain = (tools.ARMS[arm][0](task).score(problems[0], text) for arm in ("price", "tool"))
    assert reward.total == pytest.approx(plain.total - 0.2) and reward.parts == plain.parts


def test_the_recipe_in_short(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tools, "TASKS", {"calculator": "--level 1", "records": "--level 1"})
    monkeypatch.setattr(page, "save_figure", lambda path, draw: None)
    flags = "--size tiny --base-steps 1 --prompts 2 --group-size 4 --max-new-tokens 8"
    argv = ["--seeds", "1", "--steps", "1", "--held-out", "4", "--flags",
            f"{flags} --minibatches 1", "--work", str(tmp_path / "work"), "--docs",
            str(tmp_path / "docs")]
    with tiny_model():
        assert tools.main(argv) == 0
    found = json.loads((tmp_path / "work" / "seed-1" / "result.json").read_text())
    assert len(found) == 5 + 2 + 2 + 2 and len(found["calculator, price"]["curve"]) == 1
    text = (tmp_path / "docs" / "recipes" / "tools.md").read_text()
    assert "| records, tool, base |" in text
    assert "| calculator, tool | calculator, no tool |" in text
    assert capsys.readouterr().out
