"""Equations and inequalities, as answers.

    x = 5         a named answer      -x > -1       a named interval, x in (-oo, 1)
    x + y = 1     an equation         x < y + 1     a relation, x - y - 1 < 0
    a < b < c     a chain

A name is a variable, f(x), |AB|, AB or a tuple of names, never a constant. A chain such as
x = 4/2 = 2 is an answer if its values are equal. So is sin 30° = 1/2, because it is known to hold.
"""

from decimal import Decimal
from fractions import Fraction

from grading import sets
from grading.algebra import (
    ONE,
    POSITIVE,
    Algebra,
    CannotTell,
    add_polynomials,
    atoms_of,
    single_atom,
    variable_name,
)
from grading.structures import Infinity, Structure, as_value, kind_of

RELATIONS = ("=", r"\approx", r"\in", "<", ">", r"\le", r"\ge", r"\ne")
TURNED = {">": "<", r"\ge": r"\le"}


def has_variables(algebra: Algebra, a) -> bool:
    """Whether a value contains a variable or an unknown function."""
    for atom in atoms_of(a):
        if isinstance(atom, tuple):
            name, values = algebra.opaque_of[atom]
            if name.endswith("()") or any(has_variables(algebra, value) for value in values):
                return True
        elif isinstance(atom, str) and atom not in (*POSITIVE, "i"):
            return True
    return False


def is_name(algebra: Algebra, x) -> bool:
    """Whether an answer can be the name of another one."""
    if kind_of(x) == "tuple":
        return x.parts[0] == "(" and all(is_name(algebra, part) for part in x.parts[1])
    if kind_of(x) == "ratio":
        return all(is_name(algebra, part) for part in x.parts)
    if kind_of(x) != "value":
        return False
    atom = single_atom(x)
    if isinstance(atom, tuple):  # f(x), |AB|, sin x
        return has_variables(algebra, x) and algebra.opaque_of[atom][0] != "power"
    segments = len(x[0]) == 1 and x[1] == ONE and set(x[0].values()) == {1} and all(
        isinstance(name, str) and name[:1].isupper() and e in (1, -1)
        for monomial in x[0] for name, e in monomial) and atoms_of(x) != set()  # AB, NO/BO
    return variable_name(x) != "" or segments


def named(algebra: Algebra, sides: list, signs: list[str], literal: bool):
    """The answer of sides with = between them; see the module's docstring. literal: the first side
    is a plain number."""
    left, *rest = sides
    if signs == ["="] and not is_name(algebra, left) and variable_name(rest[0]):  # 5 = x
        left, rest = rest[0], [left]
    # 1. all sides after the first are equal
    right = rest[0]
    if signs[0] == r"\in" and (len(signs) > 1 or kind_of(right) == "value"):
        raise CannotTell("an element of what is no set")
    if signs[0] == r"\approx" and not is_decimal(right):
        raise CannotTell("an approximation that is no decimal number")
    for side, sign in zip(rest[1:], signs[1:], strict=True):
        same = (is_rounded(algebra, right, side) if sign == r"\approx"
                else algebra.equal(as_value(right), as_value(side)))
        if not same:
            raise CannotTell("a chain of different values")
    # 2. the first is a name
    if is_name(algebra, left):
        if kind_of(left) == kind_of(right) == "value":
            nonzero(algebra, algebra.add(left, right, -1))
        return Structure("named", (left, right, None))
    if signs[0] == r"\approx" and is_rounded(algebra, left, right):
        return left
    left, right = as_value(left), as_value(right)
    if not (has_variables(algebra, left) or has_variables(algebra, right)):
        if literal or not algebra.equal(left, right):
            raise CannotTell("an equation between constants that is not known to hold")
        return Structure("named", (left, right, None))
    if signs != ["="]:
        raise CannotTell("a chain of equations")
    return Structure("equation", (nonzero(algebra, algebra.add(left, right, -1)),))


def nonzero(algebra: Algebra, difference):
    """The difference of two sides. Raises CannotTell if it is 0. Also if a factor of it was divided
    out before: x^2/x = 0 has no solution, but x = 0 has one."""
    shared = algebra.cancelled.intersection(*({atom for atom, _ in m} for m in difference[0]))
    if not difference[0] or shared:
        raise CannotTell("a relation that says nothing")
    return difference


def is_decimal(x) -> bool:
    """Whether an answer is a decimal number, maybe with a unit."""
    value = x.parts[0] if kind_of(x) == "quantity" else x
    return kind_of(value) == "value" and set(value[0]) == {()} and value[1] == ONE and isinstance(
        value[0][()], Fraction)


def is_rounded(algebra: Algebra, x, decimal) -> bool:
    """Whether a decimal number is a value x, rounded at its last digit."""
    if not is_decimal(decimal):
        return False
    decimal = decimal.parts[0] if kind_of(decimal) == "quantity" else decimal
    number, places = decimal[0][()], 0
    while places < 30 and (number * 10**places).denominator != 1:
        places += 1
    rounded = Decimal(number.numerator) / number.denominator
    error = abs(sets.decimal_of(algebra, as_value(x)) - rounded)
    return places < 30 and error <= Decimal(1) / 10**places


# --- inequalities

def inequality(algebra: Algebra, sides: list, signs: list[str]):
    """The answer of an inequality of two or more sides."""
    algebra.spend_work(10)
    if signs == [r"\ne"]:
        return unequal(algebra, *map(as_value, sides))
    if set(signs) <= set(TURNED):  # all signs point to the right
        sides, signs = sides[::-1], [TURNED[sign] for sign in signs[::-1]]
    if not set(signs) <= {"<", r"\le"}:
        raise CannotTell("a chain of different relations")
    brackets = ["(" if sign == "<" else "[" for sign in signs]
    if len(sides) == 2 and any(isinstance(side, Infinity) for side in sides):
        raise CannotTell("an inequality with infinity")
    if len(sides) == 2:
        difference = nonzero(algebra, algebra.add(*map(as_value, sides), -1))
        low, middle, high = Infinity(-1), difference, algebra.number(0)
        brackets = ["(", *brackets]
    elif len(sides) == 3:
        low, middle, high = sides
    solved = solve(algebra, low, as_value(middle), high, brackets) if len(sides) < 4 else None
    if solved:
        return solved
    if not any(has_variables(algebra, side) for side in sides if kind_of(side) == "value"):
        raise CannotTell("an inequality between constants")
    if len(sides) == 2:
        return Structure("relation", (signs[0], difference))
    return Structure("chain", (tuple(signs), tuple(map(as_value, sides))))


def unequal(algebra: Algebra, left, right):
    difference = nonzero(algebra, algebra.add(left, right, -1))
    solved = linear(algebra, difference)
    if not solved:
        return Structure("relation", (r"\ne", difference))
    name, factor, rest = solved
    value = algebra.multiply(rest, algebra.number(-1 / factor))
    parts = [Structure("tuple", ("(", ends, ")"))
             for ends in ((Infinity(-1), value), (value, Infinity(1)))]
    return Structure("named", (name, Structure("union", tuple(parts)), None))


def linear(algebra: Algebra, a):
    """(name, factor, rest) of a value factor * name + rest, with no variable in rest; None for
    any other value."""
    names = {m: c for m, c in a[0].items() if m and has_variables(algebra, ({m: 1}, ONE))}
    if len(names) != 1 or a[1] != ONE:
        return None
    [(monomial, factor)] = names.items()
    name = {monomial: 1}, ONE
    return (name, Fraction(factor), without_term(a, monomial)) if is_name(algebra, name) else None


def without_term(a, monomial):
    """A value without one of its terms."""
    return add_polynomials(a[0], {monomial: a[0][monomial]}, -1), ONE


def solve(algebra: Algebra, low, middle, high, brackets):
    """The named interval of low < middle < high, where middle is linear in one name; None for
    any other middle."""
    solved = linear(algebra, middle)
    if not solved and len(brackets) == 2 and is_name(algebra, middle):
        solved = middle, Fraction(1), algebra.number(0)
    if not solved:
        return None
    name, factor, rest = solved

    def at_name(end):
        if isinstance(end, Infinity):
            return Infinity(end.sign if factor > 0 else -end.sign)
        return algebra.multiply(algebra.add(as_value(end), rest, -1), algebra.number(1 / factor))
    ends = [at_name(low), at_name(high)]
    left, right = brackets
    if factor < 0:
        ends, left, right = ends[::-1], right, left
    interval = Structure("tuple", (left, tuple(ends), ")" if right == "(" else "]"))
    return Structure("named", (name, interval, None))


def combined(algebra: Algebra, word: str, x, y):
    """Two inequalities of one variable as one set: the union for "or", the intersection for "and".
    None for anything else, such as x = 1 or x = 2."""
    if word not in ("or", "and") or kind_of(x) != "named" or kind_of(y) != "named" or (
            x.parts[0] != y.parts[0]):
        return None
    contents = [part.parts[1] for part in (x, y)]
    if not any(kind_of(content) in ("tuple", "union") for content in contents):
        return None
    contents = [Structure("set", (content,)) if kind_of(content) == "value" else content
                for content in contents]
    whole = sets.combine(algebra, r"\cup" if word == "or" else r"\cap", *contents)
    return Structure("named", (x.parts[0], whole, None))
