"""recipes/pass_at_k.py: true working, counts against loops, crossings of curves, a short form."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from small import NANO, TINY

import evaluate
import model
import sft
import tasks
import verify
from infra import base_model
from recipes import pass_at_k
from recipes import pass_at_k_page as page
from tasks import oracle
from tokenizer import Tokenizer

TWO_STEPS = tasks.Problem("(47+8)*6=?", "330", ((47, "+", 8, 55), (55, "*", 6, 330)))
COUNT = tasks.Problem("5 8 6 make 43", "43", numbers=(5, 8, 6))


@pytest.mark.parametrize("problem, thought, true", [
    (TWO_STEPS, "47+8=55\n55*6=330", True),
    (TWO_STEPS, "47+8\n40+0=40\n7+8=15\n40+15=55\n55*6=330", True),
    (TWO_STEPS, "47+8=54\n54*6=330", False),                  # two false equations
    (TWO_STEPS, "47+8=54\n47+8=55\n55*6=330", True),          # a false one that is corrected
    (TWO_STEPS, "47+8=55\n47+8=54\n55*6=330", False),         # a true one that is spoiled
    (TWO_STEPS, "55*6=330", False),                           # a step is left out
    (TWO_STEPS, "55*6=330\n47+8=55", False),                  # the last result is no answer
    (TWO_STEPS, "47+8=55\n330/0=330", False),
    (TWO_STEPS, "1+47+8=55\n55*6=330", False),                # 1+47+8 is no step of two numbers
    (TWO_STEPS, "47+8=55+0\n55*6=330", False),
    (TWO_STEPS, "easy", False), (TWO_STEPS, "", False),
    (COUNT, "8+5=13 13+6=19 no\n8*6=48 48-5=43 yes", True),
    (COUNT, "8*6=43 yes", False), (COUNT, "8+5=13 13+6=19 no", False)])
def test_working_is_true_if_each_equation_holds_and_leads_to_the_answer(problem, thought, true):
    text = f"<think>{thought}</think><answer>{problem.answer}</answer>"
    assert oracle.true_working(problem, text) is true


@pytest.mark.parametrize("task", [tasks.Arithmetic(1), tasks.Arithmetic(3), tasks.Countdown(1),
                                  tasks.Gsm(2), pass_at_k.Compose(1)])
def test_the_working_of_a_right_document_is_true(task):
    rng = random.Random(0)
    for problem in task.sample(rng, 60):
        text = task.document(rng, problem, drill=True)
        assert oracle.true_working(problem, text) is ("easy" not in text), text


def test_a_document_that_answers_right_by_a_wrong_step_is_not_true():
    """A chain of the corpus with its false facts: 2 errors may cancel."""
    rng, task, found = random.Random(0), tasks.Chain(1), Counter()
    for problem in task.sample(rng, 400):
        text = task.document(rng, problem)
        found[task.correct(problem, text), oracle.true_working(problem, text)] += 1
    assert found[True, True] > 50 and found[False, True] == 0 and found[True, False] > 0


# --- counts

def answer(value, thought="easy") -> str:
    return f"<think>{thought}</think><answer>{value}</answer>"


def test_counts_are_those_of_a_loop():
    problems = [tasks.Problem("1+2=?", "3", ((1, "+", 2, 3),)),
                tasks.Problem("2+2=?", "4", ((2, "+", 2, 4),)),
                tasks.Problem("1+3=?", "4", ((1, "+", 3, 4),))]
    samples = [Counter({answer(3, "1+2=3"): 3, answer(3): 2, answer(4): 4, "nothing": 1}),
               Counter({answer(4): 5, answer(3): 5}),
               Counter({answer(4, "1+3=4"): 1, answer(9): 9})]
    task = tasks.Arithmetic(1)
    assert pass_at_k.count(task, problems, samples) == {
        "n": 10, "answers": [5, 5, 1], "steps": [3, 0, 1]}
    # 20 answers to the other problems: 3 is right 5 times for the first, 4 is for the others
    assert pass_at_k.count_guesses(task, problems, samples) == {
        "n": 20, "answers": [5 + 0, 4 + 1, 4 + 5]}


def test_each_problem_gets_its_own_samples(monkeypatch):
    """Three problems, two at a time, against calls for one part each."""
    monkeypatch.setattr(evaluate, "MAX_RESPONSES", 4)
    policy, tokenizer = model.GPT(model.Config(Tokenizer.toy().n_vocab, **TINY)), Tokenizer.toy()
    problems = tasks.Arithmetic(1).held_out(3)
    found = list(evaluate.sample_each(policy, tokenizer, problems, 2, 7, 4))
    first = evaluate.sample_responses(policy, tokenizer, problems[:2], 2, seed=7, max_new_tokens=4)
    last = evaluate.sample_responses(policy, tokenizer, problems[2:], 2, seed=9, max_new_tokens=4)
    texts = first[1] + last[1]
    assert found == [(p, texts[2 * i:2 * i + 2]) for i, p in enumerate(problems)]


# --- the page

def result_of(base, policy, n=4):
    def counts(x):
        return {"n": n, "answers": x, "steps": x, "entropy": []}
    return {"task": {"base": counts(base), "RL": counts(policy)}}


def test_curves_are_means_of_the_estimator():
    results = [result_of([1, 0, 4], [2, 2, 2])]
    found = page.curves(results, "task", "base", "answers")
    assert found.shape == (1, 3, 3) and page.ks_of(results) == [1, 2, 4]
    assert found[0].tolist() == [[verify.pass_at_k(4, c, k) for k in (1, 2, 4)] for c in (1, 0, 4)]


def test_the_base_overtakes_where_its_curve_is_above():
    """The base solves each problem at times, the policy always the same two of three."""
    results = [result_of([1, 1, 1], [4, 4, 0])] * 2
    base, policy = (page.curves(results, "task", name, "steps") for name in ("base", "RL"))
    first, gap = page.lead(base, policy, [1, 2, 4])
    assert first.startswith("4 [") and gap.startswith("33.3 [0.0, ")
    assert page.lead(policy, policy, [1, 2, 4]) == ["none [none, none]", "0.0 [0.0, 0.0]"]
    assert page.lead(policy, 0 * policy, [1, 2, 4])[0].startswith("1 [")


def test_thirds_are_by_the_base_and_seed_by_seed():
    results = [result_of([4, 0, 2, 3, 1, 0], [0] * 6), result_of([0, 1, 2, 3, 4, 4], [4] * 6)]
    found = {name: np.where(rows[0])[0].tolist() for name, rows in page.thirds(results, "task")}
    assert found == {"easy": [0, 3], "middle": [2, 4], "hard": [1, 5]}
    assert np.where(dict(page.thirds(results, "task"))["hard"][1])[0].tolist() == [0, 1]


# --- the recipe

def kinds(text: str) -> str:
    """The steps of a chain's question: p for a product, s for a sum or a difference."""
    return "".join("p" if op == "*" else "s" for op in text if op in "+-*")


def test_the_corpus_has_both_kinds_in_chains_of_two_steps_alone():
    rng, found = random.Random(0), set()
    _, base_task, target, _ = pass_at_k.TASKS["beyond the base"]
    for _ in range(5):
        for prompt, response in sft.documents(Tokenizer.toy(), base_task, base_task.easier_task(),
                                              rng):
            text = Tokenizer.toy().decode(response)
            found.add(kinds(Tokenizer.toy().decode(prompt)))
            assert kinds(text) == kinds(Tokenizer.toy().decode(prompt))
    assert found == {"sp", "ps"} | {n * kind for n in range(1, 8) for kind in "sp"}
    # in the problems the kinds alternate, and a level of the curriculum has one step more
    levels = pass_at_k.BEYOND["RL, curriculum"][1]["train_levels"]
    for n, part in enumerate(tasks.mix_levels(target, levels).parts, 2):
        shown = {kinds(problem.question) for problem in part.sample(rng, 20)}
        assert shown == {"spspsps"[:n], "pspspsp"[:n]} and (n < 7 or part.level == target.level)


def test_the_answer_of_a_composition_is_the_digits_of_all_results():
    problem = pass_at_k.Compose(3).sample(random.Random(1), 1)[0]
    digits = "".join(str(step[3]) for step in problem.steps)
    assert pass_at_k.Compose.correct(problem, answer(digits)) and len(digits) == 3
    for wrong in (digits[-1], digits[::-1] + "0", f"{digits}.0"):
        assert not pass_at_k.Compose.correct(problem, answer(wrong))


@pytest.fixture
def short(monkeypatch, tmp_path):
    monkeypatch.setattr(base_model, "DOCUMENTS", 2)
    monkeypatch.setattr(sft, "BATCH_TOKENS", 50)
    monkeypatch.setattr(pass_at_k, "TASKS", {name: pass_at_k.TASKS[name] for name in (
        "chain", "beyond the base")})  # the fewest with all policies
    monkeypatch.setattr(page, "DRAWS", 20)
    monkeypatch.setitem(model.SIZES, "nano", NANO)
    flags = "--base-steps 1 --prompts 2 --group-size 8 --minibatches 1 --max-new-tokens 6"
    argv = ["--tokens", "20", "--problems", "3", "--samples", "4", "--flags", flags, "--work",
            str(tmp_path / "work"), "--docs", str(tmp_path / "docs")]
    return lambda *more: pass_at_k.main([*argv, *more])


def test_the_recipe_in_short(short, tmp_path, monkeypatch):
    assert short("--seeds", "1") == 0
    found = json.loads((tmp_path / "work" / "seed-1" / "result.json").read_text())
    assert list(found) == list(pass_at_k.TASKS)
    for name, (*_, policies) in pass_at_k.TASKS.items():
        assert set(found[name]) == {*policies, page.GUESS}
        for policy, (share, _) in policies.items():  # the last step may go beyond the budget
            assert 20 * share <= found[name][policy]["tokens"] < 20 * share + 96 + (not share)
    text = (tmp_path / "docs" / "recipes" / "pass_at_k.md").read_text()
    assert text.count("| right answers with true steps |") == 2 * 9 - 2
    assert (tmp_path / "docs" / "img" / "pass_at_k.png").exists()
    # a seed that was stopped keeps what it has measured
    (tmp_path / "work" / "seed-1" / "result.json").unlink()
    monkeypatch.setattr(pass_at_k.runs, "reinforced", None)
    monkeypatch.setattr(pass_at_k.page, "save_figure", lambda *_: None)
    assert short("--seeds", "1") == 0
    assert json.loads((tmp_path / "work" / "seed-1" / "result.json").read_text()) == found


def test_flags_that_are_no_flags(short, capsys):
    assert short("--problems", "2") == 2 and "--problems" in capsys.readouterr().err
    assert short("--seeds", "0", "--flags", "--size huge") == 2
    assert "--size" in capsys.readouterr().err
