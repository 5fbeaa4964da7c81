"""recipes/r1.py: the order of the stages, wins, and a short form of all policies."""

import json
import random

from small import tiny_model

from recipes import r1, r1_page
from tasks import bilingual
from tasks.mixture import Mixture

SHORT = ("--steps 1 --curated 4 --pairs 8 --eval-problems 8 --flags").split()
FLAGS = ("--base-steps 2 --prompts 2 --group-size 4 --minibatches 1 --max-new-tokens 12 "
         "--eval-problems 2")


def test_every_policy_comes_after_the_one_that_it_starts_from():
    seen = set()
    for stages in r1.ORDER:
        assert stages == "base" or r1_page.before(stages) in seen
        seen.add(stages)
    assert set(r1_page.ROWS.values()) <= seen


def test_a_win_is_a_higher_gold_and_a_tie_is_half_of_one():
    assert r1_page.win_rate({"gold": [1, 2, 3, 4]}, {"gold": [0, 3, 3, 1]}) == 2.5 / 4


def test_a_stage_without_the_one_before_says_which_command_makes_it(tmp_path, capsys):
    argv = ["--stages", "1-2", "--seeds", "3", "--work", str(tmp_path)]
    assert r1.main(argv) == 2
    assert "python -m recipes.r1 --stages 1 --seeds 3 makes it" in capsys.readouterr().err


ALL = ["base", "1", "1-2", "1-2-3", "1-2-3-4", "zero"]  # policies of the short form


def test_the_recipe_in_short(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(r1, "ORDER", ALL)
    monkeypatch.setattr(r1_page, "ROWS", {stages: stages for stages in ALL})
    monkeypatch.setattr(r1.bilingual.Bilingual, "default_max_new_tokens", 12)
    monkeypatch.setattr(r1.assistant.Assistant, "default_max_new_tokens", 12)
    folder, argv = tmp_path / "work" / "seed-0", [
        *SHORT, FLAGS, "--seeds", "0", "--work", str(tmp_path / "work"), "--docs", str(tmp_path)]
    # 1. all policies, their files and the page
    with tiny_model():
        assert r1.main(argv) == 0
    results = json.loads((folder / "result.json").read_text())
    assert list(results) == ALL and (folder / "1-2" / "report.html").exists()
    for stages in ALL:
        assert (folder / stages / "checkpoint.pt").exists()
        assert (folder / stages / "responses.txt").exists() and len(results[stages]["gold"]) == 8
    text = (tmp_path / "recipes" / "r1.md").read_text()
    assert text.count("\n| ") == 1 + len(ALL)
    # 2. a finished stage is kept, and a lost one is made again equally
    (folder / "1-2-3-4" / "measures.json").unlink()
    (folder / "result.json").unlink()
    with tiny_model():
        assert r1.main(argv) == 0
    again = json.loads((folder / "result.json").read_text())
    assert again["1-2"] == results["1-2"]  # its seconds too
    for result in (again, results):
        del result["1-2-3-4"]["cpu_seconds"]
    assert again == results
    # 3. results of other flags are not read
    assert r1.main(["--steps", "2", *argv[2:]]) == 2
    assert "has results with --steps 1; name another folder by --work" in capsys.readouterr().err


def test_rejection_sampling_keeps_right_and_readable_responses():
    rng = random.Random(0)
    for problem in bilingual.Bilingual().sample(rng, 20):
        right = bilingual.curated(rng, problem)
        digit = bilingual.written(problem.answer, problem.category)
        wrong = bilingual.written(str((int(problem.answer) + 1) % 10), problem.category)
        assert r1.is_kept(problem, right)
        assert not r1.is_kept(problem, right.replace("\n", " "))
        assert not r1.is_kept(problem, right.replace(f"<answer>{digit}", f"<answer>{wrong}"))
        assert not r1.is_kept(problem, f"<think>easy</think><answer>{digit}</answer>")


def test_a_mixture_scores_each_problem_by_its_own_task():
    task, rng = Mixture(1), random.Random(0)
    problems = task.sample(rng, 40)
    assert {bool(p.answer) for p in problems} == {True, False}
    for problem in problems:
        text = task.document(rng, problem, drill=True)
        own = task.task_of(problem)
        assert (task.measures["mixed"](problem, text) is None) == (not problem.answer)
        assert task.correct(problem, text) == own.correct(problem, text)
        reward = "language" if problem.answer else "preference"
        assert task.score(problem, text, "preference") == own.score(problem, text, reward)
    assert all(p.answer for p in Mixture(1, request_share=0.0).sample(rng, 20))
