"""Exact values of written answers in a normal form, which are compared without a computer algebra
system and without a float.

A value is a quotient of two polynomials with rational coefficients. The atoms of a polynomial are
variables, pi, e, i, and primes with an exponent below 1. Roots of different primes are linearly
independent over the rationals, so different forms have different values:

    sqrt(8) = 2 * 2^(1/2)      i^2 = -1      a/b = c/d  <=>  a*d - c*b = 0

Anything else, such as sin(x) or the root of a sum, is an opaque atom: two of them are equal if they
are written with equal values, and otherwise the comparison cannot be decided. An opaque atom may
have one rule, atom^n = polynomial, such as cos(x)^2 = 1 - sin(x)^2. Digits, exponents, terms and
work are bounded, so every comparison is fast. Left out on purpose: solving equations, and
identities other than these rules.
"""

import math
from fractions import Fraction
from functools import lru_cache

MAX_BITS = 10_000     # of a coefficient
MAX_EXPONENT = 60     # of a power of a sum
MAX_TERMS = 200       # of a polynomial
MAX_WORK = 2_000      # of one comparison; see Algebra.spend_work
POSITIVE = ("pi", "e")


class CannotTell(Exception):
    """The answer is outside the grammar, or the comparison would take too long."""


# --- polynomials: {monomial: coefficient}, with a monomial the sorted ((atom, exponent), ...).
# Exponents may be negative and fractional. Whole numbers are int, because Fraction is slow.

ONE = {(): 1}


def exact(x):
    """A rational number as an int where it is whole, and as a Fraction otherwise."""
    return x.numerator if x.denominator == 1 else x


def bit_size(x) -> int:
    return max(abs(x.numerator), x.denominator).bit_length()


def constant(x) -> dict:
    x = x if isinstance(x, int) else exact(Fraction(x))
    if bit_size(x) > MAX_BITS:
        raise CannotTell("a number with too many digits")
    return {(): x} if x else {}


def add_polynomials(p: dict, q: dict, sign: int = 1) -> dict:
    total = dict(p)
    for monomial, c in q.items():
        total[monomial] = total.get(monomial, 0) + sign * c
    return {m: c for m, c in total.items() if c}


def monomial_product(m, n) -> tuple:
    """The coefficient and the monomial of the product m * n. m is in normal form, n need not be.
    Whole powers of primes, and i^2, become part of the coefficient."""
    exponents, factor = dict(m), 1
    for atom, e in n:
        e += exponents.pop(atom, 0)
        if isinstance(atom, int):          # a prime
            whole = math.floor(e)
            factor, e = factor * Fraction(atom) ** whole if whole else factor, e - whole
        elif atom == "i":
            factor, e = factor * (-1) ** (e // 2 % 2), e % 2
        if e:
            exponents[atom] = exact(e)
    monomial = exponents.items()
    return exact(factor), tuple(monomial if len(exponents) < 2 else sorted(monomial, key=sort_key))


def sort_key(item) -> str:
    """The key that sorts the (atom, exponent) of a monomial: atoms have different types."""
    return str(item[0])


@lru_cache(maxsize=2**12)
def factorize(n: int) -> dict[int, int]:
    """The primes of n >= 1 with their exponents. Raises CannotTell if 10^8 or more is left after
    division by all primes below 10,000."""
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
    """Arithmetic on values, which are pairs of polynomials (numerator, denominator). A denominator
    of one term is divided out. One object serves one comparison: it counts the work and raises
    CannotTell when there is too much."""

    def __init__(self):
        self.work_left = MAX_WORK
        self.numbers = {}    # the form of an opaque atom -> its number
        self.opaque_of = {}  # an opaque atom ("?", number) -> (name, values)
        self.cancelled = set()  # variables that were divided out, as in x^2/x
        self.rules = {}      # an opaque atom -> (n, polynomial), where atom^n = polynomial

    def spend_work(self, work: int):
        """Counts work and raises CannotTell above MAX_WORK. A product costs its pairs of terms,
        times the length of its monomials and of its coefficients. A root or an opaque atom costs a
        constant and its number of terms."""
        self.work_left -= work
        if self.work_left < 0:
            raise CannotTell("too much work")

    def multiply_polynomials(self, p: dict, q: dict) -> dict:
        if p == ONE:
            return q
        if q == ONE:
            return p
        longest = max((len(m) for m in (*p, *q)), default=0)
        bits = max((bit_size(c) for c in (*p.values(), *q.values())), default=0)
        self.spend_work(len(p) * len(q) * (2 + longest + bits // 200))
        total = {}
        for m, c in p.items():
            for n, d in q.items():
                factor, monomial = monomial_product(m, n) if m and n else (1, m or n)
                total[monomial] = total.get(monomial, 0) + factor * c * d
        total = {m: c for m, c in total.items() if c}
        if len(total) > MAX_TERMS or any(bit_size(c) > MAX_BITS for c in total.values()):
            raise CannotTell("too large to multiply out")
        return self.apply_rules(total) if self.rules else total

    def apply_rules(self, p: dict) -> dict:
        """Replaces atom^n by its polynomial, as long as there is a rule for it."""
        for monomial, c in p.items():
            for atom, e in monomial:
                n, replacement = self.rules.get(atom, (0, None))
                if n and e >= n:
                    rest = dict(p)
                    del rest[monomial]
                    other = tuple((a, k) for a, k in monomial if a != atom)
                    power = {other + ((atom, e - n),) if e > n else other: c}
                    [power] = [{monomial_product((), m)[1]: d for m, d in power.items()}]
                    return self.apply_rules(add_polynomials(
                        rest, self.multiply_polynomials(power, replacement)))
        return p

    def number(self, x):
        return constant(x), ONE

    def atom(self, name):
        return {((name, 1),): 1}, ONE

    def add(self, a, b, sign=1):
        (p, q), (r, s) = a, b
        bits = max((bit_size(c) for c in (*p.values(), *r.values())), default=0)
        self.spend_work(1 + (len(p) + len(r)) // 4 + bits // 40)
        if q == s:
            return add_polynomials(p, r, sign), q
        left, right = self.multiply_polynomials(p, s), self.multiply_polynomials(r, q)
        return add_polynomials(left, right, sign), self.multiply_polynomials(q, s)

    def multiply(self, a, b):
        self.spend_work(2)
        return self.quotient(self.multiply_polynomials(a[0], b[0]),
                             self.multiply_polynomials(a[1], b[1]))

    def divide(self, a, b):
        if not b[0]:
            raise CannotTell("division by zero")
        self.cancelled |= atoms_of(a[:1]) & atoms_of(b[:1])
        return self.multiply(a, (b[1], b[0]) if len(b[0]) > 1 else self.quotient(b[1], b[0]))

    def quotient(self, p: dict, q: dict):
        """p / q, where a q of one term is divided out."""
        if len(q) > 1 or q == ONE:
            return p, q
        [(monomial, c)] = q.items()
        factor, inverse = monomial_product((), tuple((atom, -e) for atom, e in monomial))
        return self.multiply_polynomials(p, {inverse: exact(Fraction(factor) / c)}), ONE

    def equal(self, a, b) -> bool | None:
        """Whether two values are equal; None where their difference contains opaque atoms."""
        left, right = self.multiply_polynomials(a[0], b[1]), self.multiply_polynomials(b[0], a[1])
        difference = add_polynomials(left, right, -1)
        # opaque atoms with a rule need positive exponents: multiply by a power of them
        lowest = {}
        for monomial in difference:
            for atom, e in monomial:
                lowest[atom] = min(e, lowest.get(atom, 0))
        for atom, e in lowest.items():
            if e < 0 and atom in self.rules:
                difference = self.multiply_polynomials(difference, {((atom, -e),): 1})
        if any(isinstance(atom, tuple) for monomial in difference for atom, _ in monomial):
            return None
        return not difference

    def rational(self, a) -> Fraction | None:
        """The value as a fraction; None for a value that is not rational."""
        return Fraction(a[0].get((), 0)) if set(a[0]) <= {()} and a[1] == ONE else None

    # --- powers and roots

    def power(self, a, b):
        exponent = self.rational(b)
        if exponent is None:
            return self.symbolic_power(a, b)
        if exponent.denominator == 1:
            return self.integer_power(a, int(exponent))
        if exponent < 0:
            return self.divide(self.number(1), self.power(a, self.number(-exponent)))
        if len(a[0]) > 1 or len(a[1]) > 1:
            return self.root_of_sum(a, exponent)
        return self.root(a[0], exponent), ONE

    def integer_power(self, a, n: int):
        if n < 0:
            return self.divide(self.number(1), self.integer_power(a, -n))
        if n == 0 and not a[0]:
            raise CannotTell("0^0 has no value")
        if n * max(map(bit_size, a[0].values()), default=1) > MAX_BITS:
            raise CannotTell("a power with too many digits")
        if len(a[0]) <= 1 and a[1] == ONE:  # one term, or 0
            total = {}
            for monomial, c in a[0].items():
                factor, power = monomial_product((), tuple((atom, n * e) for atom, e in monomial))
                total[power] = exact(factor * c**n)
            return (self.apply_rules(total) if self.rules else total) if n else ONE, ONE
        if n > MAX_EXPONENT:
            raise CannotTell("an exponent that is too large")
        result = self.number(1)
        for _ in range(n):
            result = self.multiply(result, a)
        return result

    def symbolic_power(self, a, b):
        """a^b where b is not a number: a^(2n+1) is a * (a^n)^2, and 4^n is (2^n)^2."""
        base, total = self.rational(a), self.number(1)
        if base is not None and base <= 0 or len(b[1]) > 1:
            return self.opaque("power", a, b)
        # a as factors: a number is a product of primes
        factors = [(a, 1)]
        if base is not None:
            factors = [(self.number(prime), sign * e) for sign, n in
                       ((1, base.numerator), (-1, base.denominator))
                       for prime, e in factorize(n).items()]
        # each factor to each term of the exponent
        positive = base is not None or a == self.atom("e")
        for factor, times in factors:
            for monomial, c in b[0].items():
                c = exact(c * times)
                if not monomial:
                    part = self.power(factor, self.number(c))
                elif isinstance(c, int) or positive:
                    atom = self.opaque("power", factor, ({monomial: 1}, ONE))
                    [(name, _)] = next(iter(atom[0]))
                    part = {((name, c),): 1}, ONE
                else:
                    part = self.opaque("power", factor, ({monomial: c}, ONE))
                total = self.multiply(total, part)
        return total

    def root(self, p: dict, exponent: Fraction) -> dict:
        """A single term, or 0, to a positive exponent that is not an integer. A variable under an
        even root is taken as positive, unless it has an even power: sqrt(x^2) is |x|."""
        if not p:
            return {}
        [(monomial, c)] = p.items()
        signed = [atom for atom, _ in monomial
                  if not isinstance(atom, int) and atom not in POSITIVE]
        even = exponent.denominator % 2 == 0
        if "i" in signed:
            raise CannotTell("a root of i")
        # the sign: an odd root is real, a square root of a negative number has a factor i
        result = ONE
        if c < 0 and even and signed:
            return self.opaque("power", (p, ONE), self.number(exponent))[0]
        if c < 0 and not even:
            result = constant((-1) ** exponent.numerator)
        elif c < 0 and exponent.denominator == 2:
            result = self.integer_power(self.atom("i"), exponent.numerator)[0]
        elif c < 0:
            raise CannotTell("a root of a negative number")
        # the primes of the coefficient, and the atoms
        self.spend_work(100)
        factors = [(prime, e * sign) for sign, n in ((1, abs(c.numerator)), (-1, c.denominator))
                   for prime, e in factorize(n).items()]
        for atom, e in [*factors, *monomial]:
            if even and atom in signed and e.numerator % 2 == 0:
                [((atom, _),)] = self.opaque("abs", self.atom(atom))[0]
            factor, m = monomial_product((), ((atom, exact(e * exponent)),))
            result = self.multiply_polynomials(result, {m: factor})
        return result

    def root_of_sum(self, a, exponent: Fraction):
        """An opaque atom with a rule; rational factors are taken out, as in sqrt(4x+4)."""
        (p, q), n = a, exponent.denominator
        outside = ONE
        if q == ONE:
            numerators, denominators = zip(*(c.as_integer_ratio() for c in p.values()), strict=True)
            content = Fraction(math.gcd(*numerators), math.lcm(*denominators))
            if bit_size(content) < 40:
                outside = self.root(constant(content), Fraction(1, n))
                p = {m: exact(c / content) for m, c in p.items()}
        value = self.opaque("power", (p, q), self.number(Fraction(1, n)))
        [((atom, _),)] = value[0]
        if q == ONE:
            self.rules[atom] = n, p
        return self.integer_power(self.multiply(value, (outside, ONE)), exponent.numerator)

    def opaque(self, name: str, *values):
        """An opaque atom, ("?", number). The number is the same for the same name and values."""
        def form(value):  # does not change when p and q are multiplied by the same number
            p, q = value
            leading = Fraction(q[max(q, key=str)])
            return tuple(frozenset(part.items() if leading == 1 else (
                (m, c / leading) for m, c in part.items())) for part in (p, q))
        self.spend_work(20 + 3 * sum(len(part) for value in values for part in value))
        whole_form = (name, *map(form, values))
        atom = "?", self.numbers.setdefault(whole_form, len(self.numbers))
        self.opaque_of[atom] = name, values
        return self.atom(atom)


def atoms_of(a) -> set:
    """The atoms of the polynomials of a value."""
    return {atom for part in a for monomial in part for atom, _ in monomial}


def single_atom(a):
    """The atom, if the answer is one atom and nothing else; otherwise None."""
    if isinstance(a, tuple) and a[1] == ONE and list(a[0].values()) == [1]:
        [monomial] = a[0]
        if len(monomial) == 1 and monomial[0][1] == 1:
            return monomial[0][0]
    return None


def variable_name(a) -> str:
    """The name, if the answer is one variable and nothing else; otherwise ""."""
    atom = single_atom(a)
    return atom if isinstance(atom, str) and atom not in (*POSITIVE, "i") else ""
