"""Functions of exact values: sin 30° is 1/2, log_2 8 is 3, |-3| is 3, C(7, 2) is 21.

A function of another value is an opaque atom, see algebra.py. So that different spellings meet,
tan, cot, sec and csc are written with sin and cos, logarithms of numbers with those of primes, and
odd functions with a positive first term. Left out on purpose: addition theorems.
"""

import math
from fractions import Fraction
from functools import lru_cache

from grading.algebra import Algebra, CannotTell, atoms_of, factorize

MAX_FACTORIAL = 1000
INVERSES = {name: "arc" + name for name in ("sin", "cos", "tan", "cot", "sec", "csc")}
ODD = {"sin", "arcsin", "arctan", "tanh", "sinh"}
EVEN = {"cos", "abs", "cosh"}


def apply_function(algebra: Algebra, name: str, value, base=None):
    """name(value), with the base of a logarithm. Raises CannotTell where it has no value."""
    if name in ("tan", "cot", "sec", "csc"):
        sine, cosine = (apply_function(algebra, f, value) for f in ("sin", "cos"))
        top = {"tan": sine, "cot": cosine}.get(name, algebra.number(1))
        return algebra.divide(top, sine if name in ("cot", "csc") else cosine)
    if name == "exp":
        return algebra.power(algebra.atom("e"), value)
    if name in ("log", "ln", "lg"):
        if base is None and name == "lg":
            base = algebra.number(10)
        numerator = logarithm(algebra, name if base is None else "ln", value)
        return numerator if base is None else algebra.divide(
            numerator, logarithm(algebra, "ln", base))
    known = {"sin": sine_of, "cos": cosine_of, "abs": absolute, "floor": floor, "ceil": ceiling,
             "arcsin": arc, "arccos": arc, "arctan": arc}.get(name)
    result = known(algebra, name, value) if known else None
    return result if result is not None else opaque_function(algebra, name, value)


def opaque_function(algebra: Algebra, name: str, value):
    """An opaque atom; f(-x) is -f(x) or f(x) for odd and even functions."""
    p, q = value
    negative = bool(p) and name in ODD | EVEN and p[max(p, key=str)] < 0
    if negative:
        value = {m: -c for m, c in p.items()}, q
    result = algebra.opaque(name, value)
    if name == "cos":  # cos(x)^2 = 1 - sin(x)^2
        sine = algebra.opaque("sin", value)
        [((atom, _),)] = result[0]
        algebra.rules[atom] = 2, algebra.add(algebra.number(1),
                                             algebra.integer_power(sine, 2), -1)[0]
    return algebra.multiply(algebra.number(-1), result) if negative and name in ODD else result


# --- angles

def sine_of_twelfths(algebra: Algebra, k: int):
    """sin(k pi / 12)."""
    k %= 24
    if k > 12:
        return algebra.multiply(algebra.number(-1), sine_of_twelfths(algebra, k - 12))
    k = min(k, 12 - k)
    roots = {0: (), 1: ((6, 1), (2, -1)), 2: ((4, 1),), 3: ((2, 2),), 4: ((3, 2),),
             5: ((6, 1), (2, 1)), 6: ((16, 1),)}
    total = algebra.number(0)
    for n, times in roots[k]:  # times * sqrt(n) / 4
        root = algebra.power(algebra.number(n), algebra.number(Fraction(1, 2)))
        total = algebra.add(total, algebra.multiply(root, algebra.number(Fraction(times, 4))))
    return total


def twelfths_of_pi(value) -> int | None:
    """k for the value k pi / 12."""
    p, q = value
    if set(p) <= {(("pi", 1),)} and len(q) == 1:
        k = Fraction(p.get((("pi", 1),), 0)) * 12
        return int(k) if k.denominator == 1 else None
    return None


def sine_of(algebra: Algebra, _, value):
    k = twelfths_of_pi(value)
    return None if k is None else sine_of_twelfths(algebra, k)


def cosine_of(algebra: Algebra, _, value):
    k = twelfths_of_pi(value)
    return None if k is None else sine_of_twelfths(algebra, k + 6)


def arc(_, name: str, value):
    """The angle of a known sine, cosine or tangent."""
    return next((angle for number, angle in known_angles(name) if number == value), None)


@lru_cache
def known_angles(name: str) -> list[tuple]:
    """The pairs (sin x, x) of arcsin, for the multiples x of pi/6 and pi/4 that arcsin can give;
    the same for arccos and arctan."""
    pairs = []
    for k in (-6, -4, -3, -2, 0, 2, 3, 4, 6):
        algebra = Algebra()
        twelfths = algebra.number(Fraction(6 - k if name == "arccos" else k, 12))
        angle = algebra.multiply(twelfths, algebra.atom("pi"))
        try:
            pairs.append((apply_function(algebra, name.removeprefix("arc"), angle), angle))
        except CannotTell:  # the tangent of pi/2
            pass
    return pairs


# --- logarithms and numbers

def logarithm(algebra: Algebra, name: str, value):
    """ln or log of a value: that of a product of numbers is the sum over its primes."""
    p, q = value
    if not p:
        raise CannotTell("the logarithm of 0")
    if len(p) > 1 or len(q) > 1 or any(not isinstance(atom, int) and atom not in ("e", "pi")
                                       for atom in atoms_of(value)):
        return log_of_power(algebra, name, value)
    [(monomial, c)] = p.items()
    if c < 0:
        raise CannotTell("the logarithm of a negative number")
    total = algebra.number(0)
    primes = [(n, e * sign) for sign, m in ((1, c.numerator), (-1, c.denominator))
              for n, e in factorize(m).items()]
    for atom, e in [*primes, *monomial]:
        base = algebra.number(atom) if isinstance(atom, int) else algebra.atom(atom)
        one = algebra.number(1) if (name, atom) == ("ln", "e") else algebra.opaque(name, base)
        total = algebra.add(total, algebra.multiply(algebra.number(e), one))
    return total


def log_of_power(algebra: Algebra, name: str, value):
    """ln(e^x) is x; any other logarithm is opaque."""
    e = algebra.atom("e")
    for atom in atoms_of(value):
        form, parts = algebra.opaque_of.get(atom, ("", ()))
        if name == "ln" and form == "power" and parts[0] == e and len(value[0]) == 1:
            [(monomial, c)] = value[0].items()
            if c == 1 and len(monomial) == 1:
                return algebra.multiply(parts[1], algebra.number(monomial[0][1]))
    return algebra.opaque(name, value)


def absolute(algebra: Algebra, _, value):
    number = algebra.rational(value)
    return None if number is None else algebra.number(abs(number))


def floor(algebra: Algebra, _, value):
    number = algebra.rational(value)
    return None if number is None else algebra.number(math.floor(number))


def ceiling(algebra: Algebra, _, value):
    number = algebra.rational(value)
    return None if number is None else algebra.number(math.ceil(number))


def factorial(algebra: Algebra, value, step: int = 1):
    """n! for step 1, n!! for step 2. Opaque for a value that is no whole number."""
    n = algebra.rational(value)
    if n is None:
        return algebra.opaque("!" * step, value)
    if n.denominator != 1 or not 0 <= n <= MAX_FACTORIAL:
        raise CannotTell(f"a factorial of a number that is not one of 0 to {MAX_FACTORIAL}")
    algebra.spend_work(10 + int(n) // 2)
    return algebra.number(math.prod(range(int(n), 0, -step)))


def binomial(algebra: Algebra, n, k):
    """n over k, as n! / (k! (n-k)!)."""
    numbers = [algebra.rational(x) for x in (n, k)]
    if None not in numbers and all(x.denominator == 1 and 0 <= x <= MAX_FACTORIAL
                                   for x in numbers):
        algebra.spend_work(10 + int(numbers[0]) // 4)
        return algebra.number(math.comb(*map(int, numbers)))
    below = algebra.multiply(factorial(algebra, k),
                             factorial(algebra, algebra.add(n, k, -1)))
    return algebra.divide(factorial(algebra, n), below)
