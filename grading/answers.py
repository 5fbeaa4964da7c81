"""Written answers: parsed by a small grammar of LaTeX and plain text, and compared exactly.

A policy that is paid for what a verifier accepts finds every hole in it. So an answer outside the
grammar is refused: `equal` returns None (cannot be decided), which is not rewarded.

    equal("\\frac{\\sqrt{8}}{2}", "2^{1/2}") is True     equal("1/3", "0.3333") is False
    equal("sin(x)", "cos(x)") is None

lexer.py makes tokens of a text, parser.py makes values and structures of the tokens, and algebra.py
compares values. No `eval`, no float, no timer.
"""

from typing import NamedTuple

from grading.algebra import Algebra, CannotTell, Infinity, Structure, as_value, variable_name
from grading.lexer import tokenize
from grading.parser import Parser


def equal(a: str, b: str, missing_unit: bool = True, ordered: bool = False,
          percent: bool = False) -> bool | None:
    """Whether two written answers have the same exact value. None where it cannot be decided: one
    of them is outside the grammar, or they differ in functions such as sin(x). Symmetric.

    missing_unit: one side may lack the unit (degrees, cm, $, %) or the base (52_8) of the other
    side; two different units are never equal.
    ordered: the order of a list without brackets (1, 2) matters. The order of a tuple always
    matters, the order of a set never.
    percent: 50% also equals 1/2.
    """
    try:
        algebra = Algebra()
        x, y = (Parser(tokenize(text), algebra).answer() for text in (a, b))
        return compare(x, y, algebra, Flags(missing_unit, ordered, percent))
    except CannotTell:
        return None


class Flags(NamedTuple):
    """See `equal`."""

    missing_unit: bool
    ordered: bool
    percent: bool


def kind_of(x) -> str:
    return x.kind if isinstance(x, Structure) else (
        "infinity" if isinstance(x, Infinity) else "value")


def compare(x, y, algebra: Algebra, flags: Flags) -> bool | None:
    """Whether two answers are equal; None where it cannot be decided. Symmetric."""
    if kind_of(x) > kind_of(y):
        x, y = y, x
    kinds = kind_of(x), kind_of(y)
    if "equation" in kinds and kinds != ("equation", "equation"):  # x=5 equals 5
        side, other = (x, y) if kinds[0] == "equation" else (y, x)
        return variable_name(side.parts[0]) != "" and compare(side.parts[1], other, algebra, flags)
    if kinds == ("value", "value"):
        return algebra.equal(x, y)
    if kinds in (("infinity", "infinity"), ("based", "based"), ("text", "text")):
        return x == y
    if kinds == ("text", "value"):  # the letter of a choice
        return variable_name(y) != "" and variable_name(y).lower() == x.parts[0]
    if kinds == ("equation", "equation"):
        left, right = (algebra.add(*map(as_value, e.parts), -1)[0] for e in (x, y))
        return proportional(left, right)
    if kinds in (("quantity", "quantity"), ("quantity", "value"), ("based", "value")):
        return compare_units(x, y, kinds, algebra, flags)
    return compare_collections(x, y, kinds, algebra, flags)


def compare_units(x, y, kinds, algebra: Algebra, flags: Flags) -> bool | None:
    """compare() for a value with a unit, or a number with a base, and another one or a value."""
    if kinds == ("quantity", "quantity"):
        return x.parts[1] == y.parts[1] and compare(x.parts[0], y.parts[0], algebra, flags)
    if kinds == ("based", "value"):
        return flags.missing_unit and algebra.rational(y) is not None and (
            str(algebra.rational(y)) == x.parts[0])
    value, unit = x.parts
    if flags.percent and unit == "%":
        hundredth = algebra.divide(as_value(value), algebra.number(100))
        return algebra.equal(hundredth, y) or flags.missing_unit and algebra.equal(value, y)
    return flags.missing_unit and compare(value, y, algebra, flags)


def compare_collections(x, y, kinds, algebra: Algebra, flags: Flags) -> bool | None:
    """compare() for answers with several items."""
    def all_equal(xs, ys):
        return all_true(compare(a, b, algebra, flags) for a, b in zip(xs, ys, strict=True))
    if kinds in (("list", "list"), ("list", "set"), ("set", "set"), ("union", "union")):
        xs, ys = x.parts, y.parts
        if len(xs) != len(ys):
            return False
        if flags.ordered and kinds == ("list", "list"):
            return all_equal(xs, ys)
        return match_items(xs, ys, lambda a, b: compare(a, b, algebra, flags))
    if kinds == ("tuple", "tuple"):
        (left, xs, right), (left2, ys, right2) = x.parts, y.parts
        return (left, right, len(xs)) == (left2, right2, len(ys)) and all_equal(xs, ys)
    if kinds == ("matrix", "matrix"):
        shapes = [[len(row) for row in m.parts] for m in (x, y)]
        return shapes[0] == shapes[1] and all_equal(sum(x.parts, ()), sum(y.parts, ()))
    return False


def all_true(verdicts) -> bool | None:
    """The conjunction of three-valued verdicts."""
    verdicts = list(verdicts)
    return False if False in verdicts else None if None in verdicts else True


def match_items(xs, ys, equal) -> bool | None:
    """Whether the items can be paired. Equality is transitive, so the first partner will do."""
    left, verdicts = list(ys), []
    for x in xs:
        found = [(equal(x, y), i) for i, y in enumerate(left)]
        best = [i for verdict, i in found if verdict] or [i for verdict, i in found
                                                          if verdict is None]
        if not best:
            return False
        verdicts.append(found[best[0]][0])
        left.pop(best[0])
    return all_true(verdicts)


def proportional(p: dict, q: dict) -> bool:
    """Whether two polynomials differ by a constant factor, and so have the same zeros."""
    if set(p) != set(q) or not p:
        return p == q
    first = next(iter(p))
    return all(p[m] * q[first] == q[m] * p[first] for m in p)
