"""The lexer of written answers: LaTeX or plain text in, the tokens for parser.py out.

Spellings with the same meaning (\\dfrac and \\frac, 1{,}000 and 1,000, \\cdot and *) become the
same tokens. A token is a number, a letter, a `\\command`, a `<word>` or a sign.
"""

import re

from grading.algebra import CannotTell

MAX_CHARS = 600  # characters of an answer
SPACE = re.compile(r"\\[,;:! ]|\\q?quad(?![A-Za-z])|\\(?:left|right|displaystyle)(?![A-Za-z])"
                   r"|[~\s]+")
SPELLINGS = {  # spelling -> usual spelling, replaced in this order
    "\u2212": "-", "\u2013": "-", "\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u03c0": r"\pi ",
    "\u221e": r"\infty ", "\u2264": r"\le ", "\u2265": r"\ge ", "\u222a": r"\cup ",
    "\u2208": r"\in ", "\u00b1": r"\pm ", "\u00b0": r"\degree ", "\u221a": r"\sqrt ",
    "\u00b2": "^2", "\u00b3": "^3", r"\\": r"\row ", r"\{": r"\lbrace ", r"\}": r"\rbrace ",
    r"\$": "$", r"\%": "%", r"^{\circ}": r"\degree ", r"^\circ": r"\degree ", r"\dfrac": r"\frac",
    r"\tfrac": r"\frac", r"\cdot": "*", r"\times": "*", r"\div": "/", r"\leq": r"\le",
    r"\geq": r"\ge", "**": "^"}
LATEX_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|textit)\s*\{([^{}<>]*)\}")
MATRIX = re.compile(r"\\(begin|end)\{[pb]matrix\}")
# separators of thousands: 1{,}000 and 1,\!000; and 1,000 in an answer without brackets
THOUSANDS = re.compile(r"(?<=[0-9])(?:,\\!\s*|\{,\}|\\,)(?=[0-9]{3}(?![0-9]))")
PLAIN_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
# 1 4/5 is 1 + 4/5, and 2e-3 is 2 * 10^-3
MIXED = re.compile(r"(?<![0-9.^_/}])([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)(?![0-9.])")
SCIENTIFIC = re.compile(r"(?<![A-Za-z])([0-9]\.?)[eE]([-+]?[0-9]{1,3})(?![0-9.])")
LETTERS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
TOKEN = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+|\\[A-Za-z]+|<[^<>]*>|[A-Za-z]"
                   r"|[-+*/^_(){}\[\],=%$!;&\u2039\u203a]")
FUNCTIONS = set("sin cos tan cot sec csc arcsin arccos arctan log ln exp".split())
GREEK = set("alpha beta gamma delta theta lambda mu rho sigma tau phi omega".split())
KNOWN = FUNCTIONS | GREEK | {"sqrt", "pi", "infty"}
TWO_LETTER_WORDS = {"cm", "mm", "km", "kg", "ft", "in", "mi", "lb", "am", "pm", "or", "ml", "no"}


def tokenize(text: str) -> list[str]:
    """The tokens of an answer. Raises CannotTell for an answer that is too long, and for characters
    outside the grammar."""
    if len(text) > MAX_CHARS:
        raise CannotTell("an answer that is too long")
    # 1. remove a full stop, and the signs around a formula
    text = text.strip().removesuffix(".")
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > 2 * len(opening):
            text = text[len(opening):-len(closing)].strip()
    # 2. use < and > for words only: the relations become \u2039 and \u203a
    if "<" in text or ">" in text:
        text = text.replace("<=", "\u2264").replace(">=", "\u2265")
        text = text.replace("<", "\u2039").replace(">", "\u203a")
    # 3. give everything its usual spelling
    text = MATRIX.sub(r"\\\1matrix ", text)
    text = THOUSANDS.sub("", text)
    text = LATEX_TEXT.sub(lambda m: f"<{m[1].strip().lower()}>", text)
    for other, usual in SPELLINGS.items():
        text = text.replace(other, usual)
    text = MIXED.sub(r"(\1+\2/\3)", text)
    text = SCIENTIFIC.sub(r"\1*10^{\2}", text)
    if not re.search(r"[(\[]|\\lbrace", text):
        text = PLAIN_THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    text = SPACE.sub(" ", text)
    # 4. mark words and functions, outside of the words that LaTeX has marked
    parts = re.split(r"(<[^<>]*>)", text)
    for i in range(0, len(parts), 2):
        parts[i] = LETTERS.sub(mark_letters, parts[i])
    text = "".join(parts)
    # 5. cut into tokens, which must cover all characters but the spaces
    tokens = TOKEN.findall(text)
    if sum(map(len, tokens)) != len(re.sub(r"\s(?![^<>]*>)", "", text)):
        raise CannotTell("a character outside the grammar")
    return tokens


def mark_letters(match) -> str:
    """Several letters in a row: a function becomes a \\command, a word becomes a <word>, and a
    product of variables stays."""
    letters = match[0]
    if letters in KNOWN:
        return f"\\{letters} "
    lower = letters.lower()
    if lower in ("infinity", "inf"):
        return r"\infty "
    return f"<{lower}>" if len(letters) > 2 or lower in TWO_LETTER_WORDS else letters
