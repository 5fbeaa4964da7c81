"""The parser of expressions: numbers, powers, functions, brackets and matrices.

By recursive descent, with one method per rule of the grammar:

    sum = '-'? product (('+' | '-' | '\\pm') '-'? product)*
    product = power (('*' | '/' | nothing) power)*
    power = atom ('^' atom)? '!'*
    atom = number | letter | '(' items ')' | '|' sum '|' | '\\command' ...

parser.py parses everything around expressions. Tokens outside the grammar raise CannotTell.
Lengths, depths and sizes are bounded. Left out on purpose: integrals, limits.
"""

from fractions import Fraction

from grading import functions
from grading.algebra import Algebra, CannotTell
from grading.commands import NAMES
from grading.lexer import FUNCTIONS, GREEK
from grading.matrices import add, multiply, negative, power
from grading.names import NameParser
from grading.structures import Structure, as_value, kind_of
from grading.units import POWERS, is_word, scale

MAX_DEPTH = 24     # of brackets inside brackets
FACTORS = ("sqrt", "pi", "frac", "binom", "beginmatrix", "lfloor", "lceil", "root", "sum")


class TermParser(NameParser):
    """Parses expressions; see the module's docstring."""

    def __init__(self, tokens: list[str], algebra: Algebra):
        super().__init__(tokens)
        self.algebra, self.depth = algebra, 0
        self.both_signs = r"\pm" in tokens or r"\mp" in tokens
        # an item with \pm is parsed twice: the sign of this time (0: there is no \pm), and whether
        # a \pm has been read in it
        self.sign, self.sign_used = 0, False
        self.open_bars = 0    # of absolute values; a bar can then close one
        self.in_function = 0  # degrees inside a function are radians

    # --- sums and products

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
            if total is not None and self.accept("-"):  # 7 + -2
                sign = -sign
            term = self.product()
            term = negative(self.algebra, term) if sign == -1 else term
            total = term if total is None else add(self.algebra, total, term)
        return total

    def product(self):
        """Factors with *, / or nothing between them."""
        total, after_bracket = self.power(), self.tokens[self.position - 1] == ")"
        while True:
            if token := self.accept("*", "/"):
                sign = self.accept("-")
                factor = self.power()
                factor = negative(self.algebra, factor) if sign else factor
                if token == "/":
                    total = self.algebra.divide(as_value(total), as_value(factor))
                    continue
            elif self.begins_factor(after_bracket) and kind_of(total) != "infinity" and not (
                    self.rate_is_next() and self.is_number(total)):
                factor = only_item(self.power())  # x[y + 1]
            elif scale(self.next_token):
                factor = self.algebra.number(scale(self.accept()))
            elif self.next_token in ("squared", "cubed"):
                total = self.algebra.power(as_value(total), self.algebra.number(
                    POWERS[self.accept()]))
                continue
            else:
                return total
            total = multiply(self.algebra, total, factor)
            after_bracket = self.tokens[self.position - 1] == ")"

    def is_number(self, x) -> bool:
        return kind_of(x) == "value" and self.algebra.rational(x) is not None

    def begins_factor(self, after_bracket: bool) -> bool:
        """Whether the next token begins a factor without a sign before it, as x in 2x. A number
        does so only after a bracket."""
        token = self.next_token
        if token == "|":
            return not self.open_bars
        if token[:1].isdigit() or token[:1] == ".":
            return after_bracket
        if token in ("(", "["):
            return not self.words_in_bracket()
        return len(token) == 1 and token.isalpha() or token[:1] == "\\" and (
            token[1:] in FUNCTIONS | GREEK | NAMES or token[1:] in FACTORS)

    def power(self):
        """An atom with its exponent and factorial signs."""
        value = self.atom()
        if self.accept("^"):
            if kind_of(value) == "matrix" and "T" in (self.next_token, self.token_after()):
                raise CannotTell("a transposed matrix")
            value = power(self.algebra, value, self.exponent())
        while self.accept("!"):
            step = 1
            while self.accept("!"):
                step += 1
            if step > 2:
                raise CannotTell("a multiple factorial")
            value = functions.factorial(self.algebra, as_value(value), step)
        if self.in_function and self.accept(r"\degree"):
            value = self.radians(value)
        return value

    def exponent(self):
        sign = self.accept("-")
        exponent = as_value(self.argument_or_number())
        return negative(self.algebra, exponent) if sign else exponent

    def argument_or_number(self):
        """The exponent after ^: a number with all its digits, a bracket, or an argument."""
        if self.next_token[:1].isdigit() or self.peek("("):
            return self.atom()
        return self.argument()

    def radians(self, degrees):
        algebra = self.algebra
        return algebra.multiply(as_value(degrees), algebra.multiply(
            algebra.number(Fraction(1, 180)), algebra.atom("pi")))

    # --- atoms

    def atom(self):
        self.depth += 1
        self.algebra.spend_work(1)
        if self.depth > MAX_DEPTH:
            raise CannotTell("brackets too deep")
        token = self.expect()
        if token[0].isdigit() or token[0] == ".":
            value = self.numeral(token)
        elif token[0] == "#":
            digits, base = token[1:].split("_")
            value = Structure("based", (digits.lstrip("0") or "0", int(base), 1))
        elif is_word(token):
            value = self.word(token)
        elif token.isalpha():
            value = self.variable(token)
        elif token in ("(", "[", r"\{", "{"):
            value = self.bracket(token)
        elif token == "|":
            value = self.bars("abs", "|")
        elif token[0] == "\\":
            value = self.command(token[1:])
        else:
            raise CannotTell(f"{token!r} was not expected")
        self.depth -= 1
        return value

    def numeral(self, token):
        """A number, which may have repeating digits, or a fraction after it (1\\frac45)."""
        value = self.algebra.number(int(token) if token.isdigit() else Fraction(token))
        if "." in token and self.peek(r"\bar", r"\dot"):
            return self.repeating(token)
        if token.isdigit() and self.accept(r"\frac"):
            part = self.fraction()
            fraction = self.algebra.rational(part)
            if fraction is None:
                return self.algebra.multiply(value, part)
            if not 0 < fraction < 1:
                raise CannotTell("a number before a fraction that is not between 0 and 1")
            return self.algebra.add(value, part)
        if self.next_token[:1].isdigit() or self.peek("."):
            raise CannotTell("two numbers side by side")
        return value

    def repeating(self, token: str):
        """0.1\\overline{6}: the fraction of a repeating decimal."""
        self.expect()
        braces = self.accept("{")
        digits = self.expect()
        if braces:
            self.expect("}")
        if not digits.isdigit() or set(digits) == {"9"}:
            raise CannotTell("repeating digits that are none, or nines")
        whole, places = Fraction(token), len(token.partition(".")[2])
        period = Fraction(int(digits), 10**len(digits) - 1)
        return self.algebra.number(whole + period / 10**places)

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
        if len(token) == 1 and token.isalpha():
            return self.algebra.atom(token)
        if token[0] == "\\" and token != r"\frac":
            return as_value(self.command(token[1:]))
        raise CannotTell(f"{token!r} was not expected")

    def bracket(self, opening: str):
        """The content of brackets; parser.py reads lists and sets in them."""
        raise NotImplementedError


def only_item(x):
    """The item, if the answer is one item in square brackets; every other answer as it is."""
    if kind_of(x) == "tuple" and (x.parts[0], x.parts[2], len(x.parts[1])) == ("[", "]", 1):
        return x.parts[1][0]
    return x
