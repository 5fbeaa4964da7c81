"""Exact values of written answers in a normal form, which are compared without a computer algebra
system and without a float.

A value is a quotient of two polynomials with rational coefficients. The atoms of a polynomial are
variables, pi, e, i, and primes with an exponent below 1. Roots of different primes are linearly
independent over the rationals, so different forms have different values:

    sqrt(8) = 2 * 2^(1/2)      i^2 = -1      a/b = c/d  <=>  a*d - c*b = 0

Anything else, such as sin(x) or the root of a sum, is an opaque atom: two of them are equal if they
are written with equal values, and otherwise the comparison cannot be decided. Digits, exponents,
terms and work are bounded, so every comparison is fast. Left out on purpose: simplification,
identities of functions, solving.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_BITS = 2000     # of a coefficient
MAX_EXPONENT = 60   # of a sum or a variable
MAX_TERMS = 200     # of a polynomial
MAX_WORK = 8_000    # of one comparison, about 30 ms; see Algebra.spend_work


class CannotTell(Exception):
    """The answer is outside the grammar, or the comparison would take too long."""


# --- polynomials: {monomial: coefficient}, with a monomial the sorted ((atom, exponent), ...)

ONE = {(): Fraction(1)}


def bit_size(x: Fraction) -> int:
    return max(abs(x.numerator), x.denominator).bit_length()


def constant(x) -> dict:
    x = Fraction(x)
    if bit_size(x) > MAX_BITS:
        raise CannotTell("a number with too many digits")
    return {(): x} if x else {}


def add_polynomials(p: dict, q: dict, sign: int = 1) -> dict:
    total = dict(p)
    for monomial, c in q.items():
        total[monomial] = total.get(monomial, 0) + sign * c
    return {m: c for m, c in total.items() if c}


def monomial_product(m, n) -> tuple[Fraction, tuple]:
    """The coefficient and the monomial of m * n. Whole powers of primes, and i^2, go into the
    coefficient."""
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
    """The primes of n >= 1 with their exponents. Raises CannotTell where the part without factors
    below 10,000 is 10^8 or more."""
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


# --- values

class Algebra:
    """Arithmetic on values, which are pairs of polynomials (numerator, denominator). One object
    serves one comparison: it counts the work and raises CannotTell when there is too much."""

    def __init__(self):
        self.work_left = MAX_WORK
        self.opaque_atoms = {}  # form -> the number of its opaque atom

    def spend_work(self, work: int):
        """Products cost their pairs of terms times the length of a monomial, roots a constant."""
        self.work_left -= work
        if self.work_left < 0:
            raise CannotTell("too much work")

    def multiply_polynomials(self, p: dict, q: dict) -> dict:
        longest = max((len(m) for m in (*p, *q)), default=0)
        self.spend_work(len(p) * len(q) * (2 + longest))
        total = {}
        for m, c in p.items():
            for n, d in q.items():
                factor, monomial = monomial_product(m, n)
                total[monomial] = total.get(monomial, 0) + factor * c * d
        total = {m: c for m, c in total.items() if c}
        if len(total) > MAX_TERMS or any(bit_size(c) > MAX_BITS for c in total.values()):
            raise CannotTell("too large to multiply out")
        return total

    def number(self, x):
        return constant(x), ONE

    def atom(self, name):
        return {((name, Fraction(1)),): Fraction(1)}, ONE

    def add(self, a, b, sign=1):
        (p, q), (r, s) = a, b
        if q == s:
            return add_polynomials(p, r, sign), q
        left, right = self.multiply_polynomials(p, s), self.multiply_polynomials(r, q)
        return add_polynomials(left, right, sign), self.multiply_polynomials(q, s)

    def multiply(self, a, b):
        return self.multiply_polynomials(a[0], b[0]), self.multiply_polynomials(a[1], b[1])

    def divide(self, a, b):
        if not b[0]:
            raise CannotTell("division by zero")
        return self.multiply(a, b[::-1])

    def equal(self, a, b) -> bool | None:
        """Whether two values are equal; None where their difference contains opaque atoms."""
        left, right = self.multiply_polynomials(a[0], b[1]), self.multiply_polynomials(b[0], a[1])
        difference = add_polynomials(left, right, -1)
        if any(isinstance(atom, tuple) for monomial in difference for atom, _ in monomial):
            return None
        return not difference

    def rational(self, a) -> Fraction | None:
        """The value as a fraction; None for a value that is not rational."""
        if set(a[0]) <= {()} and set(a[1]) == {()}:
            return a[0].get((), Fraction(0)) / a[1][()]
        return None

    # --- powers and roots

    def power(self, a, b):
        exponent = self.rational(b)
        if exponent is None:
            return self.opaque("power", a, b)
        if exponent.denominator == 1:
            return self.integer_power(a, int(exponent))
        if exponent < 0:
            return self.divide(self.number(1), self.power(a, self.number(-exponent)))
        if any(len(part) > 1 for part in a):  # a root of a sum
            root = self.opaque("power", a, self.number(Fraction(1, exponent.denominator)))
            return self.integer_power(root, exponent.numerator)
        return self.root(a[0], exponent), self.root(a[1], exponent)

    def integer_power(self, a, n: int):
        if n < 0:
            return self.divide(self.number(1), self.integer_power(a, -n))
        value = self.rational(a)
        if value is not None:
            if n * bit_size(value) > MAX_BITS:
                raise CannotTell("a power with too many digits")
            return self.number(value**n)
        if n > MAX_EXPONENT:
            raise CannotTell("an exponent that is too large")
        result = self.number(1)
        for _ in range(n):
            result = self.multiply(result, a)
        return result

    def root(self, p: dict, exponent: Fraction) -> dict:
        """A single term, or 0, to a positive exponent that is not an integer."""
        if not p:
            return {}
        [(monomial, c)] = p.items()
        # the sign: an odd root is real, a square root of a negative number has a factor i
        result = ONE
        if c < 0:
            if exponent.denominator % 2:
                result = constant((-1) ** exponent.numerator)
            elif exponent.denominator == 2:
                result = self.integer_power(self.atom("i"), exponent.numerator)[0]
            else:
                raise CannotTell("a root of a negative number")
        # the primes of the coefficient, and the atoms
        factors = [(prime, e * sign) for sign, n in ((1, abs(c.numerator)), (-1, c.denominator))
                   for prime, e in factorize(n).items()]
        for atom, e in monomial:
            if atom == "i" or isinstance(atom, str) and atom not in ("pi", "e") and e % 2 == 0:
                raise CannotTell("a root of i, or of a square whose sign is not known")
        self.spend_work(300)
        for atom, e in [*factors, *monomial]:
            factor, m = monomial_product((), ((atom, e * exponent),))
            result = self.multiply_polynomials(result, {m: factor})
        return result

    def opaque(self, name: str, *values):
        """An opaque atom, ("?", number). The number is the same for the same name and values."""
        def form(value):
            p, q = value
            leading = q[max(q, key=str)]
            return tuple(frozenset((m, c / leading) for m, c in part.items()) for part in (p, q))
        whole_form = (name, *map(form, values))
        number = self.opaque_atoms.setdefault(whole_form, len(self.opaque_atoms))
        return self.atom(("?", number))


# --- answers that are not plain values

@dataclass(frozen=True)
class Structure:
    """An answer that is not a plain value. kind, and its parts: list, set (items); tuple, also for
    intervals (left bracket, items, right bracket); union (tuples); matrix (rows); equation (left,
    right); quantity (value, unit); based (digits, base); text (word)."""

    kind: str
    parts: tuple


@dataclass(frozen=True)
class Infinity:
    sign: int


def as_value(x):
    """x itself; raises CannotTell for a Structure or an Infinity."""
    if isinstance(x, (Structure, Infinity)):
        raise CannotTell("arithmetic needs plain values")
    return x


def variable_name(x) -> str:
    """The name of a value that is a single variable; "" for every other answer."""
    if isinstance(x, tuple) and x[1] == ONE and list(x[0].values()) == [1]:
        [monomial] = x[0]
        if len(monomial) == 1 and isinstance(monomial[0][0], str) and monomial[0][1] == 1:
            return monomial[0][0]
    return ""
