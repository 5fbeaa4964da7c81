"""Unions, intersections and differences of intervals and finite sets of real numbers.

A region is a sorted list of disjoint pieces (low, low is in it, high, high is in it). Its ends are
exact values, which are ordered by their first digits. So [1,2] u [2,3] is [1,3], and "x < 1 or
x > 4" is the complement of [1,4]. Ends with variables have no order; their unions stay as written.
"""

from decimal import Decimal, localcontext
from functools import cmp_to_key

from grading.algebra import Algebra, CannotTell
from grading.structures import Infinity, Structure, as_value, is_interval, kind_of

DIGITS = 50               # of the calculation
CLOSE = Decimal("1e-30")  # ends with a smaller distance are equal, or cannot be told apart
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def decimal_of(algebra: Algebra, value) -> Decimal:
    """A value, calculated with DIGITS digits. Raises CannotTell for a value with variables, i, or
    opaque atoms other than logarithms."""
    with localcontext() as context:
        context.prec = DIGITS
        parts = []
        for polynomial in value:
            total = Decimal(0)
            for monomial, c in polynomial.items():
                term = Decimal(c.numerator) / Decimal(c.denominator)
                for atom, e in monomial:
                    base = decimal_of_atom(algebra, atom)
                    term *= base if e == 1 else base ** (
                        Decimal(e.numerator) / Decimal(e.denominator))
                total += term
            parts.append(total)
        return parts[0] / parts[1]


def decimal_of_atom(algebra: Algebra, atom) -> Decimal:
    algebra.spend_work(20)
    name, values = algebra.opaque_of.get(atom, ("", ()))
    if name == "ln":
        argument = decimal_of(algebra, *values)
        if argument > 0:
            return argument.ln()
    if isinstance(atom, int):
        return Decimal(atom)
    if atom not in ("pi", "e"):
        raise CannotTell("digits of a value with variables")
    return PI if atom == "pi" else Decimal(1).exp()


def compare_ends(algebra: Algebra, a, b) -> int:
    """-1, 0 or 1 for a < b, a = b, a > b."""
    signs = [x.sign if isinstance(x, Infinity) else 0 for x in (a, b)]
    if signs != [0, 0]:
        return (signs[0] > signs[1]) - (signs[0] < signs[1])
    algebra.spend_work(25)
    distance = decimal_of(algebra, a) - decimal_of(algebra, b)
    if abs(distance) < CLOSE:
        if not algebra.equal(a, b):
            raise CannotTell("two ends that are too close")
        return 0
    return 1 if distance > 0 else -1


def region_of(algebra: Algebra, x) -> list[tuple]:
    """The pieces of an interval, a finite set or a union. Raises CannotTell for another answer."""
    if kind_of(x) == "union":
        return union(algebra, [piece for part in x.parts for piece in pieces_of(algebra, part)])
    return union(algebra, pieces_of(algebra, x))


def pieces_of(algebra: Algebra, x) -> list[tuple]:
    """The pieces of an interval or a finite set, as they are written."""
    if kind_of(x) == "set":
        return [(as_value(item), True, item, True) for item in x.parts]
    if not is_interval(x):
        raise CannotTell("a set that is no interval")
    left, (low, high), right = x.parts
    order = compare_ends(algebra, low, high)
    if order > 0 or order == 0 and (left, right) != ("[", "]"):
        raise CannotTell("an empty interval")
    return [(low, left == "[", high, right == "]")]


def union(algebra: Algebra, pieces: list[tuple]) -> list[tuple]:
    """The pieces, sorted; those that overlap or touch are joined."""
    algebra.spend_work(20 + 5 * len(pieces))

    def order(a, b):
        return compare_ends(algebra, a[0], b[0]) or b[1] - a[1]
    joined = []
    for low, closed, high, high_closed in sorted(pieces, key=cmp_to_key(order)):
        gap = compare_ends(algebra, low, joined[-1][2]) if joined else 1
        if gap < 0 or gap == 0 and (closed or joined[-1][3]):
            before = joined.pop()
            further = compare_ends(algebra, high, before[2])
            end = (high, high_closed) if further > 0 else before[2:] if further < 0 else (
                high, high_closed or before[3])
            joined.append((*before[:2], *end))
        else:
            joined.append((low, closed, high, high_closed))
    return joined


def complement(algebra: Algebra, region: list[tuple]) -> list[tuple]:
    """All real numbers outside a region."""
    low, closed, pieces = Infinity(-1), False, []
    for next_low, next_closed, high, high_closed in region:
        order = compare_ends(algebra, low, next_low)
        if order < 0 or order == 0 and closed and not next_closed:
            pieces.append((low, closed, next_low, not next_closed))
        low, closed = high, not high_closed
    if compare_ends(algebra, low, Infinity(1)) < 0:
        pieces.append((low, closed, Infinity(1), False))
    return pieces


def intersection(algebra: Algebra, a: list[tuple], b: list[tuple]) -> list[tuple]:
    """The complement of the union of both complements."""
    outside = complement(algebra, a) + complement(algebra, b)
    return complement(algebra, union(algebra, outside))


def structure_of(region: list[tuple]) -> Structure:
    """The answer that a region is: a set, an interval, or a union of both."""
    points = Structure("set", tuple(low for low, _, high, _ in region if low == high))
    intervals = [Structure("tuple", ("[" if closed else "(", (low, high), "]" if end else ")"))
                 for low, closed, high, end in region if low != high]
    parts = (*intervals, points) if points.parts or not intervals else tuple(intervals)
    return parts[0] if len(parts) == 1 else Structure("union", parts)


def combine(algebra: Algebra, sign: str, *sides):
    """The sides joined by \\cup, \\cap or \\setminus. A union stays as written if its ends have no
    order."""
    if sign == r"\cup":
        parts = [part for side in sides
                 for part in (side.parts if kind_of(side) == "union" else [side])]
        if any(kind_of(part) not in ("tuple", "set") for part in parts):
            raise CannotTell("a union of other things than sets")
        whole = Structure("union", tuple(parts))
        try:
            return structure_of(region_of(algebra, whole))
        except CannotTell:
            if algebra.work_left < 0:
                raise
            return whole
    a, b = (region_of(algebra, side) for side in sides)
    return structure_of(intersection(algebra, a, b if sign == r"\cap" else
                                     complement(algebra, b)))
