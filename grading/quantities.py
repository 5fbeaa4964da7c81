"""The parser of values with units: $5, 60 km/h, 25 square feet, 9 (apples).

A unit becomes its symbols with their exponents, sorted, such as "h^-1 km". Units are not converted.
"""

from grading.algebra import CannotTell
from grading.structures import Structure, as_value
from grading.terms import TermParser
from grading.units import CURRENCIES, POWERS, UNIT_LETTERS, counted_noun, unit_symbol

TEMPERATURES = ("fahrenheit", "celsius")


class QuantityParser(TermParser):
    """Parses a sum with a unit after it, or a currency before it."""

    def quantity(self):
        """A value, with its unit if it has one."""
        minus = self.peek("-") and self.token_after() in CURRENCIES and self.accept("-")
        currency = CURRENCIES.get(self.next_token)
        if currency:
            self.accept()
        value = self.sum()
        if minus:
            value = self.algebra.multiply(self.algebra.number(-1), as_value(value))
        unit = self.unit()
        if currency and unit not in ("", currency):
            raise CannotTell("two units")
        unit = currency or unit
        if not unit and self.peek("(") and self.words_in_bracket():
            unit = self.counted()
        if not unit:
            return value
        return Structure("quantity", (as_value(value), unit))

    def unit(self) -> str:
        """A unit: symbols with their exponents, sorted, such as "h^-1 km"; "" for none."""
        # power: of the next unit; slash: -1 after / or per; letters: m, s and h are units here
        exponents, power, slash, letters = {}, 1, 1, self.rate_is_next()
        while True:
            after = self.token_after()
            # a power before the unit, a sign between units, a unit, or the end
            if self.next_token in POWERS and unit_symbol(after):  # square meters
                power = POWERS[self.accept()]
            elif exponents and self.peek("/", "per", "*", "-") and (
                    after in POWERS or unit_name(after, letters=self.peek("/"))):
                letters = self.peek("/")
                slash = -1 if self.accept() in ("/", "per") else 1
            elif symbol := unit_name(self.next_token, letters):
                if exponents and (symbol == "%" or symbol in exponents):
                    raise CannotTell("a unit that is written twice")
                self.accept()
                if symbol == "deg" and self.next_token.lower() in ("f", "c", *TEMPERATURES):
                    symbol = "deg" + self.accept()[0].upper()
                for factor in symbol.split():  # mph is mi h^-1
                    name, _, e = factor.partition("^")
                    power *= int(e or 1) * self.unit_exponent()
                    exponents[name] = exponents.get(name, 0) + slash * power
                power, letters = 1, False
            else:
                break
        return " ".join(name if e == 1 else f"{name}^{e}"
                        for name, e in sorted(exponents.items()) if e)

    def unit_exponent(self) -> int:
        if self.next_token in ("squared", "cubed"):
            return POWERS[self.accept()]
        if not self.accept("^"):
            return 1
        braces, minus = self.accept("{"), self.accept("-")
        power = int(self.expect("1", "2", "3", "4")) * (-1 if minus else 1)
        if braces:
            self.expect("}")
        return power

    def counted(self) -> str:
        """The noun in a bracket after a number, as in 9 (apples)."""
        end = self.tokens.index(")", self.position) if ")" in self.tokens[self.position:] else 0
        words = self.tokens[self.position + 1:end]
        noun = counted_noun(words) if all(t.isalpha() or t == "-" for t in words) else ""
        if not noun:
            raise CannotTell("words in a bracket after a number")
        self.position = end + 1
        return noun


def unit_name(token: str, letters: bool) -> str:
    """The symbol, if the token is a unit; otherwise "". letters: m, s and h are units."""
    if letters and (token in tuple(UNIT_LETTERS) or token == r"\sec"):
        return token[-1] if len(token) == 1 else "s"
    return {"%": "%", r"\degree": "deg"}.get(token) or CURRENCIES.get(token) or unit_symbol(token)
