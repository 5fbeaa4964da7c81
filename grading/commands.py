"""The parser of LaTeX commands: fractions, roots, functions, names of figures, matrices.

terms.py builds on this file and parses the expressions inside the commands.
"""

from grading import functions
from grading.algebra import CannotTell
from grading.lexer import FUNCTIONS, GREEK
from grading.structures import REALS, Infinity, Structure, as_value
from grading.tokens import TokenReader
from grading.units import is_unit_letter

MAX_ENTRIES = 100  # of a matrix
NAMES = set("bar hat tilde dot angle triangle".split())  # \angle ABC is one name


class CommandParser(TokenReader):
    """Parses commands. sum(), product(), power(), atom(), argument() and exponent() are in
    terms.py."""

    def fraction(self):
        top = self.argument()
        return self.algebra.divide(top, self.argument())

    def bars(self, name: str, *closing):
        """|x|, or another function that is written around its argument."""
        self.open_bars += 1
        value = as_value(self.sum())
        self.open_bars -= 1
        self.expect(*closing)
        return functions.apply_function(self.algebra, name, value)

    def command(self, name: str):
        if name in ("pi", *GREEK):
            return self.algebra.atom(name + self.subscript())
        if name == "infty":
            return Infinity(1)
        if name == "frac":
            return self.fraction()
        if name in ("sqrt", "root"):
            return self.square_root(name)
        if name in FUNCTIONS:
            return self.function(name)
        if name == "binom":
            top = self.argument()
            return functions.binomial(self.algebra, top, self.argument())
        if name in ("lfloor", "lceil"):
            return self.bars({"lfloor": "floor", "lceil": "ceil"}[name],
                             {"lfloor": r"\rfloor", "lceil": r"\rceil"}[name])
        if name in NAMES:
            return self.named_figure(name)
        if name in ("sum", "prod"):
            return self.series(name)
        if name == "beginmatrix":
            return self.matrix()
        if is_unit_letter("\\" + name):  # \text{m} that is not after a number
            return self.algebra.atom(name[4:] + self.subscript())
        if name.startswith("set") or name == "emptyset":
            return self.named_set(name)
        raise CannotTell(f"the command \\{name} is unknown")

    def series(self, name: str):
        """\\sum_{k=0}^{n} of a product: an opaque atom of the variable, the bounds and the product.
        """
        self.expect("_")
        self.expect("{")
        variable = self.atom()
        self.expect("=")
        low = as_value(self.sum())
        self.expect("}")
        self.expect("^")
        high = self.argument_or_infinity()
        return self.algebra.opaque(name, as_value(variable), low, high, as_value(self.product()))

    def argument_or_infinity(self):
        for tokens in (["{", r"\infty", "}"], [r"\infty"]):
            if self.tokens[self.position:self.position + len(tokens)] == tokens:
                self.position += len(tokens)
                return self.algebra.atom("infty")
        return self.argument()

    def named_set(self, name: str):
        if name == "emptyset":
            return Structure("set", ())
        if name == "setR":
            return REALS
        return Structure("text", (name,))

    def named_figure(self, name: str):
        """\\angle ABC, \\overline{PQ} or \\bar x, as one variable."""
        letters = ""
        if self.accept("{"):
            while not self.accept("}"):
                letters += self.expect()
        else:
            while self.next_token.isalpha() and (not letters or self.next_token.isupper()):
                letters += self.accept()
        if not letters.isalnum():
            raise CannotTell(f"\\{name} without a name")
        return self.algebra.atom(f"{name} {letters}" + self.subscript())

    def square_root(self, name: str):
        index = self.algebra.number(2)
        if name == "sqrt" and self.accept("["):
            index = as_value(self.sum())
            self.expect("]")
        whole = self.peek("(") or name == "root" and not self.peek("{")  # the sign takes a number
        value = self.atom() if whole else self.argument()
        if self.next_token[:1].isdigit():
            raise CannotTell("a root of several digits without braces")
        exponent = self.algebra.divide(self.algebra.number(1), index)
        return self.algebra.power(as_value(value), exponent)

    def function(self, name: str):
        """sin x, \\sin^2(x), \\log_2 8, \\sin^{-1} x. Without brackets the argument is a product of
        numbers and letters, as in \\sin 2\\pi x."""
        # 1. base and exponent
        base = exponent = None
        if self.accept("_"):
            base = self.argument()
            if name != "log":
                raise CannotTell("a base of a function that is no logarithm")
        if self.accept("^"):
            exponent = self.exponent()
            if self.algebra.rational(exponent) == -1:
                if name not in functions.INVERSES:
                    raise CannotTell("the inverse of a function without one")
                name, exponent = functions.INVERSES[name], None
        # 2. argument and value
        self.in_function += 1
        arguments = self.function_arguments(name)
        self.in_function -= 1
        if len(arguments) > 1 or name in ("gcd", "lcm", "det"):
            value = self.algebra.opaque(name, *arguments)
        else:
            value = functions.apply_function(self.algebra, name, arguments[0], base)
        return value if exponent is None else self.algebra.power(value, exponent)

    def function_arguments(self, name: str) -> list:
        if self.accept("("):
            arguments = [as_value(self.sum())]
            while self.accept(","):
                arguments.append(as_value(self.sum()))
            self.expect(")")
            return arguments
        braces = self.peek("{")
        value = as_value(self.power())
        while not braces and (len(self.next_token) == 1 and self.next_token.isalpha()
                              or self.next_token[1:] in GREEK | {"pi"}):
            value = self.algebra.multiply(value, as_value(self.power()))
        return [value]

    def matrix(self):
        rows = [[]]
        while not self.accept(r"\endmatrix"):
            if self.accept(r"\row"):
                rows.append([])
            else:
                rows[-1].append(self.sum())
                self.accept("&", "and")
            if sum(map(len, rows)) > MAX_ENTRIES:
                raise CannotTell("a matrix that is too large")
        rows = [row for row in rows if row]
        if len(set(map(len, rows))) > 1:
            raise CannotTell("a matrix with rows of different lengths")
        return Structure("matrix", tuple(map(tuple, rows)))
