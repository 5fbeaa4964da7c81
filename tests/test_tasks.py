"""tasks/: correct problems on levels; training and held-out problems never meet."""

import itertools
import json
import os
import random
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

import tasks
import verify
from grading.expression import calculate, expression
from tasks import chain, gsm

DATA = Path(os.environ.get("DATA_DIR", Path(__file__).parents[2] / "shared" / "data"))
real_data = pytest.mark.skipif(not (DATA / "gsm8k_train.jsonl").exists(), reason="no shared/data")
KINDS = [(name, level) for name in ("arithmetic", "countdown", "gsm", "chain")
         for level in tasks.TASKS[name].levels]
TRAIN, HELD = 2500, 800  # draws of each of the 15
every_level = pytest.mark.parametrize("name, level", KINDS)


def key(problem):
    return problem.key or problem.question


def sample(name, level, n=300, held_out=False, seed=0):
    return tasks.TASKS[name](level).sample(random.Random(seed), n, held_out)


def write(path, *rows):
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows),
                    encoding="utf-8")
    return str(path)


def rows(n):
    return [{"question": f"What is {i}?", "answer": f"It is {i}. #### {i}"} for i in range(n)]


# --- held out means held out

@every_level
def test_training_never_meets_held_out(name, level):
    train = {key(p) for p in sample(name, level, TRAIN)}
    held = {key(p) for p in sample(name, level, HELD, held_out=True, seed=1)}
    held |= {key(p) for p in tasks.TASKS[name](level).held_out(20)}
    assert train and held and not train & held


@pytest.mark.parametrize("name", ["arithmetic", "countdown", "gsm"])
def test_sides_are_disjoint_over_all_levels(name):
    """Training draws easier problems too, so the sides are disjoint over all levels at once."""
    levels = tasks.TASKS[name].levels
    train = {key(p) for level in levels for p in sample(name, level, 2000)}
    held = {key(p) for level in levels for p in sample(name, level, 300, held_out=True)}
    assert not train & held


def test_a_countdown_with_its_numbers_in_another_order_is_the_same_problem():
    seen = {}
    for held_out in (False, True):
        for p in sample("countdown", 1, 2000 if not held_out else 300, held_out):
            same = (tuple(sorted(p.numbers)), p.answer)
            assert seen.setdefault(same, held_out) == held_out


def test_held_out_templates_are_never_trained_on():
    """The words of a question, without names, items and numbers, tell its template."""
    for level in (1, 2):
        used = {key(p).rpartition(" [")[0] for p in sample("gsm", level, 8000)}
        assert used <= {question for question, *_ in gsm.TEMPLATES}
        assert len(used) > 25


def test_no_template_is_on_both_sides():
    both = {q for q, *_ in gsm.TEMPLATES} & {q for q, *_ in gsm.HELD_OUT}
    assert not both


def test_half_of_the_held_out_word_problems_are_of_new_templates():
    for level in (1, 2):
        kinds = Counter(p.category for p in tasks.Gsm(level).held_out(400))
        assert set(kinds) == {tasks.SEEN, tasks.NEW}
        assert 0.4 < kinds[tasks.NEW] / 400 < 0.6


@every_level
def test_held_out_is_deterministic_distinct_and_full(name, level):
    first, again = (tasks.TASKS[name](level).held_out(40) for _ in range(2))
    assert first == again and len(first) == 40
    assert len({key(p) for p in first}) == 40
    assert all(map(tasks.is_held_out, first))


def test_the_first_held_out_problems_of_a_small_level_are_typical():
    """Small numbers are drawn far more often; pass@k is of the first fifth."""
    class Skewed(tasks.Arithmetic):
        def sample_problem(self, rng, held_out):
            return tasks.Problem(str(int(3000 * rng.random()**3)), "0")
    found = [int(p.question) for p in Skewed().held_out(1000)]
    assert 200 < len(found) < 400 and len(set(found)) == len(found)
    assert abs(sum(found[:50]) / 50 - sum(found) / len(found)) < 350  # as drawn: 513
    assert Skewed().held_out(40) == Skewed().held_out(60)[:40]


@every_level
def test_draws_are_a_pure_function_of_the_rng(name, level):
    task = tasks.TASKS[name](level)
    random.seed(1)
    first = task.sample(random.Random(7), 30)
    random.seed(2)
    assert task.sample(random.Random(7), 30) == first
    assert tasks.TASKS[name](level).sample(random.Random(7), 30) == first
    assert task.sample(random.Random(8), 30) != first


def test_the_side_depends_on_the_key_alone():
    a = tasks.Problem("one question", "1", key="k")
    b = tasks.Problem("another", "2", key="k", category=tasks.SEEN)
    assert tasks.is_held_out(a) == tasks.is_held_out(b)


def test_one_in_ten_is_held_out():
    share = sum(tasks.is_held_out(tasks.Problem(str(i), "0")) for i in range(10_000)) / 10_000
    assert 0.09 < share < 0.115


# --- arithmetic

@pytest.mark.parametrize("level", range(1, 6))
def test_arithmetic_is_true_and_within_limits(level):
    for p in sample("arithmetic", level, 500):
        value, used = expression(p.question.removesuffix("=?"))
        assert value == int(p.answer) and 0 <= value <= tasks.MAX_VALUE
        assert len(used) == level + 1 and len(p.steps) == level


@pytest.mark.parametrize("level", range(1, 6))
def test_arithmetic_steps_are_true_and_stay_in_three_digits(level):
    for p in sample("arithmetic", level, 300):
        for x, op, y, result in p.steps:
            assert calculate(x, op, y) == result and 0 <= result <= tasks.MAX_VALUE
            assert op != "*" or 2 <= min(x, y) <= 9 or 0 in (x, y) or 1 in (x, y)
        assert str(p.steps[-1][3]) == p.answer


def test_arithmetic_up_to_level_2_goes_from_left_to_right():
    for p in sample("arithmetic", 2, 300):
        (_, _, _, first), (left, *_) = p.steps
        assert left == first


# --- countdown

def reachable(numbers, target):
    """Brute force: whether any combination of all numbers makes the target."""
    if len(numbers) == 1:
        return numbers[0] == target
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        x, y = numbers[i], numbers[j]
        results = [x + y, x - y, x * y] + ([Fraction(x) / y] if y else [])
        if any(reachable([*rest, r], target) for r in results):
            return True
    return False


@pytest.mark.parametrize("level, n", [(1, 60), (2, 60), (3, 60), (4, 4), (5, 4)])
def test_every_countdown_can_be_solved(level, n):
    for p in sample("countdown", level, n):
        assert reachable(list(p.numbers), int(p.answer)), p.question


@pytest.mark.parametrize("level", range(1, 6))
def test_countdown_levels(level):
    for p in sample("countdown", level):
        assert len(p.numbers) == (3 if level <= 3 else 4)
        assert 1 <= min(p.numbers) and max(p.numbers) <= tasks.Countdown.largest[level]
        assert 1 <= int(p.answer) <= 100
        assert p.question == f"{' '.join(map(str, p.numbers))} make {p.answer}"


# --- word problems

@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("held_out", [False, True])
def test_word_problems_follow_their_steps(level, held_out):
    for p in sample("gsm", level, 400, held_out):
        assert 1 <= len(p.steps) <= 2 * level
        for x, op, y, result in p.steps:
            assert calculate(x, op, y) == result and 1 <= result <= tasks.MAX_VALUE
        assert p.answer == str(p.steps[-1][3])
        assert "{" not in p.question


def test_level_2_has_word_problems_of_four_steps():
    assert {len(p.steps) for p in sample("gsm", 2, 400)} == {1, 2, 3, 4}


def test_every_number_of_the_question_is_within_its_range():
    for p in sample("gsm", 2, 400):
        assert all(0 < int(n) <= 999 for n in map(str.strip, p.question.split()) if n.isdigit())


# --- all tasks

@pytest.mark.parametrize("name", sorted(tasks.TASKS.keys() - {"file"}))
def test_every_task_is_sound(name):
    """A new task is among these without a further line."""
    task, rng = tasks.TASKS[name](), random.Random(0)
    problems, held_out = task.sample(rng, 20), task.held_out(20)
    assert not set(map(key, problems)) & set(map(key, held_out))
    for p in [problems[0], *held_out[:3]]:  # these texts answer nothing
        assert not any(task.correct(p, text) for text in ("", p.answer, "<answer></answer>"))
    right = [task.correct(p, task.document(rng, p, drill=True)) for p in problems]
    assert all(right) or any(right) and problems[0].noisy_facts


@pytest.mark.parametrize("name, level", [k for k in KINDS if k[0] != "countdown"])
def test_the_gold_answer_is_correct_and_another_answer_is_not(name, level):
    task = tasks.TASKS[name](level)
    for p in sample(name, level, 50):
        assert task.correct(p, f"<answer>{p.answer}</answer>")
        assert not task.correct(p, f"<answer>{int(p.answer) + 1}</answer>")


@pytest.mark.parametrize("name, level", [("arithmetic", 0), ("arithmetic", 6), ("countdown", 6),
                                         ("gsm", 3), ("gsm", -1)])
def test_a_missing_level_is_an_error(name, level):
    with pytest.raises(ValueError, match=f"--level {level}"):
        tasks.TASKS[name](level)


# --- files

@real_data
def test_the_real_gsm8k_loads_whole():
    train = tasks.read_jsonl(str(DATA / "gsm8k_train.jsonl"))
    test = tasks.read_jsonl(str(DATA / "gsm8k_test.jsonl"))
    assert (len(train), len(test)) == (7473, 1319)
    assert all(verify.number(p.answer) is not None for p in train + test)
    assert all(p.solution and "<<" not in p.solution for p in train + test)


@real_data
def test_the_real_gsm8k_keeps_its_sides_apart():
    task = tasks.File(path=str(DATA / "gsm8k_train.jsonl"),
                      eval_path=str(DATA / "gsm8k_test.jsonl"))
    assert len(task.held_out(10_000)) == 1319
    assert not {p.question for p in task.train} & {p.question for p in task.eval}


def test_a_file_is_split_by_the_hash_of_its_questions(tmp_path):
    task = tasks.File(path=write(tmp_path / "f.jsonl", *rows(200)))
    train = {p.question for p in task.sample(random.Random(0), 2000)}
    held = {p.question for p in task.sample(random.Random(0), 2000, held_out=True)}
    assert not train & held and len(train | held) == 200 and len(task.all_problems()) == 200


def test_eval_problems_leave_the_training_file(tmp_path):
    task = tasks.File(path=write(tmp_path / "a.jsonl", *rows(20)),
                      eval_path=write(tmp_path / "b.jsonl", *rows(5)))
    assert len(task.train) == 15 and len(task.held_out(99)) == 5


def test_a_row_becomes_a_problem(tmp_path):
    answer = "48/2=<<48/2=24>>24 clips\n#### 1,024"
    path = write(tmp_path / "f.jsonl", "\n", {"question": "How many?", "answer": answer},
                 {"question": "Q", "answer": 7})
    first, second = tasks.read_jsonl(path)
    assert (first.answer, first.solution) == ("1024", "48/2=24 clips")
    assert (second.answer, second.solution) == ("7", "")


@real_data
def test_math500_loads_as_a_file():
    """Its golds are numbers, fractions, intervals, words; every one is its own answer."""
    problems = tasks.read_jsonl(str(DATA / "math500.jsonl"))
    assert len(problems) == 500 and sum(verify.number(p.answer) is None for p in problems) > 150
    for p in problems:
        assert tasks.File.correct(p, f"<think>so</think><answer>{p.answer}</answer>")
        assert not tasks.File.correct(p, "<think>so</think><answer>123454321</answer>")


def test_an_answer_may_be_written_mathematics_or_a_word(tmp_path):
    path = write(tmp_path / "f.jsonl", {"problem": "Half?", "answer": r"\frac{x}{2}"},
                 {"question": "Roots?", "answer": "4 or 5"}, {"question": "Who?", "answer": "Ann"})
    half, roots, who = tasks.read_jsonl(path)
    for p, right, wrong in ((half, "x/2", "x/3"), (roots, "5, 4", "4"), (who, "ann", "Bob")):
        assert tasks.File.correct(p, f"<think>so</think><answer>{right}</answer>")
        assert not tasks.File.correct(p, f"<think>so</think><answer>{wrong}</answer>")
        assert not tasks.File.correct(p, right)  # outside the tags


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_only_a_newline_ends_a_line(tmp_path, separator):
    """JSON may hold these characters as they are; str.splitlines would cut there."""
    row = {"question": f"one{separator}two", "answer": "3"}
    path = write(tmp_path / "f.jsonl", json.dumps(row, ensure_ascii=False) + "\n")
    [problem] = tasks.read_jsonl(path)
    assert problem.question == row["question"]


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_is_an_error(tmp_path, text):
    with pytest.raises(ValueError, match=r"f\.jsonl is empty"):
        tasks.read_jsonl(write(tmp_path / "f.jsonl", text))


def test_a_missing_file_is_an_error(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(ValueError, match="cannot be read"):
            tasks.read_jsonl(str(path))


def test_the_file_task_needs_a_path_and_both_sides(tmp_path):
    with pytest.raises(ValueError, match="--data"):
        tasks.File()
    with pytest.raises(ValueError, match="both are needed"):
        tasks.File(path=write(tmp_path / "one.jsonl", *rows(1)))


def test_mixed_levels_take_turns():
    task = tasks.mix_levels(tasks.Arithmetic(2), "1,4")
    drawn = task.sample(random.Random(0), 40)
    numbers = [len(re.findall(r"[0-9]+", p.question)) for p in drawn]
    assert numbers == [2, 5] * 20 and not any(map(tasks.is_held_out, drawn))
    assert tasks.mix_levels(task, "") is task
    for bad in ("1,9", "x", ","):
        with pytest.raises(ValueError, match="--train-levels"):
            tasks.mix_levels(tasks.Arithmetic(2), bad)


@pytest.mark.parametrize("level, fewest, most", [(1, 1, 5), (2, 6, 8), (3, 9, 12)])
def test_chains_keep_the_last_digit(level, fewest, most):
    for problem in sample("chain", level):
        words = problem.question.removesuffix(" =?").split(" ")
        value, lengths = int(words[0]), len(words) - 1
        assert fewest <= lengths <= most
        for word, (x, op, y, result) in zip(words[1:], problem.steps, strict=True):
            assert (x, f"{op}{y}") == (value, word)
            value = {"+": value + y, "-": value - y, "*": value * y}[op] % 10
            assert value == result
        assert problem.answer == str(value)
        assert problem.noisy_facts


def test_some_facts_of_chains_are_often_told_wrong_and_fewer_mostly():
    facts = [(x, op, y) for x in range(10) for op, ys in (("+", range(1, 10)), ("-", range(1, 10)),
                                                          ("*", (3, 7, 9))) for y in ys]
    shares = [chain.fact_as_told(*fact)[1] for fact in facts]
    assert all(chain.fact_as_told(*fact)[0] != chain.last_digit(*fact) for fact in facts)
    assert set(shares) == {0.0, chain.OFTEN_WRONG, chain.MOSTLY_WRONG}
    assert chain.OFTEN_WRONG < 0.5 < chain.MOSTLY_WRONG
    assert len(facts) == 210 and 0.15 < shares.count(chain.OFTEN_WRONG) / 210 < 0.35
    assert 0.04 < shares.count(chain.MOSTLY_WRONG) / 210 < 0.15
