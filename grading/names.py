"""The parser of names: variables, functions of an argument, probabilities, number words."""

from grading.algebra import CannotTell
from grading.commands import CommandParser
from grading.structures import as_value
from grading.units import (
    NUMBERS,
    SCALES,
    TENS,
    UNIT_LETTERS,
    is_number_word,
    is_word,
    unit_symbol,
)

FUNCTION_LETTERS = set("fgFG")


class NameParser(CommandParser):
    """Parses names. sum() and product() are those of terms.py."""

    def variable(self, letter: str):
        """A variable, or a function of an argument: f(2), P(x), f'(x). A letter other than f and g
        before a bracket is a factor, unless the bracket holds a single letter or number."""
        name = letter + self.subscript() + "'" * self.count("'")
        if letter in FUNCTION_LETTERS and self.peek("^"):
            name += self.function_exponent()
        if not self.peek("("):
            return self.algebra.atom(name)
        if event := self.event(name):
            return event
        inside, after = self.token_after(), self.token_after(2)
        single = after in (")", ",") and (inside.isalpha() or inside[:1].isdigit())
        if letter not in FUNCTION_LETTERS and not single:
            return self.algebra.atom(name)
        self.expect("(")
        arguments = [as_value(self.sum())]
        while self.accept(","):
            arguments.append(as_value(self.sum()))
        self.expect(")")
        return self.algebra.opaque(name + "()", *arguments)

    def function_exponent(self) -> str:
        """The exponent of f^{-1}(x) or f^2(x) as text: it becomes part of the function's name. ""
        where no bracket follows."""
        rest = self.tokens[self.position:]
        length = rest.index("}") + 1 if rest[1:2] == ["{"] and "}" in rest else 2
        if rest[length:length + 1] != ["("]:
            return ""
        self.position += length
        return "".join(rest[:length])

    def subscript(self) -> str:
        """The subscript of a name, as text."""
        if not self.accept("_"):
            return ""
        if not self.accept("{"):
            return "_" + self.expect()
        name = ""
        while not self.accept("}"):
            if self.peek("{", ""):
                raise CannotTell("a subscript that is no name")
            name += self.expect()
        return "_" + name

    def word(self, token: str):
        """A number word (twenty-five), or the letters of a name that looks like a unit."""
        lower = token.lower()
        # a number of one word, or of two as in twenty-five
        if lower in NUMBERS:
            n = NUMBERS[lower]
            if lower in TENS:
                dash = self.peek("-")
                unit = NUMBERS.get((self.token_after() if dash else self.next_token).lower(), 0)
                if 0 < unit < 10:
                    n, self.position = n + unit, self.position + 1 + dash
            return self.algebra.number(n)
        # two letters that are variables here: the token becomes two tokens, which are parsed again
        if unit_symbol(token) and len(token) == 2 and lower not in SCALES:
            self.tokens[self.position - 1:self.position] = list(token)
            self.position -= 1
            return self.product()
        raise CannotTell(f"the word {token!r} was not expected")

    def event(self, letter: str):
        """A probability such as P(X = 5), as one variable. None for any other bracket."""
        end = self.tokens.index(")", self.position) if ")" in self.tokens[self.position:] else 0
        inside = self.tokens[self.position + 1:end]
        if letter != "P" or not {"=", "<", ">", r"\le", r"\ge"} & {*inside} or "(" in inside:
            return None
        self.position = end + 1
        return self.algebra.atom(f"P({''.join(inside)})")

    def words_in_bracket(self) -> bool:
        """Whether the next bracket holds words, as in 9 (apples), and so is not a factor."""
        for token in self.tokens[self.position + 1:]:
            if token in ("(", ")", "[", "]"):
                return False
            if is_word(token) and not is_number_word(token):
                return True
        return False

    def rate_is_next(self) -> bool:
        """Whether the next tokens are two units with a slash between them, as in 15 m/s."""
        under = self.token_after(2)
        return self.token_after() == "/" and self.next_token in tuple(UNIT_LETTERS) and (
            under in tuple(UNIT_LETTERS) or unit_symbol(under) != "")
