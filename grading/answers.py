"""Written answers: parsed by a small grammar of LaTeX and plain text, and compared exactly.

A policy that is paid for what a verifier accepts finds every hole in it. So an answer outside the
grammar is refused: `equal` returns None (cannot be decided), which is not rewarded.

    equal("\\frac{\\sqrt{8}}{2}", "2^{1/2}") is True     equal("1/3", "0.3333") is False
    equal("sin(x)", "cos(x)") is None

lexer.py turns a text into tokens, parser.py turns the tokens into values and structures, and
algebra.py compares values. No `eval`, no float, no timer.

Conventions, where people differ: a name may be left out (x = 5 is 5, f(x) = x + 1 is x + 1);
values of different names need their order (x = 1, y = 2 is (1, 2) and not 2, 1). 60 degrees is
pi/3. A repeated item counts once in a set and twice in a list. 2:3 is 2/3; 4:20 may be a time, so
it equals only 4:20. 120,240 may be a list, so it is not 120240. In 3e-2, e is Euler's number;
6.5e-2 and 1.5e3 are powers of ten. Units are not converted.
"""

from typing import NamedTuple

from grading.algebra import ONE, Algebra, CannotTell, variable_name
from grading.lexer import tokenize
from grading.parser import Parser
from grading.structures import as_value, kind_of


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
        return Comparison(algebra, missing_unit, ordered, percent).compare(x, y)
    except CannotTell:
        return None


class Comparison(NamedTuple):
    """Compares answers. The flags are those of `equal`."""

    algebra: Algebra
    missing_unit: bool
    ordered: bool
    percent: bool

    def compare(self, x, y) -> bool | None:
        """Whether two answers are equal; None where it cannot be decided. Symmetric."""
        self.algebra.spend_work(4)
        if kind_of(x) > kind_of(y):
            x, y = y, x
        kinds = kind_of(x), kind_of(y)
        if "named" in kinds:
            return self.compare_named(x, y, kinds)
        if "phrase" in kinds:
            return self.compare_phrases(x, y) if kinds == ("phrase", "phrase") else None
        if kinds == ("value", "value"):
            return self.algebra.equal(x, y)
        if kinds in (("infinity", "infinity"), ("based", "based"), ("text", "text")):
            return x == y
        if kinds == ("text", "value"):  # the letter of a choice
            return variable_name(y) != "" and variable_name(y).lower() == x.parts[0]
        if kinds in (("equation", "equation"), ("relation", "relation")):
            return self.compare_zeros(x, y)
        if kinds in (("quantity", "quantity"), ("quantity", "value"), ("based", "value")):
            return self.compare_units(x, y, kinds)
        if kinds in (("ratio", "ratio"), ("ratio", "value"), ("clock", "clock"),
                     ("clock", "ratio"), ("clock", "value")):
            return self.compare_ratios(x, y, kinds)
        return self.compare_collections(x, y, kinds)

    def all_equal(self, xs, ys) -> bool | None:
        if len(xs) != len(ys):
            return False
        return all_true(self.compare(a, b) for a, b in zip(xs, ys, strict=True))

    def compare_named(self, x, y, kinds) -> bool | None:
        """compare() where one of the answers has a name: x = 5, (x, y) = (1, 2), f(x) = x^2."""
        self.algebra.spend_work(10)
        # two names: equal functions, equal sets of named values, equal values, or equal equations
        if kinds == ("named", "named"):
            (left, right, function), (left2, right2, function2) = x.parts, y.parts
            if function and function2 and kind_of(left) == "value":  # f(x) = x and f(t) = t
                return function[:2] == function2[:2] and self.compare(function[2], function2[2])
            if kind_of(left) == kind_of(left2) == "tuple":  # in any order of the names
                pairs = [[Pair(*pair) for pair in zip(a.parts[1], parts(b), strict=False)]
                         for a, b in ((left, right), (left2, right2))]
                return match_items(*pairs, lambda a, b: all_true(
                    (self.compare(a.name, b.name), self.compare(a.answer, b.answer))))
            if self.compare(left, left2) is True:
                return self.compare(right, right2)
            if any(kind_of(side) != "value" for side in (left, left2, right, right2)):
                return False
            return self.compare_differences(self.algebra.add(left, right, -1),
                                            self.algebra.add(left2, right2, -1))
        # one name: the other answer is an equation, or lacks the name
        named, other = (x, y) if kinds[0] == "named" else (y, x)
        left, right, _ = named.parts
        if kind_of(other) == "equation" and kind_of(right) == "value":
            return self.compare_differences(self.algebra.add(as_value(left), right, -1),
                                            other.parts[0])
        if kind_of(left) == "tuple" and kind_of(other) == "list" and not any(
                kind_of(item) == "named" for item in other.parts):  # x = 1, y = 2 is 1, 2
            return self.all_equal(parts(right), other.parts)
        return self.compare(right, other)

    def compare_phrases(self, x, y) -> bool | None:
        if [p if isinstance(p, str) else "" for p in x.parts] != [
                p if isinstance(p, str) else "" for p in y.parts]:
            return None
        return all_true(self.compare(a, b) for a, b in zip(x.parts, y.parts, strict=True)
                        if not isinstance(a, str))

    def compare_zeros(self, x, y) -> bool | None:
        """compare() for two equations or two inequalities whose right side is 0."""
        if x.parts[:-1] != y.parts[:-1]:
            return False
        return self.compare_differences(x.parts[-1], y.parts[-1],
                                        x.parts[0] if len(x.parts) > 1 else "=")

    def compare_differences(self, a, b, sign: str = "=") -> bool | None:
        """Whether two values differ by a constant factor only, so that they have the same zeros.
        For an inequality, the factor must be positive. None for different denominators."""
        (p, q), (r, s) = a, b
        if q != s and not (q == s == ONE):
            return None
        first = next(iter(p), None)
        if first not in r or set(p) != set(r):
            opaque = any(isinstance(atom, tuple) for m in {**p, **r} for atom, _ in m)
            return None if opaque else False
        if sign in ("<", r"\le") and p[first] * r[first] < 0:
            return False
        return all(p[m] * r[first] == r[m] * p[first] for m in p)

    def compare_units(self, x, y, kinds) -> bool | None:
        """compare() where the first answer has a unit or a base. The second has the same, or is a
        plain value."""
        algebra = self.algebra
        # two units, or a base
        if kinds == ("quantity", "quantity"):
            return x.parts[1] == y.parts[1] and algebra.equal(x.parts[0], y.parts[0])
        if kinds == ("based", "value"):
            digits, _, sign = x.parts
            return self.missing_unit and algebra.rational(y) is not None and digits.isdigit() and (
                algebra.rational(y) == sign * int(digits))
        # one unit: it may be missing, be a number (degrees, %), or be variables (6 m)
        value, unit = x.parts
        same = self.missing_unit and algebra.equal(value, y)
        if unit == "deg":
            half_turn = algebra.divide(algebra.atom("pi"), algebra.number(180))
            return same or algebra.equal(algebra.multiply(value, half_turn), y)
        if unit == "%" and self.percent:
            return same or algebra.equal(algebra.divide(value, algebra.number(100)), y)
        factors = [factor.partition("^") for factor in unit.split()]
        if all(len(name) == 1 and name.isalpha() for name, _, _ in factors):
            for name, _, exponent in factors:
                value = algebra.multiply(value, algebra.integer_power(
                    algebra.atom(name), int(exponent or 1)))
            return same or algebra.equal(value, y)
        return same

    def compare_ratios(self, x, y, kinds) -> bool | None:
        if kinds == ("clock", "clock"):
            return x == y or (None if "" in (x.parts[2], y.parts[2]) else False)
        if kinds[0] == "clock":
            return None
        if kinds == ("ratio", "value"):
            first, *rest = x.parts
            return len(rest) == 1 and self.algebra.equal(self.algebra.divide(first, rest[0]), y)
        if len(x.parts) != len(y.parts):
            return False
        first, other = (next((v for v in r.parts if v[0]), None) for r in (x, y))
        if not first or not other:
            return None
        return all_true(self.algebra.equal(self.algebra.multiply(a, other),
                                           self.algebra.multiply(b, first))
                        for a, b in zip(x.parts, y.parts, strict=True))

    def compare_collections(self, x, y, kinds) -> bool | None:
        """compare() for answers with several items."""
        if kinds in (("list", "list"), ("list", "set"), ("set", "set"), ("union", "union")):
            xs, ys = (self.without_repeats(z.parts) if kinds != ("list", "list") else z.parts
                      for z in (x, y))
            if len(xs) != len(ys):
                return False
            dots = any(kind_of(item) == "text" and item.parts == ("...",) for item in xs)
            if kinds == ("list", "list") and (self.ordered or dots):
                return self.all_equal(xs, ys)
            return match_items(xs, ys, self.compare)
        if kinds == ("tuple", "tuple"):
            (left, xs, right), (left2, ys, right2) = x.parts, y.parts
            return (left, right) == (left2, right2) and self.all_equal(xs, ys)
        if kinds == ("matrix", "tuple"):  # a column or a row is a vector
            entries = [row[0] for row in x.parts] if len(x.parts[0]) == 1 else x.parts[0]
            single = len(x.parts) == 1 or len(x.parts[0]) == 1
            return single and (y.parts[0], y.parts[2]) == ("(", ")") and self.all_equal(
                entries, y.parts[1])
        if kinds == ("matrix", "matrix"):
            shapes = [[len(row) for row in m.parts] for m in (x, y)]
            return shapes[0] == shapes[1] and self.all_equal(sum(x.parts, ()), sum(y.parts, ()))
        if kinds == ("chain", "chain"):
            return x.parts[0] == y.parts[0] and self.all_equal(x.parts[1], y.parts[1])
        if kinds == ("builder", "builder"):
            return all_true((self.compare(x.parts[0], y.parts[0]),
                             match_items(x.parts[1], y.parts[1], self.compare)))
        return None if {"builder", "relation", "chain"} & {*kinds} else False

    def without_repeats(self, items) -> list:
        kept = []
        for item in items:
            if not any(self.compare(item, other) for other in kept):
                kept.append(item)
        return kept


class Pair(NamedTuple):
    """A name and its answer, such as x and 1 in (x, y) = (1, 2)."""

    name: object
    answer: object


def parts(x) -> tuple:
    """The items of a tuple, or another answer as the single item."""
    return x.parts[1] if kind_of(x) == "tuple" else (x,)


def all_true(verdicts) -> bool | None:
    """The conjunction of three-valued verdicts."""
    verdicts = list(verdicts)
    return False if False in verdicts else None if None in verdicts else True


def match_items(xs, ys, equal) -> bool | None:
    """Whether each x has an equal y of its own, in any order. Equality is transitive, so the first
    equal y will do."""
    if len(xs) != len(ys):
        return False
    left, verdicts = list(ys), []
    for x in xs:
        partner, verdict = None, False
        for i, y in enumerate(left):
            same = equal(x, y)
            if same or same is None and partner is None:
                partner, verdict = i, same
            if same:
                break
        if partner is None:
            return False
        verdicts.append(verdict)
        left.pop(partner)
    return all_true(verdicts)
