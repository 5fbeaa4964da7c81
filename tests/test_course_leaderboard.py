"""course/leaderboard.py: fresh problems, budgets and the table, with a run of a tiny model."""

import json
import shutil

import pytest
from small import NANO

import evaluate
import model
import tasks
import train
from course import leaderboard
from infra import base_model
from tasks.base import is_held_out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs, of level 1 and of level 2 of a task. They have the same policy, which learned
    nothing."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "tiny", NANO)
        patch.setattr(base_model, "DOCUMENTS", 20)
        flags = ["--base-steps", "1", "--steps", "1", "--prompts", "2", "--group-size", "2",
                 "--max-new-tokens", "4", "--eval-problems", "2", "--eval-samples", "1"]
        assert train.main([*flags, "--level", "1", "--out", str(folder / "1")]) == 0
    path = shutil.copytree(folder / "1", folder / "2") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"level": 2}))
    return folder


class Small(tasks.Task):
    """A few problems. train.py measures with all of those that are held out."""

    def sample_problem(self, rng, held_out):
        n = rng.randrange(200)
        return tasks.Problem(f"{n}=?", str(n))


@pytest.fixture
def solved(monkeypatch):
    """Every greedy response to a problem with an even answer is right."""
    def sample_responses(policy, tokenizer, problems, **more):
        return None, [f"<think>x</think><answer>{int(p.answer) // 2 * 2}</answer>"
                      for p in problems]
    monkeypatch.setattr(evaluate, "sample_responses", sample_responses)


def test_the_problems_are_fresh():
    """None is for training, none is one that train.py measures with, and the seed decides."""
    task = tasks.TASKS["arithmetic"](2)
    found = leaderboard.fresh_problems(task, 3, 50)
    names = {problem.identity for problem in found}
    assert len(found) == len(names) == 50 and all(map(is_held_out, found))
    assert not names & {problem.identity for problem in task.held_out(1000)}
    assert found == leaderboard.fresh_problems(task, 3, 50)
    assert names != {p.identity for p in leaderboard.fresh_problems(task, 4, 50)}


def test_a_task_without_fresh_problems_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}+1", "answer": str(n + 1)}) + "\n"
                            for n in range(60)))
    with pytest.raises(ValueError, match="file"):
        leaderboard.fresh_problems(tasks.TASKS["file"](2, str(path)), 0, 5)
    with pytest.raises(ValueError, match="only 0 held-out"):
        leaderboard.fresh_problems(Small(1), 0, 5)


def test_a_run_is_scored_and_its_budget_checked(runs, solved, capsys, tmp_path):
    run, out = str(runs / "1"), tmp_path / "board.md"
    summary = json.loads((runs / "1" / "summary.json").read_text())
    limits = {"tokens": summary["tokens_sampled"] - 1, "parameters": summary["parameters"]}
    entry, _ = leaderboard.score(run, 5, 40, limits)
    even = sum(int(p.answer) % 2 == 0 for p in leaderboard.fresh_problems(
        tasks.TASKS["arithmetic"](1), 5, 40))
    assert entry.accuracy == even / 40 and entry.ci[0] < even / 40 < entry.ci[1]
    assert entry.tokens == summary["tokens_sampled"] and entry.over == ("tokens",)
    assert entry.parameters == summary["parameters"]
    assert leaderboard.score(run, 5, 40, {"seconds": entry.seconds / 2})[0].over == ("seconds",)
    assert leaderboard.score(run, 5, 40, {"parameters": 10})[0].over == ("parameters",)
    assert leaderboard.main([run, "--seed", "5", "--problems", "40", "--max-tokens", "1", "--out",
                             str(out)]) == 0
    printed = capsys.readouterr().out
    assert out.read_text() == printed and "over: tokens" in printed and "seed 5" in printed
    assert f"| – | {run} | {100 * even / 40:.1f} |" in printed


def test_more_parameters_than_the_summary_says_are_counted(runs, solved, tmp_path):
    folder = shutil.copytree(runs / "1", tmp_path / "run")
    path = folder / "summary.json"
    true = json.loads(path.read_text())["parameters"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parameters": 1}))
    assert leaderboard.score(str(folder), 0, 5, {})[0].parameters == true


def test_the_order_and_the_ranks():
    def entry(run, accuracy, tokens, *over):
        return leaderboard.Entry(run, accuracy, [0.0, 1.0], tokens, 1.0, 10, over)
    board = leaderboard.table([entry("low", 0.1, 5), entry("dear", 0.5, 900),
                               entry("first", 0.5, 100), entry("over", 0.9, 1, "seconds")])
    cells = [[cell.strip() for cell in line.split("|")[1:3]] for line in board.splitlines()[2:]]
    assert cells == [["–", "over"], ["1", "first"], ["2", "dear"], ["3", "low"]]


def test_runs_that_cannot_be_compared_are_refused(runs, solved, tmp_path, capsys):
    assert leaderboard.main([str(runs / "1"), str(runs / "2"), "--problems", "5"]) == 2
    assert "same task and level" in capsys.readouterr().err
    folder = shutil.copytree(runs / "1", tmp_path / "run")
    (folder / "summary.json").unlink()
    assert leaderboard.main([str(folder), "--problems", "5"]) == 2
    assert "has not ended" in capsys.readouterr().err
