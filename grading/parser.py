"""The parser of written answers: tokens in; a value, or a structure of values, out.

A small grammar of LaTeX and plain text, by recursive descent. Tokens outside the grammar raise
CannotTell. Lengths, depths and sizes are bounded. Left out on purpose: sums and integrals, vectors
with arrows, logic, rounding.
"""

import math
from fractions import Fraction

from grading.algebra import Algebra, CannotTell, Infinity, Structure, as_value, variable_name
from grading.lexer import FUNCTIONS, GREEK, KNOWN

MAX_DEPTH = 24     # of brackets inside brackets
MAX_ITEMS = 40     # of a list
MAX_ENTRIES = 100  # of a matrix
UNITS = dict(item.split(":") for item in (
    "inch:in inches:in feet:ft foot:ft degree:deg degrees:deg dollar:$ dollars:$ percent:% meter:m "
    "meters:m centimeter:cm centimeters:cm hour:h hours:h minute:min minutes:min second:s "
    "seconds:s mile:mi miles:mi pound:lb pounds:lb gram:g grams:g kilogram:kg kilograms:kg"
    ).split())


class Parser:
    """Parses tokens by recursive descent, with one method per rule of the grammar.

        list = relation (',' relation)*              relation = union (('=' | '<' | ...) union)*
        union = quantity ('\\cup' quantity)*         quantity = '$'? sum unit?
        sum = '-'? product (('+' | '-' | '\\pm') product)*
        product = power (('*' | '/' | nothing) power)*
        power = atom ('^' atom)? '!'*
    """

    def __init__(self, tokens: list[str], algebra: Algebra):
        self.tokens, self.algebra = tokens, algebra
        self.position, self.depth = 0, 0
        self.both_signs = r"\pm" in tokens or r"\mp" in tokens
        # an item with \pm is parsed twice: its present sign (0: there is no \pm), and whether the
        # item contained a \pm
        self.sign, self.sign_used = 0, False

    # --- tokens

    @property
    def next_token(self) -> str:
        """The next token; "" at the end."""
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def peek(self, *wanted) -> bool:
        return self.next_token in wanted

    def number_is_next(self) -> bool:
        return self.next_token != "" and self.next_token[0] in "0123456789."

    def accept(self, *wanted) -> str:
        """Takes the next token if it is one of `wanted`, or any token without `wanted`; returns ""
        where it takes none."""
        token = self.next_token
        if token == "" or wanted and token not in wanted:
            return ""
        self.position += 1
        return token

    def expect(self, *wanted) -> str:
        """Like accept(), but raises CannotTell where it takes no token."""
        token = self.accept(*wanted)
        if not token:
            raise CannotTell(f"{' or '.join(wanted) or 'more'} was expected")
        return token

    # --- the rules of the grammar

    def answer(self):
        """The whole answer; raises CannotTell if tokens are left over."""
        # a text: words, also with single letters and brackets
        words = [t for t in self.tokens if t[0] == "<"]
        if words and all(t[0] == "<" or t in "()" or len(t) == 1 and t.isalpha()
                         for t in self.tokens) and words[0] not in ("<or>", "<and>"):
            name = "".join(t.strip("<>()") for t in self.tokens)
            if not name:
                raise CannotTell("an empty text")
            return Structure("text", (name,))
        # or a list of relations
        items = self.items(",", ";", "<or>", "<and>")
        if self.next_token:
            raise CannotTell(f"{self.next_token!r} was not expected")
        return items[0] if len(items) == 1 else Structure("list", tuple(items))

    def items(self, *separators) -> list:
        """Relations between separators; a relation with \\pm becomes two items."""
        items, outer = [], (self.sign, self.sign_used)
        while not items or self.accept(*separators):
            start = self.position
            for sign in (1, -1) if self.both_signs else (0,):
                self.position, self.sign, self.sign_used = start, sign, False
                items.append(self.relation())
                if not self.sign_used:
                    break
            self.sign, self.sign_used = outer
            if len(items) > MAX_ITEMS:
                raise CannotTell("too many items")
        return items

    def relation(self):
        sides, signs = [self.union()], []
        while self.peek("=", "\u2039", "\u203a", r"\le", r"\ge", r"\in"):
            signs.append(self.accept())
            sides.append(self.union())
        if not signs:
            return sides[0]
        if signs == ["="]:
            return Structure("equation", tuple(sides))
        if signs == [r"\in"]:
            return sides[1]
        return self.interval(sides, signs)

    def interval(self, sides, signs):
        """The interval of a relation such as 2 < x <= 5, where the variable may be on either side.
        """
        # 1. all relations point to the right
        if set(signs) <= {"\u203a", r"\ge"}:
            turned = {"\u203a": "\u2039", r"\ge": r"\le"}
            sides, signs = sides[::-1], [turned[sign] for sign in signs[::-1]]
        if not set(signs) <= {"\u2039", r"\le"} or len(sides) > 3:
            raise CannotTell("a chain of different relations")
        # 2. the two ends, and their brackets
        low, high = Infinity(-1), Infinity(1)
        brackets = ["(" if sign == "\u2039" else "[" for sign in signs]
        if len(sides) == 3:
            low, middle, high = sides
        elif variable_name(sides[0]):
            (middle, high), brackets = sides, ["(", *brackets]
        else:
            (low, middle), brackets = sides, [*brackets, "("]
        if not variable_name(middle):
            raise CannotTell("an inequality without a single variable")
        return Structure("tuple", (brackets[0], (low, high), ")" if brackets[1] == "(" else "]"))

    def union(self):
        parts = [self.quantity()]
        while self.accept(r"\cup"):
            parts.append(self.quantity())
        return parts[0] if len(parts) == 1 else Structure("union", tuple(parts))

    def quantity(self):
        unit = self.accept("$")
        value = self.sum()
        if unit:
            return Structure("quantity", (value, "$"))
        while self.peek("%", r"\degree") or (self.next_token.startswith("<")
                                             and not self.peek("<or>", "<and>")):
            names = self.accept().strip("<>").replace(r"\degree", "deg").split()
            unit += " ".join(UNITS.get(name, name.removesuffix("s")) for name in names)
            if self.accept("^"):
                unit += "^" + self.expect("2", "3")
        return Structure("quantity", (value, unit)) if unit else value

    def sum(self):
        total = None
        while total is None or self.peek("+", "-", r"\pm", r"\mp"):
            sign, token = 1, self.accept("+", "-", r"\pm", r"\mp")
            if token in (r"\pm", r"\mp"):
                if not self.sign:
                    raise CannotTell("a \\pm inside a bracket")
                sign, self.sign_used = (self.sign if token == r"\pm" else -self.sign), True
            elif token == "-":
                sign = -1
            term = self.product()
            if total is None:
                total = term if sign == 1 else self.negative(term)
            else:
                total = self.algebra.add(as_value(total), as_value(term), sign)
        return total

    def negative(self, value):
        if isinstance(value, Infinity):
            return Infinity(-value.sign)
        return self.algebra.multiply(self.algebra.number(-1), as_value(value))

    def product(self):
        total = self.power()
        while True:
            if token := self.accept("*", "/"):
                if self.accept("-"):
                    total = self.negative(total)
                step = self.algebra.multiply if token == "*" else self.algebra.divide
            elif self.begins_factor() and not isinstance(total, (Structure, Infinity)):
                step = self.algebra.multiply
            else:
                return total
            total = step(as_value(total), as_value(self.power()))

    def begins_factor(self) -> bool:
        token = self.next_token
        return token == "(" or token.isalpha() or token.startswith("\\") and (
            token[1:] in KNOWN - {"infty"} or token == r"\frac")

    def power(self):
        value = self.atom()
        if self.accept("^"):
            sign = self.accept("-")
            exponent = self.atom()
            value = self.algebra.power(as_value(value), self.negative(exponent) if sign
                                       else as_value(exponent))
        while self.accept("!"):
            n = self.algebra.rational(as_value(value))
            if n is None or n.denominator != 1 or not 0 <= n <= 200:
                raise CannotTell("a factorial of an answer other than 0 to 200")
            value = self.algebra.number(math.factorial(int(n)))
        return value

    def atom(self):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CannotTell("brackets too deep")
        token = self.expect()
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
        if not self.accept("_"):
            return ""
        if self.accept("{"):
            name = self.expect()
            self.expect("}")
            return "_" + name
        return "_" + self.expect()

    def numeral(self, token):
        """A number, which may have a base (52_8) or a fraction (1\\frac45)."""
        if self.peek("_"):
            base = self.subscript()[1:]
            if not (base.isdigit() and 2 <= int(base) <= 36 and token.isdigit()):
                raise CannotTell("a base that is not a number from 2 to 36")
            return Structure("based", (token, int(base)))
        value = self.algebra.number(Fraction(token))
        if token.isdigit() and self.accept(r"\frac"):
            part = self.fraction()
            fraction = self.algebra.rational(part)
            if fraction is None:
                return self.algebra.multiply(value, part)
            if not 0 < fraction < 1:
                raise CannotTell("a number before a fraction that is not between 0 and 1")
            return self.algebra.add(value, part)
        if self.number_is_next():
            raise CannotTell("two numbers side by side")
        return value

    def argument(self):
        """The argument of a LaTeX command: {...}, or a single digit, letter or command."""
        if self.accept("{"):
            return as_value(self.bracket("{"))
        token = self.expect()
        if token.isdigit() and len(token) > 1:  # \frac12 has the arguments 1 and 2
            self.position -= 1
            self.tokens[self.position:self.position + 1] = [token[0], token[1:]]
            token = self.accept()
        if token.isdigit():
            return self.algebra.number(int(token))
        if token.isalpha():
            return self.algebra.atom(token)
        if token[0] == "\\" and token != r"\frac":
            return as_value(self.command(token[1:]))
        raise CannotTell(f"{token!r} was not expected")

    def fraction(self):
        top = self.argument()
        return self.algebra.divide(top, self.argument())

    def bracket(self, opening: str):
        """The content of brackets: a value, a tuple, an interval or a set."""
        if opening == r"\lbrace":
            items = [] if self.peek(r"\rbrace") else self.items(",")
            self.expect(r"\rbrace")
            return Structure("set", tuple(items))
        if opening == "{":
            items = [self.sum()]
            while self.accept(","):
                items.append(self.sum())
            self.expect("}")
            return items[0] if len(items) == 1 else Structure("set", tuple(items))
        items = [self.sum()] if self.sign else self.items(",")
        closing = self.expect(")", "]")
        if len(items) == 1 and (opening, closing) == ("(", ")"):
            return items[0]
        return Structure("tuple", (opening, tuple(items), closing))

    def command(self, name: str):
        if name in ("pi", *GREEK):
            return self.algebra.atom(name + self.subscript())
        if name == "infty":
            return Infinity(1)
        if name == "frac":
            return self.fraction()
        if name == "sqrt":
            index = self.algebra.number(2)
            if self.accept("["):
                index = as_value(self.sum())
                self.expect("]")
            value = self.atom() if self.peek("(") else self.argument()
            if self.number_is_next():
                raise CannotTell("a root of several digits without braces")
            exponent = self.algebra.divide(self.algebra.number(1), index)
            return self.algebra.power(as_value(value), exponent)
        if name in FUNCTIONS:
            name += self.subscript()
            power = self.atom() if self.accept("^") else None
            value = self.algebra.opaque(name, as_value(self.power()))
            return value if power is None else self.algebra.power(value, as_value(power))
        if name == "beginmatrix":
            return self.matrix()
        raise CannotTell(f"the command \\{name} is unknown")

    def matrix(self):
        rows = [[]]
        while not self.accept(r"\endmatrix"):
            if self.accept(r"\row"):
                rows.append([])
            else:
                rows[-1].append(self.sum())
                self.accept("&")
            if sum(map(len, rows)) > MAX_ENTRIES:
                raise CannotTell("a matrix that is too large")
        return Structure("matrix", tuple(map(tuple, filter(None, rows))))
