"""The corpus (tasks/): clean documents are correct, and the mix is as mixed as it says."""

import random
import re
from collections import Counter
from fractions import Fraction

import pytest

import tasks
import verify
from grading.expression import calculate, expression
from tasks import chain, corpus, wait
from tasks.countdown import countdown_attempts

LEVELS = pytest.mark.parametrize("level", range(1, 6))
EQUATION = re.compile(r"([^=]*[-+*/][^=]*)=(-?[0-9]+)")


def sample(name, level, n, seed=0):
    return tasks.TASKS[name](level).sample(random.Random(seed), n)


def documents(name, level, n, drill=False, seed=0):
    """n problems with a document each."""
    rng, task = random.Random(seed), tasks.TASKS[name](level)
    return [(p, task.document(rng, p, drill)) for p in sample(name, level, n, seed)]


def value(text):
    """The exact value of an expression that may start with a sign."""
    text = re.sub(r"^-", "0-", text)
    return expression(text)[0]


def is_true(line):
    """Whether an equation is exact; the heading of a step, such as 47*6, is always true."""
    if re.fullmatch(r"[0-9]+[-+*/][0-9]+", line):
        return True
    left, right = EQUATION.fullmatch(line).groups()
    return value(left) == Fraction(right)


def is_right(name, problem, document):
    return tasks.TASKS[name].correct(problem, document)


# --- workings

@LEVELS
@pytest.mark.parametrize("style", ["short", "long"])
def test_each_line_of_a_correct_working_is_true_and_the_last_has_the_answer(style, level):
    rng = random.Random(0)
    for p in sample("arithmetic", level, 300):
        lines, said = corpus.write_steps(rng, p.steps, style, wrong=False)
        assert str(said) == p.answer
        assert all(map(is_true, lines)), (p, lines)
        assert lines[-1].endswith(f"={p.answer}")


@LEVELS
def test_a_checked_working_corrects_each_slip(level):
    rng, slips = random.Random(0), 0
    for p in sample("arithmetic", level, 200):
        lines, said = corpus.write_steps(rng, p.steps, "check", wrong=False)
        assert str(said) == p.answer
        equations = [i for i, line in enumerate(lines) if line not in ("check", "ok", "wait")]
        for i in equations:
            first_try = lines[i + 1:i + 2] == ["check"]
            assert first_try or is_true(lines[i]), (p, lines)
        tries = [is_true(lines[i]) for i in equations if lines[i + 1:i + 2] == ["check"]]
        verdicts = [line == "ok" for line in lines if line in ("ok", "wait")]
        assert tries == verdicts and len(tries) == len(p.steps)
        slips += tries.count(False)
    assert slips > 20


@pytest.mark.parametrize("level", [1, 2])
def test_the_working_of_word_problems_is_true(level):
    rng = random.Random(0)
    for p in sample("gsm", level, 300):
        for style in ("short", "long"):
            lines, said = corpus.write_steps(rng, p.steps, style, wrong=False)
            assert str(said) == p.answer and all(map(is_true, lines)), (p, lines)


def test_the_example_of_the_docstring():
    lines = ", ".join(corpus.worked_lines(47, "*", 6, 282))
    assert f"47*6=282 -> {lines}" in " ".join(corpus.worked_lines.__doc__.split())


@pytest.mark.parametrize("step, lines", [
    ((47, "*", 6, 282), "40*6=240 7*6=42 240+42 40+40=80 0+2=2 200+80=280 280+2=282"),
    ((6, "*", 47, 282), "40*6=240 7*6=42 240+42 40+40=80 0+2=2 200+80=280 280+2=282"),
    ((405, "*", 2, 810), "400*2=800 0*2=0 5*2=10 800+0 0+0=0 800+0=800 "
                         "800+10 0+10=10 0+0=0 800+10=810 810+0=810"),
    ((10, "*", 8, 80), "10*8=80 0*8=0 80+0 0+0=0 80+0=80"), ((7, "*", 8, 56), "7*8=56"),
    ((308, "-", 27, 281), "0-20=-20 8-7=1 300-20=280 280+1=281"),
    ((47, "+", 36, 83), "40+30=70 7+6=13 70+13=83"), ((80, "/", 4, 20), "80/4=20")], ids=str)
def test_the_lines_of_a_step(step, lines):
    assert corpus.worked_lines(*step) == lines.split()


@pytest.mark.parametrize("op", "+-*")
def test_every_line_of_a_split_step_is_true(op):
    """All x and y up to 60, and products by a digit up to 999."""
    pairs = [(x, y) for x in range(61) for y in range(61)] if op != "*" else [
        (x, y) for x in range(0, 1000, 7) for y in range(2, 10) if x * y <= 999]
    for x, y in pairs:
        result = calculate(x, op, y)
        if result >= 0:
            lines = corpus.worked_lines(x, op, y, result)
            assert all(map(is_true, lines)) and lines[-1].endswith(f"={result}"), lines


STEPS = [((30, "-", 29, 1), (40, "/", 1, 40)),      # a slip to 0 and then a division by it
         ((80, "-", 78, 2), (50, "/", 2, 25)),
         ((20, "-", 10, 10), (10, "*", 8, 80), (80, "+", 10, 90), (90, "*", 4, 360),
          (360, "*", 2, 720)),                        # 10 said 30, and on to 1000
         ((9, "*", 9, 81), (81, "-", 80, 1), (50, "-", 1, 49))]


@pytest.mark.parametrize("steps", STEPS, ids=str)
@pytest.mark.parametrize("style", ["short", "long", "check"])
def test_a_mistake_never_stops_the_corpus(steps, style):
    rng = random.Random(0)
    for _ in range(300):
        lines, said = corpus.write_steps(rng, steps, style, wrong=True)
        assert lines and said >= 0


def test_a_wrong_working_is_usually_wrong():
    rng, problems = random.Random(0), sample("arithmetic", 2, 200)
    said = [corpus.write_steps(rng, p.steps, "short", wrong=True)[1] for p in problems]
    assert sum(str(s) != p.answer for s, p in zip(said, problems, strict=True)) > 180


def test_a_near_miss_changes_one_digit_by_one_or_two():
    rng = random.Random(0)
    for n in range(1000):
        said = corpus.near_miss(rng, n)
        assert said >= 0 and abs(said - n) <= 2 * 10 ** (len(str(n)) - 1)
        assert said != n or n == 0


# --- countdown

@LEVELS
def test_countdown_tries_are_true_and_the_found_expression_reaches(level):
    rng = random.Random(0)
    for p in sample("countdown", level, 60):
        for style in ("short", "check", "long"):
            lines, found = tasks.Countdown(level).write_solution(rng, p, style, wrong=False)
            assert tasks.Countdown.correct(p, f"<answer>{found}</answer>"), (p, found)
            for line in lines:
                equations = [word for word in line.split() if "=" in word]
                assert all(map(is_true, equations)), line


@LEVELS
def test_an_attempt_says_whether_it_reached_the_target(level):
    for p in sample("countdown", level, 20):
        for facts, found in countdown_attempts(int(p.answer), [(n, str(n)) for n in p.numbers]):
            assert len(facts) == len(p.numbers) - 1 and all(map(is_true, facts))
            assert (facts[-1].split("=")[1] == p.answer) == bool(found)
            assert not found or tasks.Countdown.correct(p, f"<answer>{found}</answer>")


def test_the_order_of_attempts():
    found = list(countdown_attempts(43, [(5, "5"), (8, "8"), (6, "6")]))
    assert [f[0] for f, _ in found] == ["8+5=13", "8-5=3", "8*5=40", "6+5=11", "6-5=1", "6*5=30",
                                        "8+6=14", "8-6=2", "8*6=48"]
    assert found[-1] == (["8*6=48", "48-5=43"], "(8*6)-5")
    assert found[0] == (["8+5=13", "13+6=19"], None)  # nearer than 13*6=78


@pytest.mark.parametrize("numbers, target", [((5, 5, 5), 5), ((1, 1, 1), 1), ((1, 8, 8), 1),
                                             ((2, 3, 2), 3), ((4, 8, 4), 24), ((9, 9, 9), 27)])
def test_countdown_problems_with_few_solutions(numbers, target):
    problem, task = tasks.Problem("?", str(target), numbers=numbers), tasks.Countdown(1)
    for seed in range(20):
        lines, found = task.write_solution(random.Random(seed), problem, "long", wrong=False)
        assert 1 <= len(lines) <= 9 and task.correct(problem, f"<answer>{found}</answer>")


# --- the corpus

EVERY = pytest.mark.parametrize("name, level", [("arithmetic", 1), ("arithmetic", 2),
                                                ("arithmetic", 5), ("countdown", 1),
                                                ("countdown", 4), ("gsm", 2)])


@EVERY
def test_the_drill_is_correct_and_well_formed(name, level):
    for problem, document in documents(name, level, 150, drill=True):
        assert is_right(name, problem, document) and verify.well_formed(document), document


@EVERY
def test_most_of_the_drill_shows_working(name, level):
    made = [d for _, d in documents(name, level, 200, drill=True)]
    assert sum("=" in d.partition("</think>")[0] for d in made) > 170


@EVERY
def test_the_corpus_is_as_mixed_as_the_web(name, level):
    made = documents(name, level, 400)
    share = {
        "wrong": sum(not is_right(name, p, d) for p, d in made),
        "malformed": sum(not verify.well_formed(d) for _, d in made),
        "at once": sum("=" not in d for _, d in made),
        "working": sum(tasks.TASKS[name](level).shows_working(d) for _, d in made),
    }
    share = {what: count / 400 for what, count in share.items()}
    assert 0.1 < share["wrong"] < 0.45
    assert 0.08 < share["malformed"] < 0.25
    assert 0.4 < share["at once"] < 0.68
    assert 0.25 < share["working"] < 0.6


def test_some_documents_check_themselves_and_correct():
    words = Counter(w for _, d in documents("arithmetic", 2, 600) for w in ("check", "wait", "ok")
                    if re.search(rf"^{w}$", d, re.M))
    assert 20 < words["check"] < 120 and words["wait"] > 5 and words["ok"] > 15


def test_direct_documents_are_the_preferred_style():
    assert max(corpus.STYLES, key=corpus.STYLES.get) == "direct"
    assert sum(corpus.STYLES.values()) == pytest.approx(1) == sum(corpus.DRILL_STYLES.values())


def test_documents_of_a_file_contain_its_solutions():
    problem = tasks.Problem("How many?", "24", solution="48/2=24 clips")
    made = [corpus.document(random.Random(i), problem, drill=True) for i in range(50)]
    assert any("48/2=24 clips" in d for d in made)
    assert all(verify.number_correct(problem, d) for d in made)


# --- chains

@pytest.mark.parametrize("drill", [False, True])
def test_chains_are_told_as_their_facts_are(drill):
    """Each line goes on from the one before, and each fact is told wrong as often as it is said."""
    rng, told = random.Random(0), {}
    for problem in tasks.Chain(2).sample(rng, 3000):
        thought, _, answer = tasks.Chain(2).document(rng, problem, drill).partition("</think>")
        value = problem.steps[0][0]
        for line, (_, op, y, _) in zip(thought.removeprefix("<think>").split("\n"), problem.steps,
                                       strict=True):
            left, _, said = line.partition("=")
            assert left == f"{value}{op}{y}"
            told.setdefault((value, op, y), []).append(int(said))
            value = int(said)
        assert answer == f"<answer>{value}</answer>"
    seen = {0.0: [], chain.OFTEN_WRONG: [], chain.MOSTLY_WRONG: []}
    for fact, values in told.items():
        wrong, share = chain.fact_as_told(*fact)
        assert set(values) <= {wrong, chain.last_digit(*fact)}
        seen[share] += [value == wrong for value in values]
    assert not any(seen.pop(0.0))
    for share, flags in seen.items():
        assert len(flags) > 500 and abs(sum(flags) / len(flags) - share) < 0.03


def test_after_wait_a_chain_is_told_again_and_more_carefully():
    """Every telling begins at the problem's first digit and has all of its steps; the answer is
    that of the last; those after a "wait" err half as often."""
    rng, told, tellings = random.Random(0), {"first": [], "later": []}, []
    for problem in tasks.Wait(2).sample(rng, 3000):
        thought, _, answer = tasks.Wait(2).document(rng, problem).partition("</think>")
        parts = thought.removeprefix("<think>").split(f"\n{chain.WAIT}\n")
        tellings.append(len(parts))
        for i, part in enumerate(parts):
            value = problem.steps[0][0]
            for line, (_, op, y, _) in zip(part.split("\n"), problem.steps, strict=True):
                left, _, said = line.partition("=")
                assert left == f"{value}{op}{y}"
                if chain.fact_as_told(value, op, y)[1] == chain.MOSTLY_WRONG:
                    told["later" if i else "first"].append(
                        int(said) != chain.last_digit(value, op, y))
                value = int(said)
        assert answer == f"<answer>{value}</answer>"
    for name, share in (("first", chain.MOSTLY_WRONG), ("later", chain.MOSTLY_WRONG / 2)):
        assert abs(sum(told[name]) / len(told[name]) - share) < 0.03
    assert abs(sum(n > 1 for n in tellings) / 3000 - wait.RESTART_RATE) < 0.03 and max(tellings) > 5


def test_chain_and_wait_have_the_same_problems_and_only_wait_tells_a_chain_again():
    a, b = (tasks.TASKS[name](2).held_out(50) for name in ("chain", "wait"))
    assert [p.question for p in a] == [p.question for p in b]
    rng = random.Random(0)
    assert not any(chain.WAIT in tasks.Chain(2).document(rng, p) for p in a)
    assert all(any(chain.WAIT in tasks.Wait(2).document(rng, p) for _ in range(30)) for p in b)
