"""Answers that are not plain values: lists, intervals, equations, quantities, words.

A Structure has a kind and parts:

    list, set (items)                          tuple, also an interval (bracket, items, bracket)
    union (intervals and sets)                 matrix (rows)
    named (name, answer, function)             x = 5, f(x) = x^2, x > 3 as x in (3, oo)
    equation (difference,)                     any other equation, left - right = 0
    relation (sign, difference)                any other inequality, left - right < 0
    chain (signs, sides)                       a < b < c
    quantity (value, unit)                     unit: see grading/units.py
    based (digits, base)                       52_8
    ratio (values)                             2:3
    clock (hours, minutes, "am" or "pm")       4:20 may be a time or a ratio, see answers.py
    builder (element, conditions)              {2k | k in Z}
    text (words)                               phrase (words and answers in turn)
"""

from dataclasses import dataclass

from grading.algebra import CannotTell


@dataclass(frozen=True)
class Structure:
    """An answer that is not a plain value."""

    kind: str
    parts: tuple


@dataclass(frozen=True)
class Infinity:
    sign: int


REALS = Structure("tuple", ("(", (Infinity(-1), Infinity(1)), ")"))


def kind_of(x) -> str:
    return x.kind if isinstance(x, Structure) else (
        "infinity" if isinstance(x, Infinity) else "value")


def as_value(x):
    """x itself; raises CannotTell for a Structure or an Infinity."""
    if kind_of(x) != "value":
        raise CannotTell("arithmetic needs plain values")
    return x


def is_interval(x) -> bool:
    """Whether an answer can be an interval: two values or infinities in round or square brackets.
    """
    return kind_of(x) == "tuple" and len(x.parts[1]) == 2 and all(
        kind_of(end) in ("value", "infinity") for end in x.parts[1])
