"""Written answers: read by a small grammar of LaTeX and plain text, and compared exactly.

A policy that is paid for what a verifier accepts finds every hole in it, so what this grammar does
not know is refused: `equal` then cannot tell, which is not a point.

    equal("\\frac{\\sqrt{8}}{2}", "2^{1/2}") is True     equal("1/3", "0.3333") is False
    equal("sin(x)", "cos(x)") is None

Values are those of algebra.py; around them are lists, sets, tuples and intervals, matrices,
equations, units, words. No `eval`, no float, no timer: lengths, depths and sizes are bounded. Left
out on purpose: sums and integrals, vectors by arrows, logic, rounding.
"""

import math
from fractions import Fraction

from grading.algebra import Algebra, CannotTell, Infinity, Shape, plain, same, variable
from grading.lexer import FUNCTIONS, GREEK, KNOWN, tokens_of

MAX_DEPTH = 24  # of brackets
UNITS = dict(item.split(":") for item in (
    "inch:in inches:in feet:ft foot:ft degree:deg degrees:deg dollar:$ dollars:$ percent:% meter:m "
    "meters:m centimeter:cm centimeters:cm hour:h hours:h minute:min minutes:min second:s "
    "seconds:s mile:mi miles:mi pound:lb pounds:lb gram:g grams:g kilogram:kg kilograms:kg"
    ).split())


class Reader:
    """Reads tokens by recursive descent; one method a rule of the grammar.

        list = relation (',' relation)*              relation = union (('=' | '<' | ...) union)*
        union = measured ('\\cup' measured)*         measured = '$'? sum unit?
        sum = '-'? product (('+' | '-' | '\\pm') product)*
        product = power (('*' | '/' | nothing) power)*
        power = atom ('^' atom)? '!'*
    """

    def __init__(self, tokens: list[str], algebra: Algebra):
        self.tokens, self.at, self.depth, self.algebra = tokens, 0, 0, algebra
        self.both_signs = r"\pm" in tokens or r"\mp" in tokens
        self.sign, self.used = 0, False  # of \pm, while both are read

    def peek(self, *wanted) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] in wanted

    def take(self, *wanted) -> str:
        """The next token, if wanted; "" if it is another. Without wanted, any, if there is one."""
        if self.at < len(self.tokens) and (not wanted or self.tokens[self.at] in wanted):
            self.at += 1
            return self.tokens[self.at - 1]
        return ""

    def need(self, *wanted) -> str:
        token = self.take(*wanted)
        if not token:
            raise CannotTell(f"{' or '.join(wanted) or 'more'} was expected")
        return token

    def whole(self):
        """The answer; raises CannotTell if anything is left over."""
        words = [t for t in self.tokens if t[0] == "<"]
        if words and all(t[0] == "<" or t in "()" or len(t) == 1 and t.isalpha()
                         for t in self.tokens) and words[0] not in ("<or>", "<and>"):
            name = "".join(t.strip("<>()") for t in self.tokens)
            if not name:
                raise CannotTell("an empty text")
            return Shape("text", (name,))
        items = self.items(",", ";", "<or>", "<and>")
        if self.at < len(self.tokens):
            raise CannotTell(f"{self.tokens[self.at]!r} was not expected")
        return items[0] if len(items) == 1 else Shape("list", tuple(items))

    def items(self, *separators) -> list:
        """Relations between separators; one with \\pm counts as two."""
        items, outside = [], (self.sign, self.used)
        while not items or self.take(*separators):
            start = self.at
            for sign in (1, -1) if self.both_signs else (0,):
                self.at, self.sign, self.used = start, sign, False
                items.append(self.relation())
                if not self.used:
                    break
            self.sign, self.used = outside
            if len(items) > 40:
                raise CannotTell("too many items")
        return items

    def relation(self):
        sides, signs = [self.union()], []
        while self.peek("=", "\u2039", "\u203a", r"\le", r"\ge", r"\in"):
            signs.append(self.take())
            sides.append(self.union())
        if not signs:
            return sides[0]
        if signs == ["="]:
            return Shape("equation", tuple(sides))
        if signs == [r"\in"]:
            return sides[1]
        return self.interval(sides, signs)

    def interval(self, sides, signs):
        """2 < x <= 5 and its like, as an interval; the variable may stand on either side."""
        if set(signs) <= {"\u203a", r"\ge"}:
            turned = {"\u203a": "\u2039", r"\ge": r"\le"}
            sides, signs = sides[::-1], [turned[sign] for sign in signs[::-1]]
        if not set(signs) <= {"\u2039", r"\le"} or len(sides) > 3:
            raise CannotTell("a chain of relations of several kinds")
        low, high = Infinity(-1), Infinity(1)
        brackets = ["(" if sign == "\u2039" else "[" for sign in signs]
        if len(sides) == 3:
            low, middle, high = sides
        elif variable(sides[0]):
            (middle, high), brackets = sides, ["(", *brackets]
        else:
            (low, middle), brackets = sides, [*brackets, "("]
        if not variable(middle):
            raise CannotTell("an inequality of something else than a variable")
        return Shape("tuple", (brackets[0], (low, high), ")" if brackets[1] == "(" else "]"))

    def union(self):
        parts = [self.measured()]
        while self.take(r"\cup"):
            parts.append(self.measured())
        return parts[0] if len(parts) == 1 else Shape("union", tuple(parts))

    def measured(self):
        unit = self.take("$")
        value = self.sum()
        if unit:
            return Shape("measure", (value, "$"))
        while self.at < len(self.tokens) and (
                self.peek("%", r"\degree") or self.tokens[self.at][0] == "<"
                and not self.peek("<or>", "<and>")):
            names = self.take().strip("<>").replace(r"\degree", "deg").split()
            unit += " ".join(UNITS.get(name, name.removesuffix("s")) for name in names)
            if self.take("^"):
                unit += "^" + self.need("2", "3")
        return Shape("measure", (value, unit)) if unit else value

    def sum(self):
        total = None
        while total is None or self.peek("+", "-", r"\pm", r"\mp"):
            sign, token = 1, self.take("+", "-", r"\pm", r"\mp")
            if token in (r"\pm", r"\mp"):
                if not self.sign:
                    raise CannotTell("both signs within a bracket")
                sign, self.used = (self.sign if token == r"\pm" else -self.sign), True
            elif token == "-":
                sign = -1
            term = self.product()
            if total is None:
                total = term if sign == 1 else self.negative(term)
            else:
                total = self.algebra.add(plain(total), plain(term), sign)
        return total

    def negative(self, value):
        if isinstance(value, Infinity):
            return Infinity(-value.sign)
        return self.algebra.multiply(self.algebra.number(-1), plain(value))

    def product(self):
        total = self.power()
        while True:
            if token := self.take("*", "/"):
                if self.take("-"):
                    total = self.negative(total)
                step = self.algebra.multiply if token == "*" else self.algebra.divide
            elif self.begins_factor() and not isinstance(total, (Shape, Infinity)):
                step = self.algebra.multiply
            else:
                return total
            total = step(plain(total), plain(self.power()))

    def begins_factor(self) -> bool:
        if self.at == len(self.tokens):
            return False
        token = self.tokens[self.at]
        return token == "(" or token.isalpha() or token[0] == "\\" and (
            token[1:] in KNOWN - {"infty"} or token == r"\frac")

    def power(self):
        value = self.atom()
        if self.take("^"):
            sign = self.take("-")
            exponent = self.atom()
            value = self.algebra.power(plain(value), self.negative(exponent) if sign
                                       else plain(exponent))
        while self.take("!"):
            n = self.algebra.rational(plain(value))
            if n is None or n.denominator != 1 or not 0 <= n <= 200:
                raise CannotTell("a factorial of something else than a number up to 200")
            value = self.algebra.number(math.factorial(int(n)))
        return value

    def atom(self):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CannotTell("brackets too deep")
        token = self.need()
        if token[0].isdigit() or token[0] == ".":
            value = self.numeral(token)
        elif token.isalpha():
            name = token + self.subscript()
            value = self.algebra.atom(name)
        elif token in ("(", "[", r"\lbrace", "{"):
            value = self.bracket(token)
        elif token[0] == "\\":
            value = self.command(token[1:])
        else:
            raise CannotTell(f"{token!r} was not expected")
        self.depth -= 1
        return value

    def subscript(self) -> str:
        if not self.take("_"):
            return ""
        if self.take("{"):
            name = self.need()
            self.need("}")
            return "_" + name
        return "_" + self.need()

    def numeral(self, token):
        """A number; with a base (52_8), with a fraction (1\\frac45)."""
        if self.peek("_"):
            base = self.subscript()[1:]
            if not (base.isdigit() and 2 <= int(base) <= 36 and token.isdigit()):
                raise CannotTell("a base that is no number")
            return Shape("based", (token, int(base)))
        value = self.algebra.number(Fraction(token))
        if token.isdigit() and self.take(r"\frac"):
            part = self.fraction()
            share = self.algebra.rational(part)
            if share is None:
                return self.algebra.multiply(value, part)
            if not 0 < share < 1:
                raise CannotTell("a number before a fraction that is not between 0 and 1")
            return self.algebra.add(value, part)
        if self.at < len(self.tokens) and self.tokens[self.at][0] in "0123456789.":
            raise CannotTell("two numbers side by side")
        return value

    def argument(self):
        """{...} or, as LaTeX reads it, a single digit or letter."""
        if self.take("{"):
            return plain(self.bracket("{"))
        token = self.need()
        if token.isdigit() and len(token) > 1:  # \frac12: the next digit is another argument
            self.at -= 1
            self.tokens[self.at:self.at + 1] = [token[0], token[1:]]
            token = self.take()
        if token.isdigit():
            return self.algebra.number(int(token))
        if token.isalpha():
            return self.algebra.atom(token)
        if token[0] == "\\" and token != r"\frac":
            return plain(self.command(token[1:]))
        raise CannotTell(f"{token!r} was not expected")

    def fraction(self):
        top = self.argument()
        return self.algebra.divide(top, self.argument())

    def bracket(self, opening: str):
        """What stands in brackets: a value, or a tuple, an interval, a set."""
        if opening == r"\lbrace":
            items = [] if self.peek(r"\rbrace") else self.items(",")
            self.need(r"\rbrace")
            return Shape("set", tuple(items))
        if opening == "{":
            items = [self.sum()]
            while self.take(","):
                items.append(self.sum())
            self.need("}")
            return items[0] if len(items) == 1 else Shape("set", tuple(items))
        items = [self.sum()] if self.sign else self.items(",")
        closing = self.need(")", "]")
        if len(items) == 1 and (opening, closing) == ("(", ")"):
            return items[0]
        return Shape("tuple", (opening, tuple(items), closing))

    def command(self, name: str):
        if name in ("pi", *GREEK):
            return self.algebra.atom(name + self.subscript())
        if name == "infty":
            return Infinity(1)
        if name == "frac":
            return self.fraction()
        if name == "sqrt":
            index = self.algebra.number(2)
            if self.take("["):
                index = plain(self.sum())
                self.need("]")
            value = self.atom() if self.peek("(") else self.argument()
            if self.at < len(self.tokens) and self.tokens[self.at][0] in "0123456789":
                raise CannotTell("a root of several digits without braces")
            return self.algebra.power(plain(value), self.algebra.divide(self.algebra.number(1),
                                                                        index))
        if name in FUNCTIONS:
            name += self.subscript()
            power = self.atom() if self.take("^") else None
            value = self.algebra.unknown(name, plain(self.power()))
            return value if power is None else self.algebra.power(value, plain(power))
        if name == "beginmatrix":
            return self.matrix()
        raise CannotTell(f"\\{name} is not known")

    def matrix(self):
        rows = [[]]
        while not self.take(r"\endmatrix"):
            if self.take(r"\row"):
                rows.append([])
            else:
                rows[-1].append(self.sum())
                self.take("&")
            if sum(map(len, rows)) > 100:
                raise CannotTell("too large a matrix")
        return Shape("matrix", tuple(map(tuple, filter(None, rows))))


# --- equality

def equal(a: str, b: str, missing_unit: bool = True, ordered: bool = False,
          percent: bool = False) -> bool | None:
    """Whether two written answers have the same exact value; None when nobody can tell (one of them
    is not understood, or what differs is a function of which nothing is known).

    missing_unit: a unit (degrees, cm, $, %) or the base of 52_8 may stand on one side alone; two
    different ones are never equal. ordered: the order of a bare list (1, 2) counts; that of a tuple
    always does, that of a set never. percent: 50% is also 1/2. Symmetric.
    """
    try:
        algebra = Algebra()
        x, y = (Reader(tokens_of(text), algebra).whole() for text in (a, b))
        return same(x, y, algebra, missing_unit, ordered, percent)
    except CannotTell:
        return None
