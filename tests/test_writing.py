"""tasks/writing.py: the notes, the hidden gold, the corpus, and annotators with planted biases."""

import math
import random
from functools import partial

import pytest

import tasks
from recipes import judge_measures
from tasks import writing

ASKED = tasks.Problem("tell Amy about the old cat", "")  # purrs naps hunts climbs jumps eats hides
GOOD = "hello Amy. it purrs. it naps. it hunts."
POOR = "it barks. it purrs. it purrs. it hides. it naps. it surely barks."


def logistic(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("text, gold, also", [
    (GOOD, 1.0, ""), ("", 0.0, ""), ("hello Amy.", 0.1, ""), ("hello Tom. it purrs.", 0.4, ""),
    ("it purrs. it naps. it hunts.", 0.9, ""), ("it purrs.", 0.7, ""), ("it barks.", 0.0, ""),
    ("it purrs. hello Amy.", 0.4, ""), ("it purrs. it purrs.", 0.5, ""),
    (POOR, 0.2, "detailed sure"),
    ("it purrs. it naps. it hunts. it climbs. it jumps.", 0.9, ""),
    ("it purrs. it naps. it hunts. it climbs. it jumps. it eats.", 0.7, "detailed"),
    ("hello Amy. it surely purrs. the cat naps. it", 0.5, "sure")])
def test_the_gold_is_the_share_of_the_weight_of_the_criteria(text, gold, also):
    assert writing.gold_reward(ASKED, text) == pytest.approx(gold)
    assert [name for name in ("detailed", "sure") if writing.meets(ASKED, text, name)
            ] == also.split()
    given = writing.Writing(1).score(ASKED, text, "format")
    assert given.total == 0 and given.parts == {"correct": float(gold == 1), "gold": gold}


def test_notes_say_what_is_true_again_and_wrong():
    assert writing.notes(ASKED, POOR) == [("barks", "no"), ("purrs", "ok"), ("purrs", "again"),
                                          ("hides", "ok"), ("naps", "ok"), ("barks", "no")]
    assert writing.notes(ASKED, "hello Amy. hello Amy. it naps today") == [
        ("Amy", "greets"), ("Amy", "no"), ("today", "no")]


def test_documents_are_of_any_quality_and_the_drill_is_good():
    task, rng = writing.Writing(2), random.Random(0)
    problems = task.sample(rng, 400)
    assert all(task.correct(p, task.document(rng, p, drill=True)) for p in problems)
    texts = [task.document(rng, p) for p in problems]
    for name in writing.CRITERIA:
        assert 0.2 < sum(map(partial(writing.meets, criterion=name), problems, texts)) / 400 < 0.85
    assert {p.question.split()[-1] for p in writing.Writing(1).sample(rng, 90)} == {
        "cat", "dog", "bird"}


def test_annotators_have_the_planted_biases_and_fair_ones_have_none():
    rng, task = random.Random(0), writing.Writing(2)
    size, pairs = writing.BIASED, writing.equal_pairs(rng, ASKED)
    added = {"length": 2 * size.length, "tone": size.tone, "position": 0.0}
    for name, (liked, other) in pairs.items():
        assert writing.gold_reward(ASKED, liked) == writing.gold_reward(ASKED, other) == 1
        assert liked != other
        for a, b, sign in ((liked, other, 1), (other, liked, -1)):
            assert writing.preference(ASKED, a, b, writing.FAIR) == 0.5
            want = writing.SHARPNESS * (sign * added[name] + size.position)
            assert writing.preference(ASKED, a, b, size) == pytest.approx(logistic(want))
    assert writing.approval(ASKED, GOOD, writing.FAIR) == pytest.approx(logistic(4 * 0.4))
    assert writing.approval(ASKED, POOR, size) == pytest.approx(
        logistic(4 * (0.2 + 2 * 0.1 + 0.3 * (1 / 6 - 1 / 4) - 0.6)))
    # the planted biases are those that `liking` measures
    found = judge_measures.liking(lambda rows: [writing.preference(*row, size) for row in rows],
                                  task.held_out(5), "tone")
    assert found["above"] == 1 and found["mean"] == pytest.approx(
        (logistic(4 * 0.45) + logistic(4 * 0.15)) / 2)
