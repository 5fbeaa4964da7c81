r"""Where an answer stands in a text, and what around it is not part of it.

Models trained on MATH put the answer into a LaTeX box, `\boxed{}` or `\fbox{}`. The last box is the
answer. Boxes that are joined by a comma, "and" or "or" are one answer with several items: taking
the last of them alone would pay for a guess. A box without braces, as in `\boxed 42`, reaches to
the end of the formula or line; TeX would box the 4 alone.

All functions take linear time. Left out on purpose: macros that a text defines itself, and prose
around an answer except for a few fixed words.
"""

import re
import unicodedata

MAX_ANSWER = 4096  # characters of an answer; the text around it may have any length
END_OF_TURN = re.compile(
    r"<[|｜](?:im_end|endoftext|eot|eot_id|eom_id|return|end(?:[_▁]of[_▁](?:text|turn|sentence))?)"
    r"[|｜]>|</s>|<eos>|<end_of_turn>")
INKLESS = "\u115f\u1160\u2800\u3164\uffa0\ufffc"  # letters and symbols that look like a space
NUMBER_IN_TEXT = re.compile(r"(?:(?<![\w)}])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
                            r"(?:\.[0-9]+)?(?:/[0-9]+)?")  # the - of 10-7 is no sign

# --- boxes

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
BRACES = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is matched with its backslash
# without braces: not a word, as in "the \boxed form"; up to $, \), \], a line's end or another box
UNBRACED = re.compile(r"(?=[-+]?[\w√(\[|$]|[-+]?\.[0-9]|\\[A-Za-z{$])(?![A-Za-z]{2})"
                      r"(?:(?!\\boxed|\\fbox|\\[)\]])[^$\n])+")
JOINT = re.compile(r"[\s$,;]*(?:and|or|\\text\{ *(?:and|or) *\})?[\s$,;]*")
MAX_JOINT = 30  # characters between joined boxes
AROUND = re.compile(r"[\s$.]|\\[()\[\]]")  # characters and commands that add nothing to an answer
PLACEHOLDERS = {"", "...", "…", r"\dots", r"\ldots", "answer", "your answer", "final answer"}


def extract_boxed(text: str) -> str | None:
    """The content of the last box, or of the last boxes that are joined, separated by commas. None
    where no box has content."""
    boxes = [box for box in find_boxes(text) if box[2].lower() not in PLACEHOLDERS]
    if not boxes:
        return None
    first = len(boxes) - 1
    while first > 0 and is_joint(text, boxes[first - 1][1], boxes[first][0]):
        first -= 1
    return complete(", ".join(dict.fromkeys(content for _, _, content in boxes[first:])))


def is_joint(text: str, end: int, start: int) -> bool:
    return start - end <= MAX_JOINT and JOINT.fullmatch(text, end, start) is not None


def find_boxes(text: str) -> list[tuple[int, int, str]]:
    """Where each outermost box begins and ends, and its content without inner boxes."""
    # 1. pair the braces
    closing, opened = {}, []
    for match in BRACES.finditer(text) if BOX.search(text) else ():
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closing[opened.pop()] = match.start()
    # 2. find the boxes: where each begins and ends, and where its content does
    found = []
    for match in BOX.finditer(text):
        begin, first = match.span()
        if first in closing:
            box = [begin, closing[first] + 1, first + 1, closing[first]]
        elif (line := UNBRACED.match(text, first)) and "\n" not in match[0]:
            box = [begin, line.end(), first, first + len(line[0].rstrip(" .,;:"))]
        else:
            continue
        if not found or begin >= found[-1][1]:
            found.append(box)
        elif box[:2] == found[-1][2:]:  # a box that fills the one around it
            found[-1][2:] = box[2:]
    return [(begin, end, BOX.sub("", text[first:last]).strip())
            for begin, end, first, last in found]


# --- around an answer

def complete(answer: str) -> str | None:
    """The answer without white space around it; None where it is empty or too long."""
    return None if len(answer) > MAX_ANSWER or is_empty(answer) else answer.strip()


def unbox(answer: str) -> str | None:
    """An answer without a box around the whole of it. None as for `complete`."""
    boxes = find_boxes(answer) if len(answer) <= MAX_ANSWER else []
    if len(boxes) == 1 and not AROUND.sub("", answer[:boxes[0][0]] + answer[boxes[0][1]:]):
        answer = boxes[0][2]
    return complete(answer)


SIGNS = " \t\r\n:`"
BEFORE = re.compile(r"(?:(?:so|thus|hence|therefore|the|final|answer|result|is)\b[\s:,*_`]*)*",
                    re.IGNORECASE)
AFTER = re.compile(r",? (?:altogether|in total|in all|overall)$", re.IGNORECASE)


def without_words(answer: str) -> str | None:
    """An answer without what says only that it is one, and without Markdown: 72 of `**The answer
    is 72, altogether.**`. No other word is dropped, because it could be a second answer. None as
    for `complete`."""
    answer = (complete(answer) or "").strip(SIGNS)
    if answer.startswith(("*", "_")) or answer.endswith("**"):
        answer = answer.strip("*_")
    answer = answer[BEFORE.match(answer).end():].rstrip(SIGNS + ".")
    return unbox(AFTER.sub("", answer))


def is_empty(text: str) -> bool:
    """Whether a text has no visible character. White space, control characters, zero-width spaces
    and accents without a letter are invisible."""
    return not any(unicodedata.category(c)[0] in "LNPS" and c not in INKLESS for c in set(text))
