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
        """A unit: symbols with their exponents, sorted, such as "km h^-1"; "" for none."""
        exponents, sign, power = {}, 1, 1
        while True:
            token = self.next_token
            after = self.token_after()
            if token in POWERS and unit_symbol(after):  # square meters
                power = POWERS[self.accept()]
                continue
            if token in ("/", "per", "*", "-") and exponents and (
                    unit_symbol(after) or after in (*POWERS, *UNIT_LETTERS, r"\sec")):
                sign = 1 if self.accept() in ("*", "-") else -1
                token = self.next_token
                if token in POWERS:
                    continue
                token = rf"\unit{token[-1]}" if token in UNIT_LETTERS else token
                token = "sec" if token == r"\sec" else token
            symbol = {"%": "%", r"\degree": "deg"}.get(token) or CURRENCIES.get(token) or (
                unit_symbol(token))
            if not symbol:
                break
            if exponents and (symbol == "%" or symbol in exponents):
                raise CannotTell("a unit that is written twice")
            self.accept()
            if symbol == "deg" and self.next_token.lower() in ("f", "c", *TEMPERATURES):
                symbol = "deg" + self.accept()[0].upper()
            for factor in symbol.split():
                name, _, e = factor.partition("^")
                power *= int(e or 1)
                power *= self.unit_exponent()
                exponents[name] = exponents.get(name, 0) + sign * power
            power = 1
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
        """What a bracket after a number counts: (apples)."""
        end = self.tokens.index(")", self.position) if ")" in self.tokens[self.position:] else 0
        words = self.tokens[self.position + 1:end]
        noun = counted_noun(words) if all(t.isalpha() or t == "-" for t in words) else ""
        if not noun:
            raise CannotTell("words in a bracket after a number")
        self.position = end + 1
        return noun
