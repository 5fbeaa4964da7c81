"""tasks/bilingual.py and grading/languages.py: the verifier, the corpus, words by language."""

import random
from collections import Counter
from dataclasses import replace

import pytest

import tasks
import verify
from grading import languages
from grading.languages import CHINESE, LATIN, is_mixed, language_consistency, language_of
from infra import metrics
from tasks import bilingual, chain
from tokenizer import Tokenizer

TASK = tasks.TASKS["bilingual"](2)
STEPS = ((3, "+", 6, 9), (9, "*", 9, 1))
ENGLISH = tasks.Problem("3 +6 *9 =?", "1", STEPS, category=LATIN)
HAN = tasks.Problem("三 加六 乘九 得几", "1", STEPS, category=CHINESE)


def thought(working, answer="1"):
    return f"<think>{working}</think><answer>{answer}</answer>"


def documents(n, drill=False, seed=0):
    rng = random.Random(seed)
    return [(p, TASK.document(rng, p, drill)) for p in TASK.sample(rng, n)]


# --- the problems

def test_the_languages_have_half_of_the_problems_each_and_every_character_is_a_token():
    tokenizer = Tokenizer.toy(TASK.words)
    problems = TASK.sample(random.Random(0), 400)
    count = Counter(map(language_of, problems))
    assert 160 < count[LATIN] < 240 and count[LATIN] + count[CHINESE] == 400
    for p in problems:
        assert p.category == language_of(p) and p.answer in "0123456789"
        assert 5 <= len(p.steps) <= 7
        lengths = {len(tokenizer.encode(bilingual.written(p.key, lang))) for lang in count}
        assert len(lengths) == 1  # no language costs more tokens
    for _, text in documents(50):
        assert len(tokenizer.encode(text)) < TASK.max_new_tokens


def test_a_chain_in_the_other_language_is_on_the_same_side():
    sides = {}
    for held_out in (False, True):
        for p in tasks.TASKS["bilingual"](1).sample(random.Random(1), 400, held_out):
            assert sides.setdefault(p.key, held_out) == held_out
            assert p.question in (p.key, bilingual.written(p.key, CHINESE))
            assert tasks.is_held_out(replace(p, question="三")) == held_out
    assert {False, True} == set(sides.values())
    assert {p.category for p in TASK.held_out(50)} == {LATIN, CHINESE}


def test_the_chain_of_a_question_is_that_of_its_steps():
    for p in TASK.sample(random.Random(2), 100):
        value = p.steps[0][0]
        text = str(value)
        for x, op, y, result in p.steps:
            assert x == value and result == chain.last_digit(x, op, y) and op in "+*"
            value, text = result, f"{text} {op}{y}"
        assert (p.key, p.answer) == (text + " =?", str(value))


# --- the verifier

@pytest.mark.parametrize("problem, answer, right", [
    (ENGLISH, "1", True), (ENGLISH, " 1 ", True), (ENGLISH, "一", False), (ENGLISH, "2", False),
    (HAN, "一", True), (HAN, "1", True), (HAN, " 一\n", True), (HAN, "二", False),
    (HAN, "1一", False), (HAN, "一 1", False), (HAN, "一一", False), (HAN, "十一", False),
    (HAN, "一或二", False), (HAN, "得一", False), (HAN, "零一二三四五六七八九", False),
    (HAN, "１", False), (HAN, "壹", False), (HAN, "", False), (HAN, "\ufffd", False)])
def test_the_verifier_takes_one_digit(problem, answer, right):
    assert TASK.correct(problem, thought("w", answer)) is right
    assert TASK.correct(problem, f"<answer>{answer}</answer>") is right


@pytest.mark.parametrize("text", [
    "一", "<think>一</think>一", "<answer>一", "<answer>一</answer><answer>二</answer>",
    "<answer>一</answer><answer>一</answer>", "<think><answer>一</answer></think>"])
def test_two_answers_and_answers_outside_of_their_tags_are_wrong(text):
    assert not TASK.correct(HAN, text)


# --- words by language

@pytest.mark.parametrize("text, latin, chinese", [
    ("3+6=9", 3, 0), ("三加六得九", 0, 3), ("三+六=九", 0, 3), ("3加6得9", 3, 0), ("", 0, 0),
    ("+-*/=\n ", 0, 0), ("加减乘除得", 0, 0), ("so 9", 2, 0), ("所以九", 0, 3), ("3加六得9", 2, 1),
    ("there are 12 of them", 6, 0), ("共有12个", 2, 3), ("\ufffd\ufffd9", 1, 0), ("〇", 0, 1),
    ("９", 0, 0), ("é", 0, 0)])
def test_words_are_latin_words_digits_and_chinese_characters(text, latin, chinese):
    assert languages.count_words(text) == {LATIN: latin, CHINESE: chinese}


@pytest.mark.parametrize("text, english", [
    (thought("3+6=9\n9*9=1"), 1.0), (thought("三加六得九\n九乘九得一"), 0.0),
    (thought("3+6=9\n九乘九得一"), 0.5), (thought("3+6=九"), 2 / 3),
    ("3+6=9</think><answer>1</answer>", 1.0), ("三<think>3</think>六<answer>1</answer>", 1 / 3),
    ("<think>3+6=9", 1.0), ("<think>3+六=九", 1 / 3),
    (thought("3+6=9", "一"), 1.0)])
def test_consistency_is_the_share_of_words_before_the_answer(text, english):
    assert language_consistency(ENGLISH, text) == pytest.approx(english)
    assert language_consistency(HAN, text) == pytest.approx(1 - english)
    assert is_mixed(text) == (0 < english < 1)


@pytest.mark.parametrize("text", ["", "<answer>1</answer>", "<think></think><answer>1</answer>",
                                  thought("\n +=加得"), "\ufffd\ufffd", thought("\ufffd")])
def test_a_thought_without_words_is_in_no_language(text):
    assert language_consistency(ENGLISH, text) == language_consistency(HAN, text) == 0.0
    assert not is_mixed(text)


def test_the_language_of_a_question_is_that_of_most_of_its_words():
    def ask(question):
        return language_of(tasks.Problem(question, "1"))
    assert ask("3 +6 =?") == ask("") == ask("How do you say 三 here?") == LATIN
    assert ask("三 加六 得几") == ask("用Python写两个数") == CHINESE


def test_words_are_read_in_linear_time():
    text = "<think>" + "<" * 100_000 + "a" * 100_000 + "九" * 100_000
    assert language_consistency(HAN, text) == pytest.approx(100_000 / 100_001, abs=1e-4)


# --- the reward and the metrics

def test_the_reward_language_adds_the_share_of_the_language():
    texts = [thought("3+6=9"), thought("3+6=九"), thought("三加六得九"), thought("3", "2"), ""]
    found = [TASK.score(ENGLISH, text, "language").total for text in texts]
    assert found == pytest.approx([2.1, 1.1 + 2 / 3, 1.1, 1.1, 0.0])
    assert [TASK.score(HAN, text, "language").total for text in texts] == pytest.approx(
        [1.1, 1.1 + 1 / 3, 2.1, 0.1, 0.0])
    # other tasks: a Latin question
    arithmetic = tasks.Problem("2+2=?", "4")
    assert verify.reward(verify.number_correct, arithmetic, thought("2+2=4", "4"),
                         "language").total == pytest.approx(2.1)


def test_the_measures_of_a_task_are_means_over_responses():
    problems, texts = [ENGLISH, HAN, HAN], [thought("3"), thought("3+六"), ""]
    assert metrics.means(TASK.measures, problems, texts) == pytest.approx(
        {"consistency": 0.5, "mixed": 1 / 3})
    assert metrics.means(tasks.Arithmetic.measures, problems, texts) == {}


# --- the corpus

def test_most_thoughts_are_in_the_language_of_the_question_and_some_are_mixed():
    made = documents(800)
    share = {"one": sum(language_consistency(p, d.partition("</think>")[0]) == 1 for p, d in made),
             "mixed": sum(is_mixed(d.partition("</think>")[0]) for _, d in made),
             "broken": sum(not verify.well_formed(d) for _, d in made),
             "right": sum(TASK.correct(p, d) for p, d in made)}
    share = {name: n / 800 for name, n in share.items()}
    assert share["one"] == pytest.approx(bilingual.THOUGHTS["one"], abs=0.05)
    assert share["mixed"] == pytest.approx(bilingual.THOUGHTS["mixed"], abs=0.04)
    assert share["broken"] == pytest.approx(0.15, abs=0.04) and 0.15 < share["right"] < 0.5
    assert all(verify.well_formed(d) for _, d in documents(100, drill=True))


def test_each_language_states_one_kind_of_step_wrongly():
    rng, wrong = random.Random(0), {}
    for p in TASK.sample(rng, 400):
        for language in (LATIN, CHINESE):
            lines, value = bilingual.tell(rng, p.steps, [language] * len(p.steps),
                                          bilingual.UNSURE)
            x = p.steps[0][0]
            for line, (_, op, y, _) in zip(lines, p.steps, strict=True):
                [told] = [d for d in range(10) if line == bilingual.written(
                    f"{x}{op}{y}={d}", language)]
                flags = wrong.setdefault((language, op), [])
                flags.append(told != chain.last_digit(x, op, y))
                assert told in (chain.last_digit(x, op, y),
                                chain.fact_as_told(x, op, y)[0])
                x = told
            assert value == x
    rates = {key: sum(flags) / len(flags) for key, flags in wrong.items()}
    assert rates[LATIN, "+"] == rates[CHINESE, "*"] == 0
    assert 0.35 < rates[LATIN, "*"] < 0.5 and 0.35 < rates[CHINESE, "+"] < 0.5


def test_the_surer_language_for_each_step_is_always_right():
    """So mixing pays: no single language tells a whole chain as well."""
    rng = random.Random(0)
    for p in TASK.sample(rng, 200):
        best = [LATIN if op == "+" else CHINESE for _, op, _, _ in p.steps]
        assert str(bilingual.tell(rng, p.steps, best, bilingual.UNSURE)[1]) == p.answer


def test_chains_of_other_tasks_are_as_before_and_steps_of_this_one_have_no_truth():
    assert {op for p in tasks.Chain(2).sample(random.Random(0), 50)
            for _, op, _, _ in p.steps} == set("+-*")
    p, text = documents(1, drill=True)[0]
    assert chain.steps_true(p, text) is None
    assert chain.steps_true(replace(p, category=""), thought("3")) is not None


# --- the readable form

def test_the_curated_form_is_right_readable_and_in_one_language():
    rng = random.Random(0)
    for p in TASK.sample(rng, 200):
        text = bilingual.curated(rng, p)
        assert TASK.correct(p, text) and bilingual.is_readable(p, text) and not is_mixed(text)
        assert language_consistency(p, text) == 1
        assert len(text.partition("</think>")[0].split("\n")) == len(p.steps) + 1
    assert not any(bilingual.is_readable(p, d) for p, d in documents(500))


def test_the_example_of_the_curated_form():
    rng = random.Random(0)
    assert bilingual.curated(rng, ENGLISH) == thought("3+6=9\n9*9=1\nso 1")
    assert bilingual.curated(rng, HAN) == thought("三加六得九\n九乘九得一\n所以一", "一")


@pytest.mark.parametrize("working, readable", [
    ("3+6=9\n9*9=1\nso 1", True), ("\n3+6=9\n9*9=1\nso 1\n", True),
    ("3+6=8\n8*9=2\nso 2", True),                       # wrong, and readable
    ("3+6=8\n9*9=1\nso 1", False),                      # a step that does not go on from the last
    ("3+6=9\n9*9=1", False), ("3+6=9\n9*9=1\nso 2", False), ("3+6=9\n9*9=1\n所以一", False),
    ("3+6=9*9=1\nso 1", False), ("3+6=9 9*9=1\nso 1", False), ("9*9=1\nso 1", False),
    ("3+6=9\n9*9=1\n1+1=2\nso 2", False), ("三加六得九\n九乘九得一\n所以一", False),
    ("3+6=9\n九乘九得一\nso 1", False), ("3加6得9\n9乘9得1\nso 1", False), ("so 3", False),
    ("3+6=9\n\n9*9=1\nso 1", False), ("3+6=19\n9*9=1\nso 1", False), ("", False)])
def test_what_is_readable(working, readable):
    assert bilingual.is_readable(ENGLISH, thought(working)) is readable
    assert not bilingual.is_readable(HAN, thought(working, "一")) or "三" in working
    assert not bilingual.is_readable(ENGLISH, thought(working) + "x")
