"""The parser of written answers: tokens in; a value, or a structure of values, out.

    answer = group (';' group)*                  group = item ((',' | 'or' | 'and') item)*
    item = (word | relation)+                    relation = side (('=' | '<' | ...) side)*
    side = set ((':' set)* | ...)                set = quantity (('\\cup' | '\\cap') quantity)*
    quantity = '$'? sum unit?                    sum: see quantities.py, terms.py

Words that are no unit make a text or a phrase, which keeps them. Left out on purpose: logic,
rounding, piecewise functions.
"""

from grading import sets
from grading.algebra import CannotTell
from grading.quantities import QuantityParser
from grading.relations import RELATIONS, inequality, is_decimal, named, statement
from grading.structures import REALS, Structure, as_value, kind_of
from grading.units import is_known_word, is_number_word, is_word

MAX_ITEMS = 40     # of a list
MAX_SIDES = 12     # of a relation
MAX_WORDS = 8      # of a text or a phrase
ALL_REALS = ["all", "real", "numbers"], ["all", "reals"]
BOUND = "\u03be\u03b7\u03b6"  # names for the arguments of f(x, y) = ...
QUANTITIES = set("""answer area average base circumference degree diameter difference distance
    height length maximum max mean median minimum min mode perimeter price probability product
    radius range ratio slope solution solutions speed sum time total value volume weight
    width""".split())


class Parser(QuantityParser):
    """Parses a whole answer; see the module's docstring."""

    # --- lists and phrases

    def answer(self):
        """The whole answer; raises CannotTell if tokens are left over."""
        if choice := self.choice():
            return choice
        groups = [self.group()]
        while self.accept(";", r"\row"):
            groups.append(self.group())
            if sum(map(len, groups)) > MAX_ITEMS:
                raise CannotTell("too many items")
        if self.next_token:
            raise CannotTell(f"{self.next_token!r} was not expected")
        if all(len(group) == 1 for group in groups):
            groups = [[item for group in groups for item in group]]
        items = [collected(self.algebra, group) for group in groups]
        return items[0] if len(items) == 1 else Structure("list", tuple(items))

    def choice(self):
        """The letter of a choice: (C), C), option C."""
        rest = [t for t in self.tokens if t not in "()" and t.lower() not in ("option", "choice")]
        if len(rest) == 1 < len(self.tokens) and rest[0].isalpha() and len(rest[0]) == 1 and (
                self.tokens.count("(") <= self.tokens.count(")")):
            return Structure("text", (rest[0].lower(),))
        return None

    def group(self) -> list:
        """Items between commas, and the words and / or."""
        items = self.items(",", "or", "and", joined=True)
        if self.accept(":"):  # x < 3 : (-oo, 3)
            again = self.set_expression()
            if len(items) > 1 or kind_of(items[0]) != "named" or again != items[0].parts[1]:
                raise CannotTell("two answers that are not the same")
        return items

    def items(self, *separators, joined: bool = False) -> list:
        """Items between separators; an item with \\pm becomes two. joined: inequalities of one
        variable with "or" or "and" between them are one set."""
        items, outer, word, link = [], (self.sign, self.sign_used), "", ""
        while not items or (word := self.accept(*separators)):
            if word == ",":
                word = self.accept("and", "or") or word  # a, b, and c
            start = self.position
            for sign in (1, -1) if self.both_signs else (0,):
                self.position, self.sign, self.sign_used = start, sign, False
                item = self.item()
                whole = joined and items and statement(self.algebra, word, items[-1], item)
                if whole:
                    if link not in ("", word):
                        raise CannotTell("both and and or between inequalities")
                    items[-1], link = whole, word
                else:
                    items.append(item)
                if not self.sign_used:
                    break
            self.sign, self.sign_used = outer
            self.algebra.spend_work(5)
            if len(items) > MAX_ITEMS:
                raise CannotTell("too many items")
        return items

    def item(self):
        """A relation, or a phrase of words and relations in turn."""
        if self.accept(r"\dots"):
            return Structure("text", ("...",))
        parts = [self.words() or self.relation()]
        if label_of(parts[0]) in QUANTITIES and self.accept("=", ":"):  # area = 5
            label = Structure("text", (label_of(parts[0]),))
            return Structure("named", (label, self.relation(), None))
        while self.next_token and not self.peek(",", ";", "and", "or", ")", "]", "}", r"\}", "|",
                                                ":", r"\row"):
            words = self.words(bool(parts))
            if isinstance(parts[-1], str):
                self.accept(":", "=")
            if not words and not isinstance(parts[-1], str):
                break
            parts.append(words or self.relation())
        words = [word for part in parts if isinstance(part, str) for word in part.split()]
        if not words:
            return parts[0]
        if words in ALL_REALS and len(parts) == 1:
            return REALS
        if len(words) > MAX_WORDS:
            raise CannotTell("too many words")
        return Structure("text" if len(parts) == 1 else "phrase", tuple(parts))

    def words(self, inside: bool = False) -> str:
        """The next words, in lower case; "" for none. inside: the item has begun before them."""
        words = []
        while self.text_goes_on(bool(words), inside):
            words.append(self.accept().lower())
        return " ".join(words)

    def text_goes_on(self, started: bool, inside: bool) -> bool:
        """Whether the next token belongs to a text. A unit does where the text has started, or
        where the item begins with it, as in "min at 2"."""
        token = self.next_token
        if not is_word(token):
            return started and token in ("a", "I", "-") and is_word(self.token_after())
        if not is_known_word(token):
            return True
        if token in ("and", "or") or is_number_word(token):
            return False
        return started or not inside and len(token) > 2

    # --- relations

    def relation(self):
        start = self.position
        self.algebra.cancelled = set()
        approximate = self.accept(r"\approx")
        sides, signs = [self.side()], []
        if approximate and not is_decimal(sides[0]):
            raise CannotTell("an approximation that is no decimal number")
        while self.peek(*RELATIONS):
            signs.append(self.accept())
            middle = self.position
            sides.append(self.side())
            if len(sides) > MAX_SIDES:
                raise CannotTell("too many sides")
        if not signs:
            return sides[0]
        if set(signs) <= {"=", r"\approx", r"\in"}:
            literal = self.tokens[start + 1] in RELATIONS
            answer = named(self.algebra, sides, signs, literal)
            return self.with_function(answer, start, middle) if len(signs) == 1 else answer
        return inequality(self.algebra, sides, signs)

    def with_function(self, answer, start: int, middle: int):
        """f(x) = x^2 with its name and its value at x, y, ... under the names of BOUND, so that
        f(t) = t^2 is the same."""
        left = self.tokens[start:middle - 1]
        letters = left[2:-1:2]
        if kind_of(answer) != "named" or left[1:2] != ["("] or left[-1] != ")" or set(
                left[3:-1:2]) - {","} or not all(map(str.isalpha, letters)) or not (
                0 < len(letters) == len(set(letters)) <= len(BOUND)):
            return answer
        end, names = self.position, dict(zip(letters, BOUND, strict=False))
        rest = self.tokens
        self.tokens = [*rest[:middle], *(names.get(t, t) for t in rest[middle:end])]
        self.position = middle
        body = self.side()
        self.tokens, self.position = rest, end
        return Structure("named", (*answer.parts[:2], (left[0], len(letters), body)))

    def side(self):
        """A set, or a ratio, or a time of day."""
        start = self.position
        first = self.set_expression()
        if self.peek("am", "pm", "AM", "PM") and self.position - start == 1 and (
                self.tokens[start].isdigit()):  # 10 am
            return Structure("clock", (int(self.tokens[start]), 0, self.accept().lower()))
        if not self.peek(":") or self.token_after() in ("[", "(") or kind_of(first) != "value":
            return first
        parts = [first]
        while self.accept(":") and len(parts) < MAX_SIDES:
            parts.append(as_value(self.sum()))
        half = self.accept("am", "pm", "AM", "PM").lower()
        hour, _, minute = (self.tokens[start:start + 3] + [""] * 3)[:3]
        if len(parts) == 2 and self.position - start == 3 + bool(half) and len(
                minute) == 2 and hour.isdigit() and minute.isdigit() and int(minute) < 60 and (
                int(hour) <= 24):
            return Structure("clock", (int(hour), int(minute), half))
        if half:
            raise CannotTell("a time of day with other numbers")
        return Structure("ratio", tuple(parts))

    def set_expression(self):
        total = self.quantity()
        while sign := self.accept(r"\cup", r"\cap", r"\setminus"):
            others = [self.quantity()]
            while sign == r"\cup" and self.accept(sign):
                others.append(self.quantity())
            total = sets.combine(self.algebra, sign, total, *others)
        return total

    # --- brackets

    def bracket(self, opening: str):
        """The content of brackets: a value, a tuple, an interval or a set."""
        bars, self.open_bars = self.open_bars, 0
        content = self.braces(opening) if opening in (r"\{", "{") else self.parenthesis(opening)
        self.open_bars = bars
        return content

    def braces(self, opening: str):
        closing = r"\}" if opening == r"\{" else "}"
        if opening == r"\{" and self.accept(closing):
            return Structure("set", ())
        if self.is_builder():
            content = self.builder()
            self.expect(closing)
            return content
        if opening == "{":
            items = [self.quantity()]
            while self.accept(","):
                items.append(self.quantity())
        else:
            items = self.items(",", ";", "and", "or")
        self.expect(closing)
        if opening == "{" and len(items) == 1:
            return items[0]
        return Structure("set", tuple(items))

    def builder(self):
        """{element | conditions}; an interval where it says only what x is, as in {x | x > 2}."""
        self.open_bars = 1  # a bar ends the element
        element, base = self.set_expression(), REALS
        if self.accept(r"\in"):  # {x in Z | ...}
            base = self.set_expression()
        self.open_bars = 0
        self.expect("|", ":")
        conditions = self.items(",", "and", "or", joined=True)
        if base != REALS:
            conditions.append(Structure("named", (element, base, None)))
        [name, content, _] = conditions[0].parts if kind_of(conditions[0]) == "named" else [0, 0, 0]
        if len(conditions) == 1 and name == element and kind_of(content) in ("tuple", "union"):
            return content
        return Structure("builder", (element, tuple(conditions)))

    def is_builder(self) -> bool:
        """Whether the next bracket is {element | conditions}: a bar or a colon follows a letter or
        a bracket, before any comma."""
        depth, before = 0, ""
        for token in self.tokens[self.position:]:
            if depth == 0 and token in ("|", ":", ",", "}", r"\}"):
                return token in ("|", ":") and (before in (")", "}") or before.isalpha()
                                                or before.startswith(r"\set"))
            depth += (token in ("(", "[", "{", r"\{")) - (token in (")", "]", "}", r"\}"))
            before = token
        return False

    def parenthesis(self, opening: str):
        items = [self.quantity()] if self.sign else self.items(",", ";")
        closing = self.expect(")", "]")
        if len(items) == 1 and (opening, closing) in (("(", ")"), ("[", "]")) and (
                opening == "(" or kind_of(items[0]) == "matrix" or self.begins_factor(True)
                or self.peek("^")):
            return items[0]
        if opening == "[" and {kind_of(item) for item in items} == {"named"}:  # [x = 1, y = 2]
            return collected(self.algebra, items)
        return Structure("tuple", (opening, tuple(items), closing))


def label_of(words) -> str:
    """The noun of "the area is"; "" for what are no words."""
    nouns = words.split() if isinstance(words, str) else []
    return " ".join(noun for noun in nouns if noun not in ("the", "is", "are"))


def collected(algebra, items: list):
    """The answer that a list of items is. Equations with different names are a record, (x, y) =
    (1, 2); a name holds for the items after it, as in x = 1, 2."""
    if len(items) == 1:
        return items[0]
    kinds = [kind_of(item) for item in items]
    if set(kinds) == {"named"}:
        names = [item.parts[0] for item in items]
        if all(a != b for i, a in enumerate(names) for b in names[:i]):
            left, right = (Structure("tuple", ("(", tuple(item.parts[i] for item in items), ")"))
                           for i in (0, 1))
            return Structure("named", (left, right, tuple(item.parts[2] for item in items)))
    elif kinds[0] == "named" and "named" not in kinds[1:] and kinds[1] == kind_of(
            items[0].parts[1]) == "value":
        items = [Structure("named", (items[0].parts[0], item, None)) if i else item
                 for i, item in enumerate(items)]
    return Structure("list", tuple(items))


