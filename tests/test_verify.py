"""verify.py: small grammars without holes; everything outside them is wrong."""

import inspect
import itertools
import json
import math
import re
import runpy
import subprocess
import sys
import time
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import verify
from grading import algebra, answers, extraction, lexer, parser
from grading import expression as expression_module
from grading.expression import calculate, expression
from infra import rewards
from tasks.countdown import Countdown
from tasks.rows import read_row


def problem(answer, numbers=()):
    return SimpleNamespace(question="?", answer=answer, numbers=tuple(numbers))


def says(answer):
    return f"<think>t</think><answer>{answer}</answer>"


def right(answer, gold):
    return verify.number_correct(problem(gold), says(answer))


def reaches(text, target, numbers):
    return Countdown.correct(problem(str(target), numbers), says(text))


# --- numbers

@pytest.mark.parametrize("text, value", [
    ("18", 18), ("18.", 18), ("$18.00", 18), ("1,000", 1000), ("12,345,678", 12345678), ("-5", -5),
    ("+5", 5), ("50%", 50), ("0", 0), ("007", 7), (".5", Fraction(1, 2)), ("-$5", -5),
    ("1.50", Fraction(3, 2)), ("1/3", Fraction(1, 3)), ("-6/4", Fraction(-3, 2)), (" 7\n", 7),
    ("18. ", 18), ("9" * 40, int("9" * 40)), ("$5$", 5), (r"\$5", 5), (r"-\$1{,}000.50", -1000.5),
    (r"50\%", 50), ("1{,}000{,}000", 10**6), ("$-1/2$", Fraction(-1, 2)), (r"$\$5$", 5)])
def test_number_reads_the_forms_of_gsm8k_exactly(text, value):
    assert verify.number(text) == value


HOSTILE = ["", " ", "4 or 5", "4 5", "4,5", "1,00", "1,0000", "10,00,000", ",5", "5,", "1e5",
           "0x10", "1_000", "٣", "²", "½", "４", "--5", "+-5", "- -5", "5-", "1/0", "1/00", "1//2",
           "1/2/3", "1.2.3", "..5", "1/-2", "nan", "inf", "True", "4=4", "=4", "2+2", "(4)",
           "four", "4 apples", "x4", "4x", "$", "%", ".", "-", "$$5", "5%%",
           "$$", "$$$", "$$5$$", "$5$5$", "5$", r"\\$5", r"5\\%", r"\5", "1{,}00", "{,}5", "{5}",
           "5{}", "1{,000", "1,{}000", r"1\,000", "4\n5", "4\x00",
           "\x004", "4\u200b", "9" * 41, "9" * 5000, "1/" + "9" * 5000, "(" * 100, "[4]", "**4**",
           "\\boxed{4}"]


@pytest.mark.parametrize("text, value", [("0.1", Fraction(1, 10)),
                                         ("-0.00001", Fraction(-1, 10**5))])
def test_number_decimals(text, value):
    assert verify.number(text) == value


@pytest.mark.parametrize("text", HOSTILE)
def test_number_refuses_everything_else(text):
    assert verify.number(text) is None


def test_a_third_is_not_a_rounded_third():
    assert right("1/3", "1/3") and right("2/6", "1/3") and not right("0.33", "1/3")


@pytest.mark.parametrize("answer, gold", [
    ("18", "18"), ("$18.00", "18"), ("1,000", "1000"), (" 18 ", "18"), ("18", "work #### 18"),
    ("1000", "#### 1,000"), ("-5", "-5"), ("50%", "50")])
def test_equal_numbers_are_right(answer, gold):
    assert right(answer, gold)


@pytest.mark.parametrize("answer", [h for h in HOSTILE[:-1] if h] + ["3", "5", "-4", "44", "4.01"])
def test_other_answers_are_wrong(answer):
    assert not right(answer, "4")


@pytest.mark.parametrize("gold", ["", " ", "####", "#### ", "none", "4 or 5", "4 #### x", "1/0",
                                  "٣", "9" * 5000, "nan"])
@pytest.mark.parametrize("text", ["", says(""), says("4"), says("none"), "<answer></answer>"])
def test_a_gold_answer_that_is_not_a_number_is_an_error(gold, text):
    with pytest.raises(ValueError):
        verify.number_correct(problem(gold), text)


@pytest.mark.parametrize("gold", ["", "none"])
def test_a_countdown_target_that_is_not_a_number_is_an_error(gold):
    with pytest.raises(ValueError):
        reaches("1+2", gold, [1, 2])


# --- where the answer stands

@pytest.mark.parametrize("text, answer", [
    ("<think>a</think><answer>4</answer>", "4"), ("<answer> 4 </answer>", "4"),
    ("a\n<answer>4</answer>", "4"), ("<think>a</think><answer>\n4\n</answer>\n", "4"),
    ("<think>4</think><answer>5</answer>", "5"), ("<answer>4</answer><|im_end|>", "4"),
    (r"<answer>\boxed{4}</answer>", "4"), (r"<answer> $\boxed{\boxed{4}}$. </answer>", "4"),
    (r"<answer>\boxed 42</answer>", "42"), (r"<answer>\boxed{\frac12}</answer>", r"\frac12"),
    (r"<answer>5 or \boxed{4}</answer>", r"5 or \boxed{4}"),
    (r"<answer>\boxed{4} or \boxed{5}</answer>", r"\boxed{4} or \boxed{5}")])
def test_extract_returns_the_only_answer(text, answer):
    assert verify.extract(text) == answer


@pytest.mark.parametrize("text", [
    "", "4", "the answer is 4", "#### 4", "<answer>4", "4</answer>", "<answer></answer>",
    "<answer> \n </answer>", r"<answer>\boxed{}</answer>", "<answer>4</answer><answer>5</answer>",
    "<answer>4</answer><answer>4</answer>", "<answer><answer>4</answer></answer>",
    "<answer>5<answer>4</answer>", "<answer>4</answer>5</answer>",
    "<think><answer>4</answer></think>", "<think>a</think><answer><think>4</think></answer>",
    "<think><answer>4</answer></think>4", "<answer>4</answer><think>a</think>",
    "<think><answer>4</answer></think><answer>5</answer>", "<ANSWER>4</ANSWER>",
    "<think>a<answer>4</answer>", "<think>a</answer><answer>4</answer>",
    "<think>a</think><think>b<answer>4</answer>",
    "<answer >4</answer>", "< answer>4</answer>", "<answer>4</answer >", "</answer>4<answer>"])
def test_extract_finds_nothing_elsewhere(text):
    assert verify.extract(text) is None
    assert not verify.number_correct(problem("4"), text)


@pytest.mark.parametrize("text", [
    "<answer>4</answer> so it is 4", "a</think><answer>4</answer>",
    "<think>a</think><think>b</think><answer>4</answer>"])
def test_extract_does_not_need_the_whole_form(text):
    assert verify.extract(text) == "4"


def test_the_right_number_in_the_thinking_earns_nothing():
    assert not verify.number_correct(problem("4"), "<think>2+2=4</think><answer>5</answer>")


# --- the form

@pytest.mark.parametrize("text", [says("4"), f" \n{says('4')}\n", says("no number at all"),
                                  "<think>a\nb</think> \n <answer>4</answer>",
                                  says("4") + "<|im_end|>", says("4") + "</s>\n<|endoftext|>\n"])
def test_well_formed(text):
    assert verify.well_formed(text)


@pytest.mark.parametrize("text", [
    "", "4", "<answer>4</answer>", "<think>a</think>4", "<think>a</think><answer>4",
    "<think></think><answer>4</answer>", "<think> \n</think><answer>4</answer>",
    "<think>a</think><answer></answer>", "<think>a</think><answer> </answer>",
    "x<think>a</think><answer>4</answer>", "<think>a</think><answer>4</answer>x",
    "<think>a</think>x<answer>4</answer>", "<answer>4</answer><think>a</think>",
    "<think>a<answer>4</answer></think>", "<think>a</think><answer><think>4</answer>",
    "<think>a</think><think>b</think><answer>4</answer>", says("4") * 2,
    "<think>a</think><answer>4</answer></answer>", "</think>a<think><answer>4</answer>",
    "<THINK>a</THINK><ANSWER>4</ANSWER>", "<|im_end|>" + says("4"), says("4") + "<|im_end|>5",
    "<think>a</think><|im_end|><answer>4</answer>", "\u200b" + says("4")])
def test_not_well_formed(text):
    assert not verify.well_formed(text)


# --- expressions

@pytest.mark.parametrize("text, value, used", [
    ("7", 7, [7]), ("1+2*3", 7, [1, 2, 3]), ("(1+2)*3", 9, [1, 2, 3]), ("8-3-2", 3, [8, 3, 2]),
    ("8/4/2", 1, [8, 4, 2]), ("8-(3-2)", 7, [8, 3, 2]), ("1/3*3", 1, [1, 3, 3]),
    (" ( 1 + 2 ) ", 3, [1, 2]), ("((5))", 5, [5]), ("2*(3+4)-5", 9, [2, 3, 4, 5])])
def test_expression(text, value, used):
    assert expression(text) == (value, used)


BROKEN = ["", " ", "+", "1+", "+1", "-1", "1-", "--1", "1--2", "1+-2", "()", "(1", "1)", ")(",
          "(1))", "1.5*3", ".5*8", "5.", "7//2", "2**5", "2^5", "5%3", "1=1", "1+2=3", "1 2",
          "1  2", "2(3)", "(2)(3)", "(2)3", "1/0", "1/(2-2)", "1,2", "1e5", "0x1", "1_0", "x",
          "2×3", "6÷2", "٣+1", "²", "1+2;3", "1+2\n", "1\n+2", "\x001", "1\t+2", "abs(1)",
          "__import__('os')", "(" * 100, ")" * 100, "(" * 199, "1" * 201, "9" * 5000, "1+" * 99,
          "-" * 200, "1 + 2 # 3", "4 or 5"]


@pytest.mark.parametrize("text", BROKEN)
def test_expression_refuses_texts_outside_its_grammar(text):
    assert expression(text) is None


def test_deep_brackets_are_no_error():
    assert expression("(" * 90 + "1" + ")" * 90) in (None, (1, [1]))


TREES = st.recursive(st.integers(0, 99).map(str), lambda part: st.tuples(
    part, st.sampled_from("+-*/"), part).map(lambda t: f"({t[0]}{t[1]}{t[2]})"), max_leaves=8)


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_expression_agrees_with_python_fractions(text):
    """Only the test may use `eval`: it wrote the text itself."""
    try:
        want = eval(re.sub(r"[0-9]+", r"Fraction(\g<0>)", text))
    except ZeroDivisionError:
        want = None
    found = expression(text)
    assert (found[0] if found else None) == want or len(text) > 200


# --- countdown

@pytest.mark.parametrize("text, target, numbers", [
    ("3*7+5", 26, [3, 5, 7]), ("(3*7)+5", 26, [3, 5, 7]), ("5 + 7 * 3", 26, [3, 5, 7]),
    ("8/3*3", 8, [3, 3, 8]), ("8/(3-8/3)", 24, [3, 3, 8, 8])])
def test_countdown_accepts_each_number_once(text, target, numbers):
    assert reaches(text, target, numbers)


@pytest.mark.parametrize("text, target, numbers", [
    ("1.5*3", 4, [1, 5, 3]), ("1.5*4", 6, [1, 5, 4]), ("7//2", 3, [7, 2]),
    ("2**5", 32, [2, 5]), (".5*8", 4, [5, 8]), ("3+5=8", 8, [3, 5]), ("8=3+5", 8, [3, 5]),
    ("3*7", 21, [3, 5, 7]), ("21", 21, [3, 7]), ("3+3", 6, [3, 5]), ("3*7+5+0", 26, [3, 5, 7]),
    ("3*7+5*5/5", 26, [3, 5, 7]), ("35-7", 28, [3, 5, 7]), ("12", 12, [1, 2]), ("1 2", 12, [1, 2]),
    ("-3+5", 2, [3, 5]), ("5--3", 8, [3, 5]), ("+3+5", 8, [3, 5]), ("(-3)+5", 2, [3, 5]),
    ("3+5 or 5+3", 8, [3, 5]), ("3+5, 5+3", 8, [3, 5]), ("8", 8, [3, 5]), ("7/2", 3, [7, 2]),
    ("5/0", 5, [0, 5]), ("", 8, [3, 5]), ("", 0, []), ("0", 0, []), ("3+5", 9, [3, 5]),
    ("03+05", 80, [3, 5]), ("٣+5", 8, [3, 5])])
def test_countdown_has_no_holes(text, target, numbers):
    assert not reaches(text, target, numbers)


def test_countdown_needs_exactly_one_tagged_answer():
    task = problem("8", [3, 5])
    assert not Countdown.correct(task, "3+5")
    assert not Countdown.correct(task, "<think>3+5</think><answer>3*5</answer>")
    assert not Countdown.correct(task, "<answer>3+5</answer><answer>5+3</answer>")


# --- rewards

def test_reward_adds_a_tenth_for_the_form():
    task = problem("4")
    score = lambda text: verify.reward(verify.number_correct, task, text).total  # noqa: E731
    assert score(says("4")) == pytest.approx(1.1)
    assert score("<answer>4</answer>") == 1.0
    assert score(says("5")) == pytest.approx(0.1)
    assert score("4") == 0.0


def test_the_reward_sign_is_one_or_minus_one():
    right, wrong = (verify.reward(verify.number_correct, problem("2"), says(n), "sign").total
                    for n in (2, 3))
    assert (right, wrong) == (1.0, -1.0)


def test_the_reward_accuracy_is_one_or_zero_in_any_format():
    texts = [says("2"), "<answer>2</answer>", says("3"), ""]
    rewards = [verify.reward(verify.number_correct, problem("2"), text, "accuracy").total
               for text in texts]
    assert rewards == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("text", [
    f"<think>{'so ' * 50_000}</think><answer>4</answer>", says("4") + " " * 4097,
    f"<think>{'x' * 4097}</think>\n<answer>{' ' * 4000}4</answer>"])
def test_thinking_of_any_length_is_paid(text):
    assert verify.reward(verify.number_correct, problem("4"), text).total == pytest.approx(1.1)


def test_an_answer_that_is_too_long_is_none():
    for size, found in ((4096, True), (4097, False)):
        long = "4" * size
        for text in (says(long), rf"\boxed{{{long}}}", f"#### {long}", f"\\boxed {long}"):
            assert (verify.extract_any(text) == long) is found
        assert (verify.extract(says(long)) == long) is found
        assert (verify.extract_any(long, bare=True) == long) is found


INVISIBLE = ["\u200b", "\u200d\u2060", "\ufeff", "\u00ad", "\u200e\u202e", "\u2800", "\u3164",
             "\u115f", "\uffa0", "\u0301", "\ufe0f", "\U000e0041", "\x00\x07", "\x7f", "\u2028",
             "\u3000", "\ud800", "\ue000", " \u200b\n"]


@pytest.mark.parametrize("nothing", INVISIBLE)
def test_invisible_characters_are_no_content(nothing):
    assert not verify.well_formed(f"<think>{nothing}</think><answer>4</answer>")
    assert not verify.well_formed(f"<think>t</think><answer>{nothing}</answer>")
    assert verify.extract(says(nothing)) is None
    for text in (says(nothing), rf"\boxed{{{nothing}}}", f"#### {nothing}", nothing):
        assert verify.extract_any(text, bare=True) is None
    assert verify.reward(lambda p, t: verify.extract(t) is not None, problem("4"),
                         says(nothing)).total == 0.0


@pytest.mark.parametrize("seen", ["4", "é", "e\u0301", "²", "-", "+", "中", "🙂", "\u200b4", "$"])
def test_visible_characters_are_content(seen):
    assert verify.well_formed(says(seen)) and verify.extract(says(seen)) == seen


UNITS = ["a", "<", "<think>", "</think>", "<answer>", "</answer>", "<answer></answer>", "\u200b",
         " ", r"\boxed{", r"\boxed ", r"\boxed 1", r"\boxed{1}, ", "{", "}", "\\", "#### ", "</s>",
         "1,", "check ", "**", "so the answer is ", ", altogether"]


@pytest.mark.parametrize("gold, answer, right", [
    ("257889", "257,889", True), ("257889", "$257,889", True), ("1234.5", "1,234.5", True),
    ("257889 cm", "257,889 cm", True), ("-1000000", "-1,000,000", True),
    ("150,300", "150300", False), ("150300", "150,3000", False), ("150300", "1,50,300", False),
    ("1502", "150, 2", False), ("150,300", "150, 300", True)])
def test_commas_group_digits_only_where_the_gold_is_one_number(gold, answer, right):
    assert (verify.verdict(gold, answer) is True) == right


@pytest.mark.parametrize("reference, answer, right", [
    ("1,200", "1200", True), ("1,200", "1,200", True), ("1,200", "1, 200", False),
    ("150,000", "150000", True), ("120{,}240", "120240", True),
    ("150,300", "150300", False), ("150,300", "300, 150", True),
    ("100,200,300", "100200300", False),
    ("so\n#### 150,300", "150300", True), ("so\n#### 150,300", "150, 300", False),
    (r"#### \frac{1}{2}", "0.5", True), ("#### 5\nmore", "5", True)])
def test_a_gold_with_commas_means_the_same_in_training_and_in_a_verdict(reference, answer, right):
    in_row = read_row({"question": "?", "answer": reference})
    for gold in (problem(reference), in_row):
        assert verify.written_correct(gold, says(answer)) == right
        assert rewards.correct_in_any_form(gold, says(answer)) == right


def test_time_is_linear_in_the_text():
    """A hundred times the text takes less than a thousand times as long, whatever it is made of.
    Quadratic time would be ten thousand times as long."""
    def cost(unit, size):
        text = (unit * size)[:size]
        began = time.thread_time()
        for whole in (text, f"<think>{text}</think>" + says("5"), says(text), text + r"\boxed{5}"):
            verify.extract(whole), verify.well_formed(whole)
            verify.extract_any(whole), verify.extract_any(whole, bare=True)
            verify.reward(verify.number_correct, problem("4"), whole, "claim")
        return time.thread_time() - began
    for unit in UNITS:
        small = max(min(cost(unit, 1_000) for _ in range(3)), 1e-4)
        assert cost(unit, 100_000) < 1_000 * small, unit


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "1.0", [1.0], 1j, object(),
                                   10**400])
def test_a_reward_that_is_no_finite_number_is_refused_by_name(monkeypatch, value):
    monkeypatch.setitem(verify.REWARDS, "mine", lambda sample: value)
    with pytest.raises(verify.RewardError, match=r"(?s)mine returned .* problem '2\+2'.*finite"):
        verify.reward(verify.number_correct, SimpleNamespace(question="2+2", answer="4"),
                      says("4"), "mine")


@pytest.mark.parametrize("value", [math.nan, math.inf, "yes"])
def test_a_verdict_that_is_no_finite_number_is_refused_by_name(value):
    def broken(problem, text):
        return value
    with pytest.raises(verify.RewardError, match="the verifier broken returned"):
        verify.reward(broken, problem("4"), says("4"))


@pytest.mark.parametrize("value, total", [(True, 1.0), (2, 2.0), (Fraction(1, 2), 0.5), (-1, -1.0)])
def test_a_reward_of_another_number_type_is_a_float(monkeypatch, value, total):
    monkeypatch.setitem(verify.REWARDS, "mine", lambda sample: value)
    given = verify.reward(lambda *_: None, problem("4"), says("4"), "mine")  # None: cannot tell
    assert type(given.total) is float and given.total == total and given.parts["correct"] == 0.0


@pytest.mark.parametrize("op", ["%", "**", "", "x"])
def test_an_unknown_operation_is_refused(op):
    with pytest.raises(ValueError, match="not an operation"):
        calculate(17, op, 3)


def test_reward_reports_its_parts():
    for text, form in (("<answer>4</answer>", 0.0), (says("4"), 1.0)):
        for kind in ("correct", "accuracy", "sign", "format", "random", "claim"):
            reward = verify.reward(verify.number_correct, problem("4"), text, kind)
            assert reward.parts == {"correct": 1.0, "format": form}


def test_control_rewards():
    task, give = problem("4"), verify.reward
    assert give(verify.number_correct, task, says("5"), "format").total == 1.0
    assert give(verify.number_correct, task, "<answer>4</answer>", "format").total == 0.0
    for text in ("", says("4")):
        assert give(verify.number_correct, task, text, "random", 0.49).total == 1.0
        assert give(verify.number_correct, task, text, "random", 0.5).total == 0.0


def test_a_control_still_reports_what_was_correct():
    reward = verify.reward(verify.number_correct, problem("4"), says("4"), "random", 0.9)
    assert reward.total == 0.0 and reward.parts["correct"] == 1.0


@pytest.mark.parametrize("unit", ["9", "(", "<answer>", "</answer>", "<think>", "<", "1,", " ", "-",
                                  "1/", "<think></think><answer>", "####", "٣", "\x00", "$ "])
def test_64_kilobytes_of_anything_are_simply_wrong(unit):
    text = (unit * 65536)[:65536]
    for whole in (text, says(text)):
        for correct in (verify.number_correct, Countdown.correct):
            assert verify.reward(correct, problem("4", [4]), whole).parts["correct"] == 0.0
        verify.well_formed(whole), verify.extract(whole)
    assert verify.number(text) is None and expression(text) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "4"]),
                          st.text(max_size=3)), max_size=10).map("".join))
def test_no_text_raises_an_error_and_rewards_are_consistent(text):
    reward = verify.reward(verify.number_correct, problem("4"), text)
    assert reward.total == reward.parts["correct"] + 0.1 * reward.parts["format"]
    if verify.well_formed(text):
        assert verify.extract(text) is not None


def test_the_verifier_evaluates_nothing_and_knows_no_tensors():
    for module in (verify, expression_module, answers, algebra, lexer, parser):
        source = inspect.getsource(module).replace("re.compile(", "")
        assert not re.search(r"\b(eval|exec|compile|literal_eval)\(", source)
        assert "import torch" not in source


# --- the registry

def test_every_reward_is_a_function_of_a_sample():
    assert {"correct", "accuracy", "sign", "format", "random", "claim", "process"} <= set(
        verify.REWARDS)
    for name in verify.REWARDS:
        given = verify.reward(verify.number_correct, problem("4"), says("4"), name, 0.5, [1, 2],
                              [(says("4"), [1, 2]), (says("5"), [1])])  # a group, as in training
        assert isinstance(given.total, float) and given.parts == {"correct": 1.0, "format": 1.0}


def test_the_total_of_a_step_reward_is_that_of_the_outcome_until_steps_are_scored():
    for text in (says("4"), says("5"), "4"):
        assert verify.reward(verify.number_correct, problem("4"), text, "process") == \
            verify.reward(verify.number_correct, problem("4"), text, "correct")


def test_a_reward_of_your_own_sees_tokens_and_the_group(monkeypatch):
    """Length against the group, as in Kimi k1.5 (2501.12599): one function and its name."""
    def short(sample):
        lengths = [len(tokens) for _, tokens in sample.group]
        spread = max(lengths) - min(lengths)
        return sample.correct + 0.5 - (len(sample.tokens) - min(lengths)) / spread
    monkeypatch.setitem(verify.REWARDS, "short", short)
    group = [(says("4"), [1] * 5), (says("4"), [1] * 9), (says("5"), [1] * 7)]
    totals = [Countdown().score(problem("4", [4]), text, "short", 0.0, tokens, group).total
              for text, tokens in group]
    assert totals == [1.5, 0.5, 0.0]


# --- statistics

@pytest.mark.parametrize("successes, n, low, high", [
    (9, 10, 0.59585, 0.98212), (0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0),
    (5, 10, 0.23659, 0.76341), (500, 1000, 0.46907, 0.53093)])
def test_wilson_known_values(successes, n, low, high):
    assert verify.wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("z", [1.0, 1.96, 2.576])
def test_the_ends_of_the_wilson_interval_are_z_deviations_away(z):
    for p in verify.wilson(9, 10, z):
        assert abs(0.9 - p) == pytest.approx(z * (p * (1 - p) / 10) ** 0.5)


def test_the_wilson_interval_stays_between_0_and_1():
    for n in range(1, 50):
        assert 0 <= verify.wilson(0, n)[0] and verify.wilson(n, n)[1] <= 1


def test_wilson_of_no_trials_is_the_whole_interval():
    assert verify.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations([i < c for i in range(n)], k))
        assert verify.pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("n, c, k", [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError):
        verify.pass_at_k(n, c, k)


# --- answers of real models

@pytest.mark.parametrize("text, answer", [
    (r"so it is \boxed{5}", "5"), (r"\boxed{4} no, \boxed{5}", "5"), (r"\boxed 5", "5"),
    (r"\fbox{5}", "5"), (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{5} and \boxed{6", "5"), (r"\boxed{5} \boxed{}", "5"), ("so\n#### 5", "5"),
    ("#### 4\n#### 5", "5"), ("<think>a</think><answer>5</answer>", "5"),
    (r"<think>\boxed{4}</think>\boxed{5}", "5"), (r"\boxed{5}<|im_end|>\boxed{6}", "5"),
    (r"\boxed{5}</s>user: \boxed{6}", "5"), ("#### 5<|endoftext|>#### 6", "5"),
    ("####\n 5 \nand so on", "5"), ("#### 5</s>#### 6</s>#### 7", "5"),
    # boxes in the tags, nested boxes, boxes with escaped braces and line breaks
    (r"<answer>The answer is \boxed{5}.</answer>", "5"), (r"\boxed{\boxed{5}}", "5"),
    (r"\boxed{5 + \boxed{3}}", "5 + {3}"), (r"\fbox{4}: \boxed{x = \fbox{5}}", "x = {5}"),
    (r"\boxed{a\\{b}}", r"a\\{b}"), (r"\boxed{\}}", r"\}"), (r"\boxed {5}", "5"),
    ("\\boxed\n{5}", "5"),
    (r"<answer>x = \boxed{5}</answer>", "x = {5}"), (r"<answer>\boxed{5} cm</answer>", "{5} cm"),
    (r"<answer>5 or \boxed{6}</answer>", "5 or {6}"), ("<answer>**5**</answer>", "5"),
    # boxes without braces
    (r"$\boxed 75$", "75"), (r"\boxed75", "75"), (r"\boxed -4.5.", "-4.5"), (r"\boxed x", "x"),
    (r"\boxed \frac{1}{2}", r"\frac{1}{2}"), (r"\(\boxed 5\) is it", "5"),
    (r"\boxed 4 or 5", "4 or 5"), ("\\boxed 4\nor 5", "4"), (r"\boxed 4 \boxed{5}", "4, 5"),
    # boxes that are joined are one answer
    (r"\boxed{4} or \boxed{5}", "4, 5"), (r"$\boxed{4}$, $\boxed{5}$, and $\boxed{6}$.", "4, 5, 6"),
    (r"\boxed{4}, \boxed{4}", "4"), (r"\boxed{3}. Then \boxed{4}\text{ and }\boxed{5}", "4, 5"),
    # the question is quoted: the command is named, or shown without an answer
    (r"\boxed{5} as asked in \boxed{}", "5"), (r"\boxed{5}, in the form \boxed{answer}.", "5"),
    (r"\boxed{5}. I use \boxed as asked, and `\boxed`, \boxed.", "5"),
    (r"\boxed{5} \boxedtext{6}", "5"),
    # GSM8K's form with words and Markdown
    ("#### 72, altogether", "72"), ("#### 72, in total.", "72"), ("####: 55", "55"),
    ("#### = 55", "55"),
    ("#### **55**", "55"), ("**#### 55**", "55"), ("#### The answer is $55.", "$55"),
    ("#### 72, or 73", "72, or 73"), ("#### 72, not", "72, not"), ("#### 3, 5", "3, 5"),
    ("#### 72, altogether 73", "72, altogether 73"), ("#### 7 in all or 8", "7 in all or 8"),
    # ends of turns
    ("#### 5<｜end▁of▁sentence｜>", "5"), (r"\boxed{5}<|eot_id|>\boxed{6}", "5"),
    ("<think>a</think><answer>5</answer><|im_end|>\n<answer>6</answer>", "5")])
def test_extract_any_takes_the_last_complete_answer_after_the_thinking(text, answer):
    assert verify.extract_any(text) == answer


@pytest.mark.parametrize("text", [
    "", "5", r"\boxed{}", r"\boxed{ }", r"\boxed{5", r"\boxed", "####", r"<think>\boxed{5}",
    "<think>#### 5", r"<think>\boxed{5}</think>so", "<|im_end|>#### 5", "<answer></answer>",
    r"<think>a</think><answer>5</answer><answer>6</answer>", r"</think>a<think>\boxed{5}",
    r"the \boxed form", r"\boxed, please", "\\boxed\n5", r"\boxed{...}", r"\boxedx{5}", "#### **"])
def test_extract_any_finds_nothing_elsewhere(text):
    assert verify.extract_any(text) is None


@pytest.mark.parametrize("text, answer", [
    ("<think>a</think>42", "42"), ("a</think>\n\n42<|im_end|>", "42"), ("17<|im_end|>", "17"),
    ("<s>17</s>", "17"), ("<|im_start|>assistant\n17<|im_end|>\n", "17"), ("17<pad><pad>", "17"),
    ("42", "42"), ("**42**", "42"), ("The final answer is: 42.", "42"), ("4 or 5", "4 or 5"),
    ("<think>42", None), ("<think>a</think>", None), ("<think>42</think> \n", None), ("", None),
    ("<think>a</think><answer>42", None), ("z^*", "z^*"), ("so", "so"), (r"\{1, 2\}", r"\{1, 2\}")])
def test_all_that_follows_the_thinking_is_the_answer_only_if_asked(text, answer):
    assert verify.extract_any(text, bare=True) == answer
    assert verify.extract_any(text) is None and verify.extract(text) is None


def test_the_last_number_counts_only_if_asked():
    for text, number in (("10-7", "7"), ("so -7", "-7"), ("is 1/2", "1/2"), ("72, in all", "72"),
                         ("1,2345", "2345")):
        assert verify.extract_any(text, last_number=True) == number
    assert verify.extract_any("7 then 1,234.5.") is None
    assert verify.extract_any("7 then 1,234.5.", last_number=True) == "1,234.5"
    assert verify.extract_any("7, 8 and 9", last_number=True) == "9"
    assert verify.extract_any("<think>7", last_number=True) is None


def test_many_open_boxes_are_read_in_linear_time():
    assert verify.extract_any(r"\boxed{" * 9000 + "5") is None
    assert verify.extract_any(r"\boxed{" * 9000 + "5" + "}" * 9000) == "5"


def test_the_last_box_of_a_long_text_is_found_without_reading_the_whole_text(monkeypatch):
    seen, find_boxes = [], extraction.find_boxes
    monkeypatch.setattr(extraction, "find_boxes", lambda t: seen.append(len(t)) or find_boxes(t))
    for far in ("so ", r"\boxed{4} ", r"\boxed ", r"\fbox{", "{}"):
        text = far * 20_000 + "\n" + r"is \boxed{5} or \fbox{6}" + "\n" + "and so on " * 10_000
        assert verify.extract_any(text) == "5, 6"
    assert max(seen) <= 2 * extraction.SEARCHED


@pytest.mark.parametrize("gold", ["", " ", "4 4", r"\frac{", "5 % 3", "\\unknown", "4" * 601])
def test_an_unreadable_gold_answer_is_an_error(gold):
    with pytest.raises(ValueError, match="gold"):
        verify.verdict(gold, gold)


def test_three_verdicts():
    assert verify.verdict(r"\frac12", "0.5") is True
    assert verify.verdict(r"\frac12", "0.6") is False
    assert verify.verdict(r"\frac12", None) is False
    assert verify.verdict(r"\frac12", r"\sum_1^2 k") is None
    assert verify.verdict(r"\frac12", "half of it") is False
    assert verify.verdict("90", r"90^\circ", missing_unit=False) is False
    assert verify.verdict("90", "90<|im_end|>\n<|endoftext|>") is True
    assert verify.verdict("90", "91<|im_end|>90") is False


def test_only_a_certain_verdict_on_mathematics_is_true():
    def correct(text):
        return verify.verdict(r"\frac{\sqrt{8}}{2}", verify.extract_any(text)) is True
    assert correct(r"<think>\boxed{3}</think>\boxed{\sqrt2}")
    assert not correct(r"\boxed{1.41421356}")
    assert not correct(r"<think>\boxed{\sqrt2}</think>I do not know")


def test_well_formed_after_a_prompt_that_ends_with_think():
    text = "a</think><answer>4</answer>"
    assert verify.well_formed(text, opened=True) and not verify.well_formed(text)
    assert not verify.well_formed("<think>" + text, opened=True)
    assert not verify.well_formed("</think><answer>4</answer>", opened=True)


# --- the command line

def test_verdicts_on_a_file(tmp_path, capsys):
    path = tmp_path / "answers.jsonl"
    rows = [("1/2", "0.5"), ("1/2", r"so \boxed{\frac24}"), ("1/2", "2"), ("1/2", "1 2")]
    path.write_text("".join(json.dumps({"gold": g, "pred": p}) + "\n" for g, p in rows))
    assert verify.main([str(path)]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == ["right", "right", "wrong", "cannot tell"]


def test_stats_runs_the_bench(capfd, monkeypatch):
    """In this process, which has imported torch already."""
    def run(command):
        monkeypatch.setattr(sys, "argv", list(map(str, command[1:])))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(sys.argv[0], run_name="__main__")
        return SimpleNamespace(returncode=end.value.code)
    monkeypatch.setattr("infra.verdicts.subprocess.run", run)
    assert verify.main(["--stats", "--help"]) == 0
    assert "--data" in capfd.readouterr().out


@pytest.mark.parametrize("content, reason", [
    ("{", "object"), ("[]", "object"), ('{"gold": "1"}', "object"), ("[" * 200_000, "object"),
    ("null", "object"), ('"gold pred"', "object"), ("17", "object"), ("{} {}", "object"),
    ('{"gold": ["1"], "pred": "1"}', "numbers"), ('{"gold": "1", "pred": {}}', "numbers"),
    ('{"gold": true, "pred": "1"}', "numbers"), ('{"gold": "1", "pred": false}', "numbers"),
    (b"\xff", "byte 1 is not UTF-8"), (b'{"gold": "1", "pred": "\xe9"}', "byte 24 is not UTF-8")],
    ids=lambda part: str(part)[:30])
def test_a_bad_line_is_one_clear_sentence(content, reason, tmp_path, capsys):
    path = tmp_path / "answers.jsonl"
    content = content if isinstance(content, bytes) else content.encode()
    after = b'{"gold": "1", "pred": "1"}\n' * 1000
    path.write_bytes(b'{"gold": "1", "pred": "1"}\r\n\n \t\n' + content + b"\n" + after)
    assert verify.main([str(path)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "line 4" in said.err and reason in said.err
    assert said.out == "right\n"


def test_a_file_that_cannot_be_read_is_one_clear_sentence(tmp_path, capsys):
    (tmp_path / "empty").write_text("\n\n")
    for path, reason in ((tmp_path / "nothing\x1b[2J", "No such file"), (tmp_path, "directory"),
                         (tmp_path / "empty", "no lines")):
        assert verify.main([str(path)]) == 2
        said = capsys.readouterr().err
        assert reason in said and said.count("\n") == 1 and "\x1b" not in said
    for data in (tmp_path, tmp_path / "nothing"):
        assert verify.main(["--stats", "--data", str(data)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def verdicts(rows, tmp_path, capsys):
    """The exit code, the lines and the errors of a file with these lines."""
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(rows).encode())
    code, said = verify.main([str(path)]), capsys.readouterr()
    return code, said.out.splitlines(), said.err.splitlines()


def test_an_unreadable_gold_answer_is_said_and_counted(tmp_path, capsys):
    rows = ['{"gold": "proof", "pred": "1"}'.replace("proof", r"\\frac{"), '{"gold": 1, "pred": 1}',
            '{"gold": null, "pred": null}', '{"gold": NaN, "pred": NaN}',
            '{"gold": Infinity, "pred": Infinity}', '{"gold": 1e999999999, "pred": 1e999999999}',
            '{"gold": 1e99999999999999999999, "pred": "1"}',
            '{"gold": "\\ud800", "pred": "\\ud800"}',
            '{"gold": "\\u001b[2J%s", "pred": "1"}' % ("x " * 500_000),
            '{"gold": "1", "pred": null}',
            '{"gold": "1", "pred": NaN}', '{"gold": "1", "pred": "\\ud800"}']
    code, out, errors = verdicts(rows, tmp_path, capsys)
    bad = "the gold answer cannot be read"
    assert code == 1
    assert out[:-1] == [bad, "right"] + [bad] * 7 + ["wrong"] * 2
    assert out[-1] in ("wrong", "cannot tell")
    assert len(errors) == 9 and "8 of 12 gold" in errors[-1] and "line 9" in errors[-2]
    assert max(map(len, errors)) < 600 and "\x1b" not in "".join(errors)


@pytest.mark.parametrize("gold, pred", [
    ("5", "5.0"), ("0.50", '"1/2"'), ("1e2", "100"), ("2.5e-1", '"0.25"'), ('"5"', "5"),
    ("1" * 39, '"%s"' % ("1" * 39)), ('"#### 72"', '"72"'), ('"so \\\\boxed{5}"', "5"),
    ('"6"', '"<answer>\\\\boxed{6}</answer>"'), ('"17"', '"17<|im_end|>"'), ("0E9999", "0.0")])
def test_numbers_and_whole_responses_in_a_file(gold, pred, tmp_path, capsys):
    row = '{"gold": %s, "pred": %s}'
    assert verdicts([row % (gold, pred)], tmp_path, capsys) == (0, ["right"], [])
    assert verdicts([row % (gold, "4")], tmp_path, capsys) == (0, ["wrong"], [])


def test_a_closed_pipe_is_no_error(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"gold": "1", "pred": "1"}\n' * 20_000)
    program = [sys.executable, inspect.getfile(verify), str(path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"right\n"
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1


# --- the weak verifier of the lesson on reward hacking

def test_the_reward_claim_pays_for_a_claim_and_logs_correctness():
    lie = "<think>check\nok</think><answer>5</answer>"
    made = verify.reward(verify.number_correct, problem("4"), lie, "claim")
    assert made.total == 1.0 and made.parts["correct"] == 0.0
    honest = verify.reward(verify.number_correct, problem("4"), says("4"), "claim")
    assert honest.total == 0.0 and honest.parts["correct"] == 1.0
