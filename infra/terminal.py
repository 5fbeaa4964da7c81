"""Text of a model or of a data file on its way to the terminal.

A response may hold anything: half of a surrogate pair, which no encoding can write, or an escape
sequence, which clears the screen or changes its title. Such characters are printed as escapes. Left
out on purpose: the logs, which are JSON and escape by themselves.
"""

import sys
import unicodedata

# Unicode's categories: control, format (right-to-left marks), surrogate, private use, unassigned
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}
KEPT = "\n\t"
MAX_QUOTE = 200  # characters of a quoted text in a message


def visible(text: str) -> str:
    """The text with an escape, such as \\x1b, for each character of a category in HIDDEN. New lines
    and tabs stay."""
    return "".join(c if c in KEPT or unicodedata.category(c) not in HIDDEN
                   else c.encode("unicode_escape").decode() for c in text)


def quote(text: str, limit: int = MAX_QUOTE) -> str:
    """The text in quotes on one line, for a message. More than `limit` characters are cut in the
    middle."""
    text = text if len(text) <= limit else f"{text[:limit // 2]} … {text[-limit // 2:]}"
    return visible(repr(text))


def echo(*texts, sep: str = " ", end: str = "\n", file=None, flush: bool = False) -> None:
    """print() for text from outside. Hidden characters, and characters that the terminal's encoding
    lacks, are printed as escapes."""
    file = file or sys.stdout
    text = visible(sep.join(map(str, texts)) + end)
    encoding = getattr(file, "encoding", None) or "utf-8"
    file.write(text.encode(encoding, "backslashreplace").decode(encoding))
    if flush:
        file.flush()
