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
SEARCHED = 2 * MAX_ANSWER  # characters before and after the last box that can hold the answer
END_OF_TURN = re.compile(
    r"<[|｜](?:im_end|endoftext|eot|eot_id|eom_id|return|end(?:[_▁]of[_▁](?:text|turn|sentence))?)"
    r"[|｜]>|</s>|<eos>|<end_of_turn>|<pad>|<\|pad\|>")
START_OF_TURN = re.compile(r"\s*(?:(?:<s>|<bos>|<\|begin_of_text\|>|<\|im_start\|>assistant|"
                           r"<start_of_turn>model)\s*)*")
INKLESS = "\u115f\u1160\u2800\u3164\uffa0\ufffc"  # letters and symbols that look like a space
NUMBER_IN_TEXT = re.compile(r"(?:(?<![\w)}])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
                            r"(?:\.[0-9]+)?(?:/[0-9]+)?")  # the - of 10-7 is no sign


def first_turn(text: str) -> str:
    """The text up to the first end-of-turn mark, without marks of the turn's start."""
    return END_OF_TURN.split(text[START_OF_TURN.match(text).end():], maxsplit=1)[0]


# --- boxes

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
BRACE = re.compile("[{}]")
# without braces: not a word, as in "the \boxed form"; up to $, \), \], a line's end or another box
UNBRACED = re.compile(r"(?=[-+]?[\w√(\[|$]|[-+]?\.[0-9]|\\[A-Za-z{$])(?![A-Za-z]{2})"
                      r"(?:(?!\\boxed|\\fbox|\\[)\]])[^$\n])+")
JOINT = re.compile(r"[\s$,;]*(?:and|or|\\text\{ *(?:and|or) *\})?[\s$,;]*")
MAX_JOINT = 30  # characters between joined boxes
AROUND = re.compile(r"[\s$.]|\\[()\[\]]")  # characters and commands that add nothing to an answer
PLACEHOLDERS = {"", "...", "…", r"\dots", r"\ldots", "answer", "your answer", "final answer"}


def extract_boxed(text: str) -> str | None:
    """The content of the last box, or of the last boxes that are joined, separated by commas. None
    where no box has content. Only the text around the last \\boxed or \\fbox is searched, so a long
    text costs no more than a short one."""
    last = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    text = text[max(0, last - SEARCHED):max(0, last + SEARCHED)]
    contents, start = [], len(text)  # the boxes found so far, from the last one on
    for begin, end, first, last in reversed(find_boxes(text)):
        if contents and not is_joint(text, end, start):
            break
        content = BOX.sub("", text[first:last]).strip()  # without the commands of inner boxes
        if content.lower() not in PLACEHOLDERS:
            contents.append(content)
            start = begin
    return complete(", ".join(dict.fromkeys(reversed(contents))))


def is_joint(text: str, end: int, start: int) -> bool:
    return start - end <= MAX_JOINT and JOINT.fullmatch(text, end, start) is not None


def find_boxes(text: str) -> list[list[int]]:
    """Where each outermost box begins and ends, and where its content does."""
    if not (first_box := BOX.search(text)):
        return []
    # 1. pair the braces, from the first box on; an escaped brace is no brace
    plain = text.replace("\\\\", "  ").replace("\\{", "  ").replace("\\}", "  ")
    closing, opened = {}, []
    for match in BRACE.finditer(plain, first_box.start()):
        if match[0] == "{":
            opened.append(match.start())
        elif opened:
            closing[opened.pop()] = match.start()
    # 2. find the boxes
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
    return found


# --- around an answer

def after_mark(text: str) -> str | None:
    """The answer after the last `####` of a text, as GSM8K writes it. It ends with its line. None
    as for `complete`."""
    return without_words(text.rpartition("####")[2].lstrip().partition("\n")[0])


def complete(answer: str) -> str | None:
    """The answer without white space around it; None where it is empty or too long."""
    return None if len(answer) > MAX_ANSWER or is_empty(answer) else answer.strip()


def unbox(answer: str) -> str | None:
    """An answer without a box around the whole of it. None as for `complete`."""
    boxes = find_boxes(answer) if len(answer) <= MAX_ANSWER else []
    if len(boxes) == 1:
        begin, end, first, last = boxes[0]
        if not AROUND.sub("", answer[:begin] + answer[end:]):
            answer = BOX.sub("", answer[first:last])
    return complete(answer)


SIGNS = " \t\r\n:`"
BEFORE = re.compile(r"[\s=]*(?:(?:so|thus|hence|therefore|the|final|answer|result|is)\b"
                    r"[\s:,*_`]*)*", re.IGNORECASE)
AFTER = re.compile(r",? (?:altogether|in total|in all|overall)$", re.IGNORECASE)


def without_words(answer: str) -> str | None:
    """An answer without what says only that it is one, and without Markdown: 72 of `**The answer
    is 72, altogether.**`, and {5} cm of `\\boxed{5} cm`. No other word is dropped, because it
    could be a second answer. None as for `complete`."""
    answer = (complete(answer) or "").strip(SIGNS)
    if answer.startswith(("*", "_")) or answer.endswith("**"):
        answer = answer.strip("*_")
    answer = (answer[BEFORE.match(answer).end():] or answer).rstrip(SIGNS + ".")
    return complete(BOX.sub("", unbox(AFTER.sub("", answer)) or ""))


def is_empty(text: str) -> bool:
    """Whether a text has no visible character. White space, control characters, zero-width spaces
    and accents without a letter are invisible."""
    return not any(unicodedata.category(c)[0] in "LNPS" and c not in INKLESS for c in set(text))
