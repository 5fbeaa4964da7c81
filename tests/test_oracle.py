"""oracle.py and chain.py: truths of steps, and measures of step labels and scores against them."""

import random

import pytest

import prm
import tasks
from tasks import chain, oracle
from tokenizer import Tokenizer

tokenizer = Tokenizer.toy()

QUESTION, RIGHT = "3 +6 *9 -2 =?", "<think>3+6=9\n9*9=1\n1-2=9</think><answer>9</answer>"
PROBLEM = tasks.Problem(QUESTION, "9", ((3, "+", 6, 9), (9, "*", 9, 1), (1, "-", 2, 9)),
                        noisy_facts=True)


def solution(text: str, correct: float):
    ids = tokenizer.encode(text) + [tokenizer.eos_id]
    return prm.Solution(PROBLEM, [], ids, text, correct)


@pytest.mark.parametrize("text, truths", [
    (RIGHT, [True, True, True, True]),
    (RIGHT.replace("9*9=1\n1-2=9", "9*9=2\n2-2=0").replace("9</a", "0</a"),
     [True, False, False, False]),
    (RIGHT.replace("<answer>9", "<answer>8"), [True, True, True, False]),
    (RIGHT.replace("9*9=1", "9*9=2"), [True, False, False, False]),
    ("<think>3+6=9\n9*9=1</think><answer>9</answer>", [True, True, True]),
    ("<think>3+6=9\n", None), ("9", None)])
def test_step_truths_of_a_chain(text, truths):
    assert chain.steps_true(PROBLEM, text) == truths


def test_a_wrong_line_stays_wrong_even_if_a_later_one_repairs_it():
    text = "<think>3+6=8\n9*9=1\n1-2=9</think><answer>9</answer>"
    assert chain.steps_true(PROBLEM, text) == [False, False, False, False]


def test_step_truths_restart_after_wait():
    right = RIGHT.removeprefix("<think>")
    text = f"<think>3+6=8\nwait\n{right}"
    assert chain.steps_true(PROBLEM, text) == [False, True, True, True, True, True]
    text = f"<think>{right.partition('</think>')[0]}\nwait\n3+6=8</think><answer>9</answer>"
    assert chain.steps_true(PROBLEM, text) == [True, True, True, True, False, False]
    text = f"<think>{right.partition('</think>')[0]}\nwait</think><answer>9</answer>"
    assert chain.steps_true(PROBLEM, text) == [True, True, True, True, True]


@pytest.mark.parametrize("text, worked", [
    (RIGHT, True), (f"<think>3+6=8\nwait\n{RIGHT.removeprefix('<think>')}", True),
    (RIGHT.replace("<answer>9", "<answer>8"), False),
    ("<think>3+6=9\n9*9=1</think><answer>9</answer>", False),             # a step is left out
    (RIGHT.replace("1-2=9", "1-2=9\n9+1=0"), False),                       # one too many
    ("<think>3+6=8\n8*9=1\n1-2=9</think><answer>9</answer>", False),      # two errors
    (f"{RIGHT.partition('</think>')[0]}\nwait\n3+6=9</think><answer>9</answer>", False),
    ("<think>3+6=9\n9*9=1\nwait</think><answer>9</answer>", False),       # a wait is no step
    (RIGHT.replace("<think>", "<think>3+6=9\nwait\nwait\n"), True),
    ("<think>easy</think><answer>9</answer>", False), ("9", False)])
def test_a_chain_is_worked_out_only_if_all_steps_are_true(text, worked):
    assert chain.correct_with_working(PROBLEM, text) is worked


def test_auc_counts_pairs():
    rng = random.Random(1)
    scores = [rng.choice((0.1, 0.2, 0.5, 0.9)) for _ in range(60)]
    truths = [rng.random() < 0.4 for _ in scores]
    pairs = [(a > b) + (a == b) / 2 for a, s in zip(scores, truths, strict=True) if s
             for b, t in zip(scores, truths, strict=True) if not t
             for a, b in [(a, b)]]
    assert oracle.auc(scores, truths) == pytest.approx(sum(pairs) / len(pairs))
    assert oracle.auc([0.1, 0.2], [True, True]) is None


def test_auc_of_the_worst_order_and_of_equal_truths():
    assert oracle.auc([0.9, 0.8, 0.1], [False, False, True]) == 0.0
    assert oracle.auc([0.1, 0.2], [False, False]) is None


def test_score_quality_of_good_and_of_bad_scores():
    wrong = RIGHT.replace("9*9=1\n1-2=9", "9*9=2\n2-2=0").replace("9</a", "0</a")
    solutions = [solution(RIGHT, 1.0), solution(wrong, 0.0)]
    good = oracle.score_quality(solutions, [[0.9, 0.8, 0.7, 0.95], [0.9, 0.3, 0.2, 0.1]])
    assert (good["auc"], good["accuracy"], good["first_error_found"]) == (1.0, 1.0, 1.0)
    assert good["calibration_error"] == pytest.approx((0.05 + 0.1) / 2) and good["steps"] == 8
    bad = oracle.score_quality(solutions, [[0.9, 0.8, 0.7, 0.95], [0.9, 0.9, 0.2, 0.1]])
    assert bad["first_error_found"] == 0.0 and bad["auc_to_first_error"] < 1
    assert oracle.score_quality([solution("x", 0.0)], [[0.5]])["solutions"] == 0


def test_score_quality_against_a_calculation_by_hand(monkeypatch):
    read = [([0.8, 0.7, 1.0], [True] * 3), ([0.6, 0.25, 0.2], [True, False, False]),
            ([0.5, 0.4, 0.15], [True, True, False]), ([0.9, 0.9, 0.25], [True, False, False]),
            ([0.3, 0.6, 0.7], [False] * 3)]
    monkeypatch.setattr(oracle, "scores_with_truths", lambda *_: read)
    found = oracle.score_quality([], [])
    assert (found["solutions"], found["steps"]) == (5, 15)
    assert found["auc"] == pytest.approx(44.5 / (7 * 8))
    assert found["auc_to_first_error"] == pytest.approx(22.5 / (7 * 4))
    assert found["accuracy"] == pytest.approx(11 / 15)
    assert found["first_error_found"] == pytest.approx(2 / 4)    # not the third's and the fourth's
    assert found["first_error_by_fall"] == pytest.approx(3 / 4)  # not the fourth's
    assert found["calibration"] == [pytest.approx(row) for row in (
        (0.15, 0, 1), (0.225, 0, 2), (0.7, 0, 1), (1, 1, 1))]
    assert found["calibration_error"] == pytest.approx((0.15 + 2 * 0.225 + 0.7) / 5)
