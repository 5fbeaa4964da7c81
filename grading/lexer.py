"""The lexer of written answers: LaTeX or plain text in, the tokens for parser.py out.

Spellings with the same meaning (\\dfrac and \\frac, 1{,}000 and 1,000, \\cdot and *) become the
same tokens. A token is a number, a letter, a `\\command`, a word of two or more letters, or a sign.
A command is read whole before it is replaced, so \\cdots is no \\cdot.
"""

import re

from grading.algebra import CannotTell
from grading.units import CURRENCIES, UNIT_LETTERS, is_known_word, is_word

MAX_CHARS = 600  # characters of an answer
# commands whose content is read as if it stood alone; those in TEXT can also hold a unit's letter
TEXT = "text textnormal textrm mbox hbox mathrm rm"
STYLES = "textbf textit textsf mathbf mathit mathsf mathcal boldsymbol bm operatorname vec " \
    "overrightarrow"
STYLE = re.compile(rf"\\(?:({'|'.join(TEXT.split())})|{'|'.join(STYLES.split())})\*?\s*"
                   r"(?:\{([^{}]*)\}|(?<=[a-z])\s+([A-Za-z])(?![A-Za-z]))")
PRIMES = re.compile(r"\^\s*\{?\s*((?:\\prime\s*)+)\}?|(?<=[A-Za-z}0-9])('+)")
DEGREE = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|\\circ(?![A-Za-z])")
BLACKBOARD = re.compile(r"\\mathbb\s*\{?\s*([RZNQC])\s*\}?")
VULGAR = {"\u00bd": "1/2", "\u00bc": "1/4", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
          "\u2155": "1/5", "\u215b": "1/8"}
CHARACTERS = {
    "\u2212": "-", "\u2013": "-", "\u00d7": "*", "\u00b7": "*", "\u22c5": "*", "\u00f7": "/",
    "\u2044": "/", "\u2215": "/", "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u2264": r"\le ",
    "\u2265": r"\ge ", "\u2260": r"\ne ", "\u222a": r"\cup ", "\u2229": r"\cap ",
    "\u2208": r"\in ", "\u00b1": r"\pm ", "\u00b0": r"\degree ", "\u221a": r"\root ",
    "\u2205": r"\emptyset ", "\u2248": r"\approx ", "\u2026": r"\dots ", "\u211d": r"\mathbb{R}",
    "\u2124": r"\mathbb{Z}", "\u03b8": r"\theta ", "\u03b1": r"\alpha ", "\u03b2": r"\beta ",
    "\u2032": "'", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\uff1a": ":", "\uff0c": ",",
    "\u00b2": "^2", "\u00b3": "^3", "\u2074": "^4", "\u207b\u00b9": "^{-1}",
    **{f"{char}": rf" \frac{{{f[0]}}}{{{f[2]}}} " for char, f in VULGAR.items()}}
CHARACTER = re.compile("|".join(map(re.escape, CHARACTERS)))
# commands -> the usual token; "" for those that only change the look
COMMANDS = {
    **dict.fromkeys("left right displaystyle textstyle quad qquad big Big bigg Bigg bigl bigr "
                    "limits nolimits".split(), ""),
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "cdot": "*", "times": "*",
    "ast": "*", "div": "/", "leq": r"\le", "leqslant": r"\le", "leqq": r"\le", "geq": r"\ge",
    "geqslant": r"\ge", "geqq": r"\ge", "lt": "<", "gt": ">", "neq": r"\ne", "mid": "|",
    "vert": "|", "lvert": "|", "rvert": "|", "lbrack": "[", "rbrack": "]", "langle": "(",
    "rangle": ")", "ldots": r"\dots", "cdots": r"\dots", "dotsc": r"\dots",
    "dotsb": r"\dots", "varnothing": r"\emptyset", "oslash": r"\emptyset", "dbinom": r"\binom",
    "tbinom": r"\binom", "simeq": r"\approx", "colon": ":", "backslash": r"\setminus",
    "smallsetminus": r"\setminus", "lbrace": r"\{", "rbrace": r"\}", "pounds": "£",
    "textdollar": "$", "arctg": r"\arctan", "tg": r"\tan", "ctg": r"\cot", "land": "and",
    "lor": "or", "max": "max", "min": "min", "wedge": "and", "vee": "or", "overline": r"\bar",
    "varphi": r"\phi", "varepsilon": r"\epsilon"}
FUNCTIONS = set("sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh log ln lg exp "
                "gcd lcm det".split())
GREEK = set("alpha beta gamma delta epsilon zeta eta theta lambda mu nu xi rho sigma tau phi chi "
            "psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega".split())
WORD_COMMANDS = FUNCTIONS | GREEK | {"sqrt", "pi", "infty"}
# a command with two backslashes, as JSON in JSON has it; the full stop of an abbreviation
ESCAPED = re.compile(r"(?<!\\)\\(?=\\(?:d?frac|left|right|sqrt|text|mathrm|le|ge|leq|geq|pi|cdot"
                     r"|times|infty|cup|circ|pm|in|ln|sin|cos|tan|log)(?![A-Za-z]))")
STOP = re.compile(r"(?<=[A-Za-z]{2})(?<!\\right)(?<!\\left)\.(?=[\s$,;:]|$)")
SHORT_WORDS = set("an as at be by do he if is it my no of on so to up us we not the".split())
# separators of thousands that can be nothing else: 1{,}000  1,\!000  1\,000
THOUSANDS = re.compile(r"(?<=[0-9])(?:,\\!\s*|\{,\}\s*|\\,)(?=[0-9]{3}(?![0-9]))")
GROUPS = re.compile(r"(?<![0-9.,])([0-9]{1,3})((?:,[0-9]{3})+)(?![0-9,])")
SPACED = re.compile(r"(?<![0-9.,\s])(?<![0-9.,]\s)[0-9]{1,3}(?:[ ~][0-9]{3})+(?![0-9.,]|\s+[0-9])")
# 1 4/5 is 1 + 4/5
MIXED = re.compile(r"(?<![0-9.^_/}])([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)(?![0-9.])")
# 1.5e3 and 6.5e-2 are powers of ten; in 3e-2 with a single digit, e is Euler's number
SCIENTIFIC = re.compile(r"(?<![A-Za-z0-9.])((?:[0-9]+\.)?[0-9]+)([eE])([-+]?)([0-9]{1,3})"
                        r"(?![0-9.])")
BASED = re.compile(r"(?<![A-Za-z0-9.\\])(?=[A-Z]*[0-9])([0-9A-Z]+)\s*_\s*(?:\{\s*([0-9]+)\s*\}"
                   r"|([0-9]))(?![0-9])")
MATRIX = re.compile(r"\\(begin|end)\s*\{([pbvB]?matrix|smallmatrix|array)\}(?:\{[lcr| ]*\})?")
TOKEN = re.compile(r"#[0-9A-Z]+_[0-9]+"
                   r"|[0-9]+(?:\.[0-9]+|\.(?=\\overline|\\dot|/))?|\.[0-9]+|\\[A-Za-z]+|\\.|[A-Za-z]{3,}'s(?![A-Za-z])|[A-Za-z]+"
                   r"|<=|>=|!=|\*\*|\.\.\.|[-+*/^_(){}\[\],=%!;:&<>|'£$\u20ac\u00a5\u20b9\u00a2]")
DIGRAPHS = {"<=": r"\le", ">=": r"\ge", "!=": r"\ne", "**": "^", "...": r"\dots", r"\\": r"\row",
            r"\{": r"\{", r"\}": r"\}", r"\%": "%", r"\$": "$", r"\&": "and", r"\|": "|"}


def tokenize(text: str) -> list[str]:
    """The tokens of an answer. Raises CannotTell for an answer that is too long, and for characters
    outside the grammar."""
    if len(text) > MAX_CHARS:
        raise CannotTell("an answer that is too long")
    text = usual_text(text)
    tokens, end = [], 0
    for match in TOKEN.finditer(text):
        if text[end:match.start()].strip(" ~\n\t"):
            raise CannotTell("a character outside the grammar")
        tokens += usual_tokens(match[0], text, match.start(), match.end())
        end = match.end()
    if text[end:].strip(" ~\n\t"):
        raise CannotTell("a character outside the grammar")
    return tokens


def usual_text(text: str) -> str:
    """The text in its usual spelling, for what is more than one token."""
    text = ESCAPED.sub("", text.strip())
    if not text.endswith(".."):
        text = text.removesuffix(".")
    text = re.sub(r"\$\s*\n\s*\$", ";", STOP.sub(" ", text))  # formulas on lines of their own
    text = without_dollars(CHARACTER.sub(lambda m: CHARACTERS[m[0]], text))
    for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]")):
        text = text.replace(opening, " ").replace(closing, " ") if text.count(
            opening) == text.count(closing) else text
    # commands around words and letters: read what they hold
    if "\\" in text:
        text = BLACKBOARD.sub(r"\\set\1 ", text)
        while (inner := STYLE.sub(styled, text)) != text:
            text = inner
    text = PRIMES.sub(lambda m: "'" * ((m[1] or "").count("p") or len(m[2] or "")), text)
    text = DEGREE.sub(r"\\degree ", text)
    text = MATRIX.sub(lambda m: rf"\{m[1]}matrix " if m[2] != "vmatrix" else "?", text)
    # numbers: separators of thousands, fractions after a whole number, powers of ten, bases
    text = THOUSANDS.sub("", text)
    text = SPACED.sub(lambda m: re.sub("[ ~]", "", m[0]), text)
    if not re.search(r"[(\[{]", text.replace("^{", "").replace("rac{", "")):
        text = join_thousands(text)
    text = MIXED.sub(r"(\1+\2/\3)", text)
    text = SCIENTIFIC.sub(power_of_ten, text)
    return BASED.sub(based, text)


def without_dollars(text: str) -> str:
    """The text without the signs around formulas. A dollar sign that is left, or \\$, is a
    currency."""
    if "$" not in text:
        return text
    unescaped = re.findall(r"(?<!\\)\$", text)
    return re.sub(r"(?<!\\)\$", " ", text) if len(unescaped) % 2 == 0 else text


def styled(match) -> str:
    """The content of \\text{...} and the like."""
    content = (match[2] or match[3] or "").strip(" ~")
    if match[1] and len(content) == 1 and content in UNIT_LETTERS:
        return rf" \unit{content} "
    # letters stay together: \text{I} \text{V} are two words
    return f" {content} "


def join_thousands(text: str) -> str:
    """The text with 1,000 and 150,000 as 1000 and 150000. 120,240 stays, because it can be a list.
    A number is certain if its first group has one or two digits or a later group begins with 0."""
    def joined(match) -> str:
        first, rest = match.groups()
        return match[0].replace(",", "") if len(first) < 3 or ",0" in rest else match[0]
    return GROUPS.sub(joined, text)


def power_of_ten(match) -> str:
    mantissa, letter, sign, exponent = match.groups()
    if letter == "e" and sign and "." not in mantissa and len(exponent) == 1:
        return match[0]
    return f"({mantissa}*10^{{{sign}{exponent}}})".replace("{+", "{")


def based(match) -> str:
    """52_8 becomes one token, #52_8, where all digits are below the base."""
    digits, base = match[1], int(match[2] or match[3])
    if not 2 <= base <= 36 or any(int(digit, 36) >= base for digit in digits):
        return match[0]
    return f" #{digits}_{base} "


def usual_tokens(token: str, text: str, start: int, end: int) -> list[str]:
    """The usual spelling of one token, which stands at text[start:end]."""
    if token in DIGRAPHS:
        return [DIGRAPHS[token]]
    if token in CURRENCIES:
        return ["$" if token == "$" else token]
    if token[0] == "\\":
        if not token[1:].isalpha():
            if token[1] not in ",;:! \n":
                raise CannotTell(f"the command {token} is unknown")
            return []
        usual = COMMANDS.get(token[1:], token)
        return [usual] if usual else []
    return letters(token, text, start, end) if is_word(token) else [token]


def letters(run: str, text: str, start: int, end: int) -> list[str]:
    """Several letters in a row: a function, a word, or a product of variables. The latter has two
    letters, or stands beside a number or a sign, as in 2xyz and S_{ABC}."""
    if run in WORD_COMMANDS:
        return ["\\" + run]
    lower = run.lower()
    if lower in ("infinity", "inf"):
        return [r"\infty"]
    beside = start > 0 and text[start - 1] in "0123456789+-*/^_{}=|" or (
        text[end:end + 1] in tuple("^_+-*/=|"))
    if is_known_word(run) or lower in SHORT_WORDS and not (beside and run.isupper()):
        return [run]
    for name in FUNCTIONS - {"det"}:  # sinx, xsin
        if run.startswith(name) and len(run) == len(name) + 1:
            return ["\\" + name, run[-1]]
    return list(run) if len(run) == 2 or beside and len(run) <= 4 else [run]
