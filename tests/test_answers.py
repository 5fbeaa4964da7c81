"""grading/answers.py: equal answers are found equal, and no others."""

import json
import os
import re
import threading
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import verify
from grading import algebra, sets
from grading.answers import Comparison, equal
from grading.lexer import tokenize
from grading.parser import Parser

DATA = Path(os.environ.get("DATA_DIR", Path(__file__).parents[2] / "shared" / "data"))

EQUAL = [
    # numbers
    ("5", "5.0"), ("0.5", ".5"), ("1/2", "0.5"), (r"\frac12", "1/2"), (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac 59", "5/9"), (r"\frac9{19}", "9/19"), (r"-\frac{3}{4}", "-0.75"), ("007", "7"),
    ("1,000", "1000"), (r"10,\!080", "10080"), (r"11,\! 111,\! 111,\! 100", "11111111100"),
    ("12{,}345", "12345"), ("1.5e3", "1500"), (r"1.5\times10^3", "1500"), ("6.5e-2", "0.065"),
    ("1 4/5", "9/5"), (r"1\frac{4}{5}", "9/5"), (r"137 \frac{1}{2}", "137.5"), ("2^{10}", "1024"),
    ("2^10", "1024"), ("2**10", "1024"), ("5!", "120"), ("+5", "5"), ("5.", "5"), ("$5$", "5"),
    (r"\(5\)", "5"), ("-(-5)", "5"), ("\u22125", "-5"), ("4\u00f72", "2"), ("2(3)", "6"),
    ("(2)(3)", "6"), (r"2\cdot3", "6"), ("3/4*4/3", "1"), ("2^{-1}", "1/2"), ("(1/2)^3", "1/8"),
    # roots, pi, e, i
    (r"\sqrt{8}", r"2\sqrt2"), (r"\sqrt{8}", "2sqrt(2)"), (r"\frac{\sqrt{3}}{3}", r"1/\sqrt{3}"),
    (r"\sqrt{12}+\sqrt{27}", r"5\sqrt3"), (r"\sqrt[3]{16}", r"2\sqrt[3]{2}"), ("8^{1/3}", "2"),
    (r"\sqrt{2}\sqrt{3}", r"\sqrt6"), (r"(\sqrt{5}-1)(\sqrt5+1)", "4"), (r"\sqrt[3]{-8}", "-2"),
    (r"\frac{1}{\sqrt{2}-1}", r"\sqrt2+1"), (r"\sqrt{\frac{1}{4}}", "1/2"), (r"\sqrt{-4}", "2i"),
    (r"\frac{2\pi}{6}", r"\pi/3"), ("pi", r"\pi"), ("\u03c0", r"\pi"), ("i^2", "-1"),
    ("(1+i)^2", "2i"), ("1/i", "-i"), ("6 - 5i", "-5i+6"), ("e^2*e^3", "e^5"),
    (r"\frac{20000}{\pi}", r"20000\pi^{-1}"), (r"\sqrt{50}", r"5 \sqrt{2}"),
    (r"3\frac{\sqrt{52}}{2}", r"3\sqrt{13}"),
    # symbols
    ("(x-1)(x+1)", "x^2-1"), ("2k+2", "2(k+1)"), (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"\frac{1}{x+1}+\frac{1}{x-1}", r"\frac{2x}{x^2-1}"), ("p - q", "-q+p"), ("ab", "ba"),
    ("(a+5)(b+2)", "ab+2a+5b+10"), (r"\frac{11+9a}{20}", "0.55+0.45a"), ("(x+y)^3",
     "x^3+3x^2y+3xy^2+y^3"), ("x_1+x_2", "x_2+x_{1}"), (r"\cot x", r"\cot(x)"),
    (r"\tan^{-1}(1)", r"\arctan 1"), (r"\arctan 1+\arctan\sqrt3", r"\frac{7\pi}{12}"),
    (r"\arccos(-\frac12)", r"120^\circ"), (r"\arctan 2", r"\tan^{-1}(2)"),
    (r"2\sin(x)", r"\sin x+\sin(x)"), (r"\sqrt{x+1}", r"(x+1)^{1/2}"), ("x=5", "5"),
    ("y = 2x + 3", "2x+3"), ("x+y=1", "2x+2y-2=0"), ("y=2x", "2x-y=0"),
    # tuples, intervals, sets, lists
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"), ("(1, 2)", "(1,2)"), ("1,-2", "-2,1"),
    (r"\{1,2\}", r"\{2, 1\}"), ("1 and 2", "2, 1"), ("1 or 2", "1,2"), (r"\{1,2\}", "1,2"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"), (r"\{1\pm\sqrt{5},-2\}",
     r"\{-2,1-\sqrt5,1+\sqrt5\}"), ("x>5", r"(5,\infty)"), ("5<x", r"x > 5"),
    (r"-2\le x\le7", "[-2,7]"), (r"7 \ge x \ge -2", r"x \in [-2,7]"), ("x<=0", r"(-\infty,0]"),
    (r"(0,9) \cup (9,36)", r"(9,36)\cup(0,9)"), ("(3,4]", r"3<x\leq 4"), ("x=1 or x=2", "2,1"),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}",
     r"\begin{bmatrix}-\frac13\\\frac23\end{bmatrix}"),
    (r"\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}", r"\begin{pmatrix}1&0\\0&1\end{pmatrix}"),
    # units, bases, words
    (r"90^\circ", "90"), (r"90^{\circ}", "90 degrees"), ("90\u00b0", r"90^\circ"),
    (r"5.4 \text{ cents}", "5.4"), (r"864 \mbox{ inches}^2", "864"), (r"15\mbox{ cm}^2",
     "15 cm^2"), (r"\$36", "36"), ("$18.90", "18.9 dollars"), (r"50\%", "50"),
    ("50 percent", "50%"),
    ("52_8", "52_{8}"), ("52_8", "52"), (r"\text{east}", "East"), ("even", r"\text{even}"),
    (r"\text{(C)}", "C"), (r"\text{(C)}", "(c)"), ("Evelyn", r"\text{Evelyn}"),
    (r"\mathbb{R}", "all real numbers"), (r"(-\infty,\infty)", r"\text{All reals}"),
    (r"\infty", "infinity"), (r"-\infty", "-inf"), ("5 apples", "5"), ("No", "no"),
    (r"\text{No}", "NO"), ("10 AM", "10 am"),
]
DIFFERENT = [
    ("5", "6"), ("5", "-5"), ("1/3", "0.3333"), ("1/3", "0.33333333333333333333"), (r"2\pi",
     "6.2832"), (r"\pi", "3.14159"), (r"\sqrt2", "1.41421356"), ("[1,2]", "(1,2)"), ("(1,2)",
     "(2,1)"), ("(1,2)", "1,2"), ("(1,2)", r"\{1,2\}"), ("4 or 5", "4"), ("4", "4,5"), ("1,2",
     "1,2,3"), ("x+1", "x-1"), ("x", "y"), ("3R^2", "3r^2"), ("x>5", "x<5"), ("x>5", r"x\ge5"),
    ("5 cm", "5 m"), ("5 cm", "5 cm^2"), ("50%", "1/2"), ("50%", "0.5"), (r"90^\circ", "90 cm"),
    ("52_8", "52_9"), ("52_8", "42"), ("east", "west"), (r"\text{(C)}", "D"), ("i", "-i"),
    (r"\sqrt{2}+\sqrt{3}", r"\sqrt5"), (r"\sqrt{4}", "-2"), ("2^{10}", "1000"), ("x+y=1",
     "x+y=2"), (r"\infty", r"-\infty"), ("e", "2.718281828"), ("1e3", "1e4"), ("5!", "5"),
    (r"\mathbb{R}", "all positive real numbers"), (r"\mathbb{R}", "not all real numbers"),
    (r"\arctan 1", r"\frac{\pi}{3}"), (r"\arccos 0", "0"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"(0,9)\cup(9,36)", "(0,36)"), ("1/2", "2"), ("1000", "1.000"), ("$5", "5 cents"),
]
CONVENTIONS = [  # pairs that are not equal by a convention; see grading/answers.py
    ("1,2", "1,1,2"), ("3e-2", "0.03"), ("x=1, y=2", "2, 1"), ("5 km", "5000 m"),
    ("x=1,2", "x=1, y=2"),
    ("x+z=1", "1"), ("2x=6", "6"), (r"\pi", "180"), ("120,240", "120240"),
    ("x<3", "y<3"), ("2:3", "3:2")]


@pytest.mark.parametrize("a, b", EQUAL)
def test_equal(a, b):
    assert equal(a, b) is True and equal(b, a) is True


def test_equal_answers_by_kind():
    """equal.jsonl: pairs of equal answers, by the kind of what differs."""
    rows = [json.loads(line) for line in Path(__file__).with_name("equal.jsonl").open()]
    assert len({row["kind"] for row in rows}) >= 9 and len(rows) >= 150
    assert [row for row in rows if not equal(row["a"], row["b"]) is equal(row["b"], row["a"])
            is True] == []


@pytest.mark.parametrize("a, b", DIFFERENT + CONVENTIONS)
def test_different(a, b):
    assert equal(a, b) is False and equal(b, a) is False


@pytest.mark.parametrize("a, b", [("sin(x)", "cos(x)"), (r"\sqrt{x+1}", r"\sqrt{x+2}"),
                                  (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"), (r"\ln x^2", r"2\ln x"),
                                  (r"\arctan 2", r"\arctan 3"),
                                  (r"\tan^{-1}(1)", r"\frac{1}{\tan 1}"),
                                  (r"\mathbb{R}", "all real numbers except 2")])
def test_answers_that_differ_in_functions_cannot_be_decided(a, b):
    assert equal(a, b) is None and equal(a, a) is True


def test_flags_of_equal():
    assert equal("90", r"90^\circ", missing_unit=False) is False
    assert equal("52", "52_8", missing_unit=False) is False
    assert equal("1,2", "2,1", ordered=True) is False and equal("1,2", "1,2", ordered=True) is True
    assert equal("50%", "1/2", percent=True) is True and equal("1/2", "50%", percent=True) is True
    assert equal("50%", "1/3", percent=True) is False


GOLDS = ["4", r"\frac12", r"\sqrt2", "(1,2)", "x^2-1", r"\text{east}", r"90^\circ", r"\pi"]
HOSTILE = [json.loads(line) for line in Path(__file__).with_name("hostile.jsonl").open()]


def test_no_hostile_answer_is_accepted():
    """Neither as a response, nor as a bare answer to its own gold or to any of the others."""
    assert len({(row["gold"], row["pred"]) for row in HOSTILE}) >= 700
    for row in HOSTILE:
        gold, text = row["gold"], row["pred"]
        assert verify.verdict(gold, verify.extract_any(text) or text) is not True, row
        assert equal(text, gold) is not True, row


@pytest.mark.parametrize("gold", GOLDS)
def test_hostile_answers_to_one_gold_answer_are_not_accepted_for_another(gold):
    accepted = [row for row in HOSTILE if row["gold"] == "4" and equal(gold, row["pred"])]
    assert accepted == []


# --- properties

NUMBER = st.fractions(max_denominator=50, min_value=-99, max_value=99)


@st.composite
def expressions(draw, depth=3):
    """(text, value at x = 3, y = 1/2) of a random expression."""
    x, y = Fraction(3), Fraction(1, 2)
    if depth == 0 or draw(st.booleans()):
        n = draw(st.integers(0, 12))
        return draw(st.sampled_from([(str(n), Fraction(n)), ("x", x), ("y", y)]))
    (a, p), (b, q) = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    op = draw(st.sampled_from("+-*/^"))
    if op == "/" and q == 0 or op == "^":
        return f"({a})^2", p * p
    if op == "/":
        return rf"\frac{{{a}}}{{{b}}}", p / q
    return f"({a}){op}({b})", {"+": p + q, "-": p - q, "*": p * q}[op]


@given(expressions(), expressions())
@settings(max_examples=300, deadline=None)
def test_equality_agrees_with_exact_evaluation(one, other):
    """Where the values at a point differ, so do the expressions; and each equals itself, doubled
    and halved again."""
    (a, p), (b, q) = one, other
    if p != q:
        assert equal(a, b) is not True
    assert equal(a, b) is equal(b, a)
    again = equal(a, rf"\frac{{2({a})}}{{2}}")
    assert again is True or again is None and equal(a, a) is None


@given(NUMBER, NUMBER)
def test_fractions_are_equal_when_they_are(p, q):
    other = rf"\frac{{{q.numerator}}}{{{q.denominator}}}"
    assert equal(f"{p.numerator}/{p.denominator}", other) is (p == q)


PIECES = ["1", "23", ".5", "x", "y", "pi", r"\pi", r"\frac", r"\sqrt", "{", "}", "(", ")", "[", "]",
          "+", "-", "*", "/", "^", "_", "=", ",", "<", ">", r"\le", r"\pm", r"\cup", "!", "%", "$",
          r"\{", r"\}", r"\text{a}", " ", r"\circ", r"\infty", r"\begin{pmatrix}", "&", r"\\",
          r"\end{pmatrix}", "sin", "cm", "or", "e", "i", r"\in", "1/2"]


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join),
       st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
@settings(max_examples=600, deadline=None)
def test_any_text_has_a_verdict_and_equality_is_symmetric(a, b):
    assert equal(a, b) is equal(b, a)
    assert equal(a, a) is not False


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_characters_have_a_verdict(text):
    assert equal(text, "4") in (True, False, None) and equal(text, text) is not False


@pytest.mark.parametrize("text", [
    "(" * 300 + "1" + ")" * 299, "{" * 600, r"\sqrt" * 100, r"\frac" * 120, "2^" * 290 + "2",
    "(x+y+z+w+1)^{60}", "(" + "+".join("abcdefghjklmnopqrst") + ")^9", "9" * 600, "1," * 299 + "1",
    r"1\pm" * 100 + "1", "200!^{200!}", r"\sqrt{" + "9" * 500 + "}", "1/" * 290 + "1",
    r"\sin" * 140 + "x", "-" * 599, "x" * 600, "1" * 70_000, "{1" * 200, r"\{" * 250])
def test_answers_that_are_too_deep_or_too_long_are_refused(text):
    assert equal(text, "4") in (False, None)


@pytest.mark.parametrize("text", [
    "the answer of this question is not known to me", r"\begin{pmatrix}1&2\\3\end{pmatrix}",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}\begin{pmatrix}1&2&3\end{pmatrix}", "5 cm cm", "0^0",
    "4 = 4", "x = x", "1 < 2", r"7 \in 4", "x = 4 = 5", r"\approx 4", "3!!!", "f(0", "4 (wrong)"])
def test_answers_that_say_nothing_are_not_understood(text):
    assert equal(text, text) is None


@pytest.mark.parametrize("text", [
    "(sin((a+b+c+d+f+g)^{4})+cos((a+b+c+d+f+g)^{4}))^{20}", "(a+b+c+d+f+g)^{40}",
    "+".join(rf"\frac{{1}}{{{a}+{b}}}" for a, b in zip("abcdfgh", "bcdfghj", strict=True)),
    "*".join(["(x+y)^3"] * 60), "+".join(rf"\sqrt{{{99999000 + i}}}" for i in range(36)),
    "+".join(f"(a+b)^{{{i}/7}}" for i in range(50, 90)), "+".join(["1000!"] * 90),
    r"\cup".join(rf"[\sqrt{{{i}}},\pi+{i}]" for i in range(30)), r"\cos^{60} x",
    r"\{" + ",".join(f"{i}/7" for i in range(40)) + r"\}", ";".join(["x=1,y=2"] * 40)])
def test_work_is_counted_and_bounded(text, monkeypatch):
    """Whatever takes long spends its allowance: products of terms by their number and length,
    roots by what factoring costs, sets by the ends that are ordered."""
    calls = []
    for module, name in ((algebra, "monomial_product"), (sets, "decimal_of_atom"),
                         (Comparison, "compare"), (algebra.Algebra, "opaque")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, f=original: calls.append(1) or f(*args))
    for other in ("x^2-1", text):
        calls.clear()
        equal(text, other)
        assert len(calls) < algebra.MAX_WORK


def test_nothing_is_evaluated():
    for path in (Path(__file__).parents[1] / "grading").glob("*.py"):
        source = path.read_text().replace("re.compile(", "")
        assert path.name.startswith("sandbox") or not re.search(
            r"\b(eval|exec|compile|float|literal_eval)\(", source), path


def test_it_works_in_any_thread():
    found = []
    threads = [threading.Thread(target=lambda: found.append([equal(a, b) for a, b in EQUAL]))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[True] * len(EQUAL)] * 4


def test_roots_of_primes_are_independent():
    a = algebra.Algebra()
    two, three = (a.power(a.number(n), a.number(Fraction(1, 2))) for n in (2, 3))
    assert a.equal(a.multiply(two, three), a.power(a.number(6), a.number(Fraction(1, 2)))) is True
    assert a.equal(a.add(two, three), a.power(a.number(5), a.number(Fraction(1, 2)))) is False


# --- real golds

@pytest.mark.skipif(not (DATA / "math500.jsonl").exists(), reason="MATH-500 is not here")
def test_the_golds_of_math500():
    golds = [json.loads(line)["answer"] for line in (DATA / "math500.jsonl").open()]
    assert len(golds) == 500
    assert [gold for gold in golds if equal(gold, gold) is not True] == []
    # every gold against every other one: these pairs are equal
    golds, reader = sorted(set(golds)), algebra.Algebra()
    reader.spend_work = lambda work: None
    answers = [Parser(tokenize(gold), reader).answer() for gold in golds]
    comparison = Comparison(reader, missing_unit=True, ordered=False, percent=False)
    assert {(golds[i], golds[j]) for i in range(len(golds)) for j in range(i)
            if comparison.compare(answers[i], answers[j])} == {
        ("1,-2", "-2,1"), ("10080", r"10,\!080"), ("2\\sqrt{5}", r"2 \sqrt{5}"),
        (r"\frac{1}{4}", r"\frac14"), ("x=5", "5"), (r"\pi", r"180^\circ"),  # spelling and units
        ("120^\\circ", "120"), ("30^\\circ", "30"), ("36^\\circ", "36"), ("90^\\circ", "90"),
        ("15\\mbox{ cm}^2", "15"), (r"\$36", "36"), ("40_9", "40")}
