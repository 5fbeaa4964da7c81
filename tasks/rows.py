"""Problems from the rows of other people's data sets, under the names that these sets give them.

A row is a JSON object; capital letters in its names do not matter. The first field counts that is
there and not empty:

    question   question, problem, prompt, messages, conversations
    answer     reward_model.ground_truth (verl), answer, final_answer, expected_answer,
               ground_truth, solution, the assistant's turn of a chat
    Countdown  target and nums, in the row or in reward_model.ground_truth (TinyZero)

A question is a text or a chat with one turn of the user; a system message is left out, because
--prompt writes its own. An answer is a number, a text with `#### answer` or `\\boxed{answer}` in
it, or mathematics. A row that is no such problem is left out and counted, so one bad row does not
cost the file. Left out on purpose: chats of several turns, images, lists of choices, proofs.
"""

import codecs
import json
import math
import re
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import verify
from grading import extraction
from infra.terminal import echo, quote
from tasks import countdown
from tasks.base import Problem

QUESTIONS = "question", "problem", "prompt", "messages", "conversations"
ANSWERS = "answer", "final_answer", "expected_answer", "ground_truth", "solution"
ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's names of the roles
NO_ANSWER = {"proof", "notfound", "none", "null", "nan", "n/a", "notapplicable", "unknown"}
MAX_WORDS = 3  # of an answer without a number: longer prose has too many right wordings
MAX_WORDS_BESIDE_NUMBER = 5  # such as units
SHOWN = 3      # rows that a note shows
CONVERT = {    # ending of a file that is no JSONL -> how pandas reads it
    ".parquet": "read_parquet({})", ".csv": "read_csv({})", ".tsv": "read_csv({}, sep='\\t')",
    ".xlsx": "read_excel({})", ".gz": "read_json({}, lines=True)"}
MAGIC = {b"PAR1": ".parquet", b"\x1f\x8b": ".gz"}  # how such a file begins, whatever its name
BYTE_ORDER_MARKS = {  # the longer ones first: that of UTF-32 begins like that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

NO_ROW = "they are not JSON objects with a question and an answer"
NO_GOLD = "no verifier can check their answer"
NO_CHAT = "a question must be one turn of text"
NO_CHOICES = "the choices are not part of the question"
NO_COUNTDOWN = "target and nums must be integers, and nums above 0"


class BadRow(ValueError):
    """A row that is left out: the reason, and the value that a note shows."""

    def __init__(self, reason: str, value):
        super().__init__(reason)
        self.reason, self.value = reason, value


class Rows(NamedTuple):
    problems: list[Problem]
    left_out: int           # the number of rows that are no problems
    notes: list[str]        # a sentence for each reason, and one for repeated questions


# --- files

def read_jsonl(path: str) -> list[Problem]:
    """The problems of a file. Notes about rows that are left out go to stderr. Raises ValueError
    for a file without problems."""
    rows = read_rows(path)
    for note in rows.notes:
        echo(note, file=sys.stderr)
    return rows.problems


def read_rows(path: str) -> Rows:
    """The problems of a JSONL file, or of a JSON list, and notes about its rows. Raises ValueError
    that names the file, for one that cannot be read and for one without problems."""
    problems, left_out, rows = [], {}, load(path)
    for place, row in rows:
        try:
            problems.append(read_row(row))
        except BadRow as error:
            left_out.setdefault(error.reason, []).append(f"{place} {quote(str(error.value), 60)}")
    if not rows:
        raise ValueError(f"{path} is empty")
    notes = [f"{path}: left out {len(places)} of {len(rows)} rows, because {reason}: "
             + ", ".join(places[:SHOWN]) for reason, places in left_out.items()]
    if not problems:
        raise ValueError("; ".join(notes))
    return Rows(problems, sum(map(len, left_out.values())), notes + repeated(path, problems))


def load(path: str) -> list[tuple[str, object]]:
    """The place and the content of each row: a line, or an item of a JSON list."""
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", "") or error
        raise ValueError(f"{path} cannot be read: {reason}") from None
    refuse_other_formats(path, content)
    content = content.removeprefix(codecs.BOM_UTF8)
    if content.lstrip().startswith(b"["):
        try:
            rows = json.loads(content)
            return [(f"row {i}", row) for i, row in enumerate(rows, 1)]
        except (ValueError, RecursionError):
            pass  # lines, of which the first is a list
    return [(f"line {i}", line) for i, line in enumerate(content.split(b"\n"), 1) if line.strip()]


def refuse_other_formats(path: str, content: bytes) -> None:
    """Raises ValueError for a table or for another encoding, with the command that converts it."""
    ending = Path(path).suffix.lower()
    ending = next((known for magic, known in MAGIC.items() if content.startswith(magic)), ending)
    if ending in CONVERT:
        name, new = repr(str(path)), repr(f"{path}.jsonl")
        raise ValueError(
            f"{path} is no JSONL but {ending[1:]}; this line of Python converts it: import pandas; "
            f"pandas.{CONVERT[ending].format(name)}.to_json({new}, orient='records', lines=True)")
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items()
                     if content.startswith(mark)), "")
    if encoding:
        raise ValueError(
            f"{path} is not UTF-8 but {encoding}; this line of Python converts it: open("
            f"{f'{path}.jsonl'!r}, 'w', encoding='utf-8').write(open({str(path)!r}, "
            f"encoding='{encoding}').read())")


def repeated(path: str, problems: list[Problem]) -> list[str]:
    """A note about questions that stand in several rows, if there are any."""
    questions = Counter(problem.identity for problem in problems)
    answers = {(problem.identity, problem.answer) for problem in problems}
    again, other = len(problems) - len(questions), len(answers) - len(questions)
    note = f"{path}: the question of an earlier row stands in {again} of {len(problems)} rows again"
    return [note + (f", with another answer in {other}" if other else "")] if again else []


# --- one row

def read_row(row) -> Problem:
    """The problem of a row, which is a JSON object or a line with one. Raises BadRow."""
    line = row
    if isinstance(row, bytes):
        try:
            row = json.loads(row.decode("utf-8"))
        except (ValueError, RecursionError):
            raise BadRow(NO_ROW, line.decode("utf-8", "replace")) from None
    if not isinstance(row, dict):
        raise BadRow(NO_ROW, row)
    row = {name.lower(): value for name, value in row.items()}
    # 1. Countdown: a target and the numbers to use
    truth = row.get("reward_model")
    truth = truth.get("ground_truth") if isinstance(truth, dict) else None
    for values in (row, truth):
        numbers = (values.get("nums") or values.get("numbers")) if isinstance(values, dict) else 0
        if numbers and "target" in values:
            return countdown_problem(values["target"], numbers)
    # 2. question and answer
    if row.get("options") or row.get("choices"):
        raise BadRow(NO_CHOICES, row.get("options") or row.get("choices"))
    question, response = read_question(row)
    fields = [truth, *(row.get(name) for name in ANSWERS), response]
    answer = next((value for value in fields if value not in (None, "", [])), "")
    has_answer = answer or row.keys() & {*ANSWERS, "reward_model"}
    if not isinstance(question, str) or not question.strip() or not has_answer:
        raise BadRow(NO_ROW, json.dumps(row, ensure_ascii=False, default=str))
    gold, solution = read_answer(answer)
    if row.get("question_type") == "proof":  # NuminaMath
        raise BadRow(NO_GOLD, gold)
    try:
        (question + gold + solution).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise BadRow("their text is not valid Unicode", question) from None
    return Problem(question, gold, solution=solution, key=" ".join(question.split()))


def read_question(row: dict) -> tuple[str, str]:
    """The question of a row, and the assistant's response if the question is a chat. The question
    of SVAMP and ASDiv goes on from a body."""
    value = next((row[name] for name in QUESTIONS if row.get(name)), None)
    question, response = read_chat(value) if isinstance(value, list) else (value, "")
    if isinstance(question, str) and isinstance(row.get("body"), str):
        question = f"{row['body'].rstrip(' .')}. {question}"
    return question, response


def read_chat(turns: list) -> tuple[str, str]:
    """The text of the user's one turn, and that of the assistant's, "" without."""
    texts = {"system": [], "user": [], "assistant": []}
    for turn in turns:
        try:
            role = turn.get("role") or turn.get("from")
            content = turn["content"] if "content" in turn else turn["value"]
            if isinstance(content, list):  # parts, of which an image is one
                content = "".join(part["text"] for part in content)
            texts[ROLES.get(role, role)].append(content + "")
        except (AttributeError, KeyError, TypeError):
            raise BadRow(NO_CHAT, turn) from None
    if len(texts["user"]) != 1 or len(texts["assistant"]) > 1:
        raise BadRow(NO_CHAT, f"{len(turns)} turns")
    return texts["user"][0], "".join(texts["assistant"])


def read_answer(answer) -> tuple[str, str]:
    """The gold answer and the solution before it. Raises BadRow for an answer that the verifier
    cannot check."""
    # 1. as text: a list of one is its item, also when it is written as JSON (Skywork)
    if isinstance(answer, str) and answer.startswith('["'):
        try:
            answer = json.loads(answer)
        except ValueError:
            pass
    if isinstance(answer, list) and len(answer) == 1:
        [answer] = answer
    if type(answer) is float and math.isfinite(answer):
        text = format(Decimal(repr(answer)), "f")
    elif type(answer) in (int, str):
        text = str(answer)
    else:
        raise BadRow(NO_GOLD, answer)
    # 2. the answer after a mark, in the last box, or alone
    solution, mark, final = text.rpartition("####")
    if mark:
        final = verify.final_answer(text)
    elif box := extraction.extract_boxed(text):
        solution, final = text, box
    # 3. what a verifier can check
    number = verify.gsm8k_gold(final)
    words = mark and not re.search("[0-9]", final)  # "#### none"
    if number is None and (words or not is_gold(final.strip())):
        raise BadRow(NO_GOLD, text)
    gold = final.strip() if number is None else str(number)
    return gold, re.sub(r"<<.*?>>", "", solution).strip()


def is_gold(gold: str) -> bool:
    """Whether the verifier can check an answer: it reads the text, which is neither prose nor a
    word that stands for no answer."""
    word = re.sub(r"\\[a-z]+|[^a-z/]", "", gold.lower())
    most = MAX_WORDS_BESIDE_NUMBER if re.search("[0-9]", gold) else MAX_WORDS
    words = max(len(re.findall(r"(?<!\\)\b[A-Za-z]{2,}", part)) for part in gold.split(","))
    return word not in NO_ANSWER and words <= most and verify.is_checkable(gold)


def countdown_problem(target, numbers) -> Problem:
    """The problem of a Countdown row. Its question says what to do."""
    try:
        given = [target, *numbers]
        values = [int(value) for value in given]
        fits = values == given and not any(type(x) is bool for x in given) and min(values[1:]) > 0
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise BadRow(NO_COUNTDOWN, {"target": target, "nums": numbers})
    return countdown.problem_of(values[1:], values[0], countdown.Countdown.prompt_template)
