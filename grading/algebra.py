"""Exact values of written answers, in a normal form: so that two can be compared without a computer
algebra system and without a float.

A value is a quotient of two polynomials with rational coefficients. What a polynomial is made of
are atoms with exponents: variables, pi, e, i, and prime numbers with exponents below 1. Roots of
different primes are linearly independent over the rationals, so no two forms have the same value:

    sqrt(8) = 2 * 2^(1/2)      i^2 = -1      a/b = c/d  <=>  a*d - c*b = 0

What is left, such as sin(x) or a root of a sum, is an atom of its own, of which little is known:
where only such atoms differ, nobody can tell. Everything is bounded (digits, exponents, terms), so
that no value takes long. Left out on purpose: simplification, identities of functions, solving.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_BITS = 2000     # of a coefficient
MAX_EXPONENT = 60   # of a sum or a variable
MAX_TERMS = 200     # of a polynomial
MAX_WORK = 8_000    # in one comparison, some 30 ms: products of terms by their length, roots


class CannotTell(Exception):
    """What was written is not understood, or would take too long."""


# --- polynomials: {monomial: coefficient}, a monomial being sorted ((atom, exponent), ...)

ONE = {(): Fraction(1)}


def bits(x: Fraction) -> int:
    return max(abs(x.numerator), x.denominator).bit_length()


def constant(x) -> dict:
    x = Fraction(x)
    if bits(x) > MAX_BITS:
        raise CannotTell("a number of too many digits")
    return {(): x} if x else {}


def symbol(atom) -> dict:
    return {((atom, Fraction(1)),): Fraction(1)}


def add(p: dict, q: dict, sign: int = 1) -> dict:
    total = dict(p)
    for monomial, c in q.items():
        total[monomial] = total.get(monomial, 0) + sign * c
    return {m: c for m, c in total.items() if c}


def monomial_product(m, n) -> tuple[Fraction, tuple]:
    """Coefficient and monomial of m * n: primes^1 and i^2 become numbers."""
    exponents, factor = dict(m), Fraction(1)
    for atom, e in n:
        exponents[atom] = exponents.get(atom, 0) + e
    for atom, e in list(exponents.items()):
        if isinstance(atom, int):          # a prime
            whole = math.floor(e)
            factor, exponents[atom] = factor * Fraction(atom) ** whole, e - whole
        elif atom == "i" and e >= 2:
            factor, exponents[atom] = -factor, e - 2
        if not exponents[atom]:
            del exponents[atom]
    return factor, tuple(sorted(exponents.items(), key=lambda item: str(item[0])))


@lru_cache(maxsize=2**12)
def factorize(n: int) -> dict[int, int]:
    """Primes and their exponents, of n >= 1 whose part without small factors is below 10^8."""
    found, p = {}, 2
    while p * p <= n and p < 10_000:
        while n % p == 0:
            found[p], n = found.get(p, 0) + 1, n // p
        p += 1 + (p > 2)
    if n >= 10**8:
        raise CannotTell("a root of a number that is too large to factor")
    if n > 1:
        found[n] = found.get(n, 0) + 1
    return found


class Algebra:
    """Arithmetic on values, each a pair of polynomials (numerator, denominator). It counts products
    of terms, over one comparison, and stops it when they are too many."""

    def __init__(self):
        self.left = MAX_WORK
        self.forms = {}  # of what is unknown -> its number

    def spend(self, work: int):
        self.left -= work
        if self.left < 0:
            raise CannotTell("too much work")

    def times(self, p: dict, q: dict) -> dict:
        """The product of two polynomials."""
        longest = max((len(m) for m in (*p, *q)), default=0)
        self.spend(len(p) * len(q) * (2 + longest))
        total = {}
        for m, c in p.items():
            for n, d in q.items():
                factor, monomial = monomial_product(m, n)
                total[monomial] = total.get(monomial, 0) + factor * c * d
        total = {m: c for m, c in total.items() if c}
        if len(total) > MAX_TERMS or any(bits(c) > MAX_BITS for c in total.values()):
            raise CannotTell("too large to multiply out")
        return total

    def number(self, x):
        return constant(x), ONE

    def atom(self, name):
        return symbol(name), ONE

    def add(self, a, b, sign=1):
        (p, q), (r, s) = a, b
        if q == s:
            return add(p, r, sign), q
        return add(self.times(p, s), self.times(r, q), sign), self.times(q, s)

    def multiply(self, a, b):
        return self.times(a[0], b[0]), self.times(a[1], b[1])

    def divide(self, a, b):
        if not b[0]:
            raise CannotTell("division by zero")
        return self.multiply(a, b[::-1])

    def same(self, a, b) -> bool | None:
        """Whether two values are equal; None where only what is unknown of them differs."""
        difference = add(self.times(a[0], b[1]), self.times(b[0], a[1]), -1)
        if any(isinstance(atom, tuple) for monomial in difference for atom, _ in monomial):
            return None
        return not difference

    def rational(self, a) -> Fraction | None:
        """The value as a fraction, where it is one."""
        if set(a[0]) <= {()} and set(a[1]) == {()}:
            return a[0].get((), Fraction(0)) / a[1][()]
        return None

    def power(self, a, b):
        exponent = self.rational(b)
        if exponent is None:
            return self.unknown("power", a, b)
        if exponent.denominator == 1:
            return self.whole_power(a, int(exponent))
        if exponent < 0:
            return self.divide(self.number(1), self.power(a, self.number(-exponent)))
        if any(len(part) > 1 for part in a):  # a root of a sum
            root = self.unknown("power", a, self.number(Fraction(1, exponent.denominator)))
            return self.whole_power(root, exponent.numerator)
        return self.root(a[0], exponent), self.root(a[1], exponent)

    def whole_power(self, a, n: int):
        if n < 0:
            return self.divide(self.number(1), self.whole_power(a, -n))
        value = self.rational(a)
        if value is not None:
            if n * bits(value) > MAX_BITS:
                raise CannotTell("a power of too many digits")
            return self.number(value**n)
        if n > MAX_EXPONENT:
            raise CannotTell("an exponent that is too large")
        result = self.number(1)
        for _ in range(n):
            result = self.multiply(result, a)
        return result

    def root(self, p: dict, exponent: Fraction) -> dict:
        """A single term (or 0) to a positive exponent that is not whole."""
        if not p:
            return {}
        [(monomial, c)] = p.items()
        result = ONE
        if c < 0:  # an odd root is real; the square root brings in i
            if exponent.denominator % 2:
                result = constant((-1) ** exponent.numerator)
            elif exponent.denominator == 2:
                result = self.whole_power(self.atom("i"), exponent.numerator)[0]
            else:
                raise CannotTell("a root of a negative number")
        factors = [(prime, e * sign) for sign, n in ((1, abs(c.numerator)), (-1, c.denominator))
                   for prime, e in factorize(n).items()]
        for atom, e in monomial:
            if atom == "i" or isinstance(atom, str) and atom not in ("pi", "e") and e % 2 == 0:
                raise CannotTell("a root of i, or of a square whose sign is not known")
        self.spend(300)
        for atom, e in [*factors, *monomial]:
            factor, m = monomial_product((), ((atom, e * exponent),))
            result = self.times(result, {m: factor})
        return result

    def unknown(self, name: str, *values):
        """An atom of which only its form is known: ("?", its number in this comparison)."""
        def form(value):
            p, q = value
            lead = q[max(q, key=str)]
            return tuple(frozenset((m, c / lead) for m, c in part.items()) for part in (p, q))
        form_of_all = (name, *map(form, values))
        return self.atom(("?", self.forms.setdefault(form_of_all, len(self.forms))))


# --- shapes around values, and equality

@dataclass(frozen=True)
class Shape:
    """What is not a plain value. kind and parts: list, set (items); tuple (left bracket, items,
    right bracket), also for intervals; union (tuples); matrix (rows); equation (left, right);
    measure (value, unit); based (digits, base); text (word)."""

    kind: str
    parts: tuple


@dataclass(frozen=True)
class Infinity:
    sign: int


def plain(x):
    """x, which must be a value; raises CannotTell for a Shape or infinity."""
    if isinstance(x, (Shape, Infinity)):
        raise CannotTell("only values can be reckoned with")
    return x


def variable(x) -> str:
    """The name of the variable that a value is, else ""."""
    if isinstance(x, tuple) and x[1] == ONE and list(x[0].values()) == [1]:
        [monomial] = x[0]
        if len(monomial) == 1 and isinstance(monomial[0][0], str) and monomial[0][1] == 1:
            return monomial[0][0]
    return ""


def same(x, y, algebra: Algebra, *flags) -> bool | None:
    """Algebra.same of all that can be read: sets, intervals and tuples, infinities, units too."""
    missing_unit, ordered, percent = flags
    if kind(x) > kind(y):
        x, y = y, x
    kinds = kind(x), kind(y)

    def every(xs, ys):
        return conjunction(same(a, b, algebra, *flags) for a, b in zip(xs, ys, strict=True))
    if "equation" in kinds and kinds != ("equation", "equation"):  # x=5 for 5
        side, other = (x, y) if kinds[0] == "equation" else (y, x)
        return variable(side.parts[0]) != "" and same(side.parts[1], other, algebra, *flags)
    if kinds == ("value", "value"):
        return algebra.same(x, y)
    if kinds == ("infinity", "infinity"):
        return x == y
    if kinds == ("measure", "measure"):
        return x.parts[1] == y.parts[1] and same(x.parts[0], y.parts[0], algebra, *flags)
    if kinds == ("measure", "value"):
        value, unit = x.parts
        if percent and unit == "%":
            hundredth = algebra.divide(plain(value), algebra.number(100))
            return algebra.same(hundredth, y) or missing_unit and algebra.same(value, y)
        return missing_unit and same(value, y, algebra, *flags)
    if kinds == ("based", "based"):
        return x == y
    if kinds == ("based", "value"):
        return missing_unit and algebra.rational(y) is not None and (
            str(algebra.rational(y)) == x.parts[0])
    if kinds == ("text", "text"):
        return x == y
    if kinds == ("text", "value"):  # a letter to choose
        return variable(y) != "" and variable(y).lower() == x.parts[0]
    if kinds in (("list", "list"), ("list", "set"), ("set", "set"), ("union", "union")):
        xs, ys = x.parts, y.parts
        if len(xs) != len(ys):
            return False
        return every(xs, ys) if ordered and kinds == ("list", "list") else matched(
            xs, ys, lambda a, b: same(a, b, algebra, *flags))
    if kinds == ("tuple", "tuple"):
        (left, xs, right), (left2, ys, right2) = x.parts, y.parts
        return (left, right, len(xs)) == (left2, right2, len(ys)) and every(xs, ys)
    if kinds == ("matrix", "matrix"):
        shapes = [[len(row) for row in m.parts] for m in (x, y)]
        return shapes[0] == shapes[1] and every(sum(x.parts, ()), sum(y.parts, ()))
    if kinds == ("equation", "equation"):
        return proportional(*(algebra.add(*map(plain, e.parts), -1)[0] for e in (x, y)))
    return False


def kind(x) -> str:
    return x.kind if isinstance(x, Shape) else "infinity" if isinstance(x, Infinity) else "value"


def conjunction(verdicts) -> bool | None:
    verdicts = list(verdicts)
    return False if False in verdicts else None if None in verdicts else True


def matched(xs, ys, same) -> bool | None:
    """Whether the items can be paired; equality is transitive, so the first partner will do."""
    left, verdicts = list(ys), []
    for x in xs:
        found = [(same(x, y), i) for i, y in enumerate(left)]
        best = [i for verdict, i in found if verdict] or [i for verdict, i in found
                                                          if verdict is None]
        if not best:
            return False
        verdicts.append(found[best[0]][0])
        left.pop(best[0])
    return conjunction(verdicts)


def proportional(p: dict, q: dict) -> bool:
    """Whether two polynomials differ by a number as a factor, and so have the same zeros."""
    if set(p) != set(q) or not p:
        return p == q
    first = next(iter(p))
    return all(p[m] * q[first] == q[m] * p[first] for m in p)
