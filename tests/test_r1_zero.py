"""tasks/trial.py: what counts as a try and a check. recipes/r1_zero.py: bars and a short form."""

import json
import random
import re
from collections import Counter

import numpy as np
import pytest
from small import tiny_model

import verify
from recipes import r1_zero
from tasks import trial
from tasks.chain import last_digit
from tasks.countdown import problem_of

PROBLEM = problem_of([5, 8, 6], 3)


def said(*lines, answer="yes"):
    return "<think>" + "\n".join(lines) + f"</think><answer>{answer}</answer>"


# --- the problems

def test_the_chance_is_the_share_of_random_tries():
    rng, numbers = random.Random(0), (2, 5, 8)
    found = Counter(trial.random_try(rng, numbers)[1][3] for _ in range(6000))
    for target in range(10):
        assert trial.chances(numbers)[target] == pytest.approx(found[target] / 6000, abs=0.02)
    assert sum(trial.chances(numbers)[target] for target in range(10)) == pytest.approx(1)


def test_a_random_try_is_true_and_its_expression_is_right():
    rng = random.Random(0)
    for _ in range(300):
        numbers = [rng.randint(1, 9) for _ in range(3)]
        facts = trial.random_try(rng, numbers)
        assert all(last_digit(x, op, y) == value for x, op, y, value in facts)
        target = facts[1][3]
        line = trial.written(problem_of(numbers, target), facts, target, "yes")
        assert trial.Trial.correct(problem_of(numbers, target), said(line))


@pytest.mark.parametrize("level", trial.Trial.levels)
def test_levels_are_bands_of_the_chance(level):
    low, high = trial.Trial.bands[level]
    for p in trial.Trial(level).sample(random.Random(0), 20):
        assert low <= trial.chance(p) < high


# --- the corpus

def test_documents_give_up_and_the_drill_does_not():
    task, rng = trial.Trial(2), random.Random(0)
    problems = task.sample(rng, 100) * 2
    quick, drill = ([(p, task.document(rng, p, d)) for p in problems] for d in (False, True))
    right = [sum(task.correct(*pair) for pair in docs) / len(docs) for docs in (quick, drill)]
    assert right[0] < 0.2 and right[1] > 0.65
    assert all(verify.well_formed(text) for _, text in quick + drill)
    for p, text in drill:  # a search ends with a claim, or with the last of its tries
        assert trial.reaches(p, trial.tries(p, text)[-1]) or len(trial.tries(p, text)) > 30


def test_nothing_at_the_beginning_says_how_long_a_document_will_be():
    """The chance of a further try does not change with the number of tries so far."""
    task, rng = trial.Trial(2), random.Random(0)
    ends = Counter(len(trial.tries(p, task.document(rng, p)))
                   for p in task.sample(rng, 200) for _ in range(10))
    for n in (1, 2, 3):
        alive = sum(count for tries, count in ends.items() if tries >= n)
        assert ends[n] / alive == pytest.approx(0.54, abs=0.06)


# --- what a response does

@pytest.mark.parametrize("lines, tries, checked, changed, repeated", [
    (["8+5=3 3+6=9 9-3=6 no", "8*6=8 8-5=3 3-3=0 yes"], 2, 0, None, 0),
    (["8+5=3 no", "5 8 6 3: 8+5=3 no", "5 8 6 3: 8*6=8 8-5=3 3-3=0 yes",
      "5 8 6 3: 8*6=8 8-5=3 3-3=0 ok"], 3, 1, 0, 1 / 3),
    (["8+5=7 7+6=3 3-3=0 yes", "8+5=3 3+6=9 9-3=6 no", "8*6=8 8-5=3 3-3=0"], 2, 0.5, 1, 0),
    # the words do not count: no claim, but the target is reached and computed again
    (["8*6=8 8-5=3 3-3=0 no", "8*6=8 8-5=3 3-3=0 wait"], 1, 1, 0, 0),
    # a try that missed the target is repeated, not checked; so is a second check
    (["8+5=3 3+6=9 9-3=6 yes", "8+5=3 3+6=9 9-3=6 ok"], 2, None, None, 0.5),
    (["8*6=8 8-5=3 3-3=0 yes"] * 3, 2, 0.5, 0, 0.5),
    (["easy", "8*6 is 8"], 0, None, None, None)])
def test_tries_and_checks_are_counted_from_facts(lines, tries, checked, changed, repeated):
    text = said(*lines)
    assert len(trial.tries(PROBLEM, text)) == tries
    assert trial.Trial.measures["backtracks"](PROBLEM, text) == max(0, tries - 1)
    assert trial.checked(PROBLEM, text) == checked
    assert trial.changed(PROBLEM, text) == changed
    assert trial.repeated(PROBLEM, text) == (repeated and pytest.approx(repeated))


def test_true_facts():
    text = said("8+5=3 3+6=8 8-3=5 no", "8*6=8 8-5=3 3-3=0 yes", "8*6=8 8-5=4 4-3=1 no", "9/0=1")
    assert trial.true_facts(PROBLEM, text) == pytest.approx(7 / 10)
    assert trial.true_facts(PROBLEM, said("easy")) is None


# --- the recipe

def test_the_length_control_pays_for_the_length_alone():
    task = r1_zero.PaidByLength(2)
    task.wanted = 10
    for length, total in ((10, 1.0), (5, 0.5), (15, 0.5), (20, 0.0), (40, 0.0)):
        for answer in ("yes", "no"):
            text = said("8*6=8 8-5=3 3-3=0 yes", answer=answer)
            scored = task.score(PROBLEM, text, tokens=[0] * length)
            assert scored.total == pytest.approx(total)
            assert scored.parts["correct"] == (answer == "yes")


def test_the_share_of_growth_on_curves_with_a_known_one():
    flat, ramp = np.zeros(50), np.linspace(0, 1, 101)
    assert r1_zero.growth_share([*flat, *ramp, *flat + 1]) == pytest.approx(0.9 / 2, abs=0.02)
    assert r1_zero.growth_share(ramp) == pytest.approx(0.82, abs=0.01)
    assert r1_zero.growth_share([*flat, *flat + 1]) == pytest.approx(0.09, abs=0.02)
    assert r1_zero.growth_share([*ramp, *ramp[::-1]]) == pytest.approx(0.41, abs=0.02)


def result(length=320.0, accuracy=0.9, cut=0.01, steps=100):
    def point(step, **values):
        return dict.fromkeys(r1_zero.MEASURES, 0.5) | {"step": step, "text": "tried"} | values
    base = point(0, length=40.0, accuracy=0.1, truncated=0.0)
    del base["changed"]  # no check in any response
    end = point(steps, length=length, accuracy=accuracy, truncated=cut)
    arm = end | {"curve": [base, end], "lengths": list(np.linspace(40, length, steps))}
    return {"question": PROBLEM.question, "base": base} | dict.fromkeys(r1_zero.ARMS, arm)


@pytest.mark.parametrize("other, missed", [
    ({}, []), ({"length": 299.0}, ["length at the end, tokens"]),
    ({"length": 190.0}, ["length, end / base", "length at the end, tokens"]),
    ({"accuracy": 0.85}, ["accuracy at the end, %"]),
    ({"cut": 0.05}, ["cut off at the limit, the most of all points, %"])])
def test_a_bar_is_met_by_the_whole_interval(other, missed):
    (_, _, rows), (_, columns, measures) = r1_zero.tables([result(**other)] * 3)
    assert [title for title, *_, verdict in rows if verdict != "met"] == missed
    assert [row[0] for row in measures] == [title for title, _ in r1_zero.MEASURES.values()]
    assert all(len(row) == len(columns) for row in measures)
    assert measures[list(r1_zero.MEASURES).index("changed")][1] == ""


def test_a_long_response_is_cut_on_the_page():
    made = result()
    made["truth"]["curve"][1]["text"] = "8+5=3 no\n" * 300
    text = r1_zero.responses(made)
    assert f"... ({2700 - r1_zero.SHOWN} more characters)" in text and "Step 0:" in text


def test_the_recipe_in_short(tmp_path):
    flags = ("--base-steps 1 --size tiny --prompts 2 --group-size 4 --max-new-tokens 12 "
             "--minibatches 1")
    argv = ["--seeds", "1", "--steps", "3", "--held-out", "3", "--samples", "2", "--flags", flags,
            "--work", str(tmp_path / "work"), "--docs", str(tmp_path / "docs")]
    with tiny_model():
        assert r1_zero.main(argv) == 0
        [seed] = (tmp_path / "work").iterdir()
        found = json.loads((seed / "result.json").read_text())
        for name in r1_zero.ARMS:
            assert [point["step"] for point in found[name]["curve"]] == [0, 1, 2, 3]
            assert len(found[name]["lengths"]) == 3
        # a finished arm is read, not made again: its curve has the same texts
        (seed / "result.json").unlink()
        (seed / "random.pt").unlink()
        assert r1_zero.main(argv) == 0
    assert json.loads((seed / "result.json").read_text()) == found
    text = (tmp_path / "docs" / "recipes" / "r1_zero.md").read_text()
    assert len(re.findall("^Step [0-3]:$", text, re.MULTILINE)) == 4 and text.count("```") == 8
    assert (tmp_path / "docs" / "img" / "r1_zero.png").exists()
