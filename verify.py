"""Verifiers: text in, reward out. Never a learned model, never `eval`.

A policy that is paid for what a verifier accepts will find every hole in it, so each one is a small
grammar: what it does not know is wrong. Numbers are compared as exact fractions, other answers by
answers.py.

    r(problem, text) = correct(answer in text, gold) + 0.1 * format(text)           (R1-Zero's rule)

    python verify.py FILE.jsonl      {"gold": ..., "pred": ...} a line in, a verdict a line out
    python verify.py --stats --data DIR       the measurements of bench/verify.py

Paper: DeepSeek-R1 2501.12948, section 2.2.2. The two statistics that verdicts are summed up with,
`wilson` and `pass_at_k`, stand at the end. Left out on purpose: rewards that a model gives.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from grading import sandbox
from grading.answers import equal

FORMAT_WEIGHT = 0.1
MAX_CHARS = 4096   # no honest answer is longer, and every check is linear in it
MAX_DIGITS = 40


@dataclass(frozen=True)
class Reward:
    total: float
    parts: dict  # name -> value, each logged on its own; "correct" is 1.0 or 0.0


TAGS = re.compile(r"</?(?:think|answer)>")
NUMBER = re.compile(r"([-+]?)\s*\$?\s*((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
                    r"(?:\s*/\s*([0-9]+))?\s*%?\s*\.?")


def well_formed(text: str, opened: bool = False) -> bool:
    """The whole text is `<think>…</think><answer>…</answer>`: each tag exactly once, in this order,
    nothing before or after but white space, neither part empty. opened: the prompt has already
    written `<think>`, and the text goes on from there."""
    if opened:
        text = "<think>" + text
    parts = TAGS.split(text)
    return (TAGS.findall(text) == ["<think>", "</think>", "<answer>", "</answer>"]
            and [bool(part.strip()) for part in parts] == [False, True, False, True, False])


def extract(text: str) -> str | None:
    """The stripped content of the one `<answer>…</answer>` after the thinking. None when there is
    none, when it is empty, or when the text, its thinking included, holds several: whoever offers
    two answers has given none."""
    tags = TAGS.findall(text)
    if tags.count("<answer>") != 1 or tags[-2:] != ["<answer>", "</answer>"]:
        return None
    if [tag for tag in tags if "think" in tag][-1:] == ["<think>"]:  # still thinking
        return None
    return text.rpartition("<answer>")[2].partition("</answer>")[0].strip() or None


END = re.compile(r"<\|(?:endoftext|end_of_text|im_end|eot_id|end)\|>|</s>|<eos>|<end_of_turn>")
BOXED = re.compile(r"\\(?:boxed|fbox)\s*(\{|[^\s{}\\])")
NUMERAL = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")


def answer_of(text: str, last_number: bool = False) -> str | None:
    """The last complete answer of a text in any of the usual forms: `<answer>…</answer>`,
    `\\boxed{}` (or `\\fbox{}`, or `\\boxed 5`), GSM8K's `#### 5`, else, if asked, the last number.
    What comes after the end of the turn does not count, nor what stands within the thinking."""
    text = END.split(text)[0].rpartition("</think>")[2]
    if TAGS.search(text):
        return extract(text)
    if answer := boxed(text):
        return answer
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0].strip() or None
    numbers = NUMERAL.findall(text) if last_number else []
    return numbers[-1] if numbers else None


def boxed(text: str) -> str | None:
    """The content of the last `\\boxed{}` whose braces are balanced and which is not empty."""
    closing, opened = {}, []
    for match in re.finditer(r"\\?[{}]", text):  # an escaped brace is none
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closing[opened.pop()] = match.start()
    for match in reversed(list(BOXED.finditer(text))):
        if match[1] != "{":
            return match[1]
        content = text[match.end():closing.get(match.start(1), 0)].strip()
        if content:
            return content
    return None


def number(text: str) -> Fraction | None:
    """The exact value of a text that is one number and nothing else, in the forms of GSM8K: an
    integer, decimal or fraction, a sign, thousands commas, `$`, `%` (50% is 50), a closing full
    stop. '1/3' is not '0.33'. None for anything else, for division by zero, and for more than
    MAX_DIGITS characters."""
    match = NUMBER.fullmatch(text.strip()) if len(text) <= MAX_DIGITS else None
    if not match:
        return None
    sign, value, divisor = match.groups()
    if divisor is not None and int(divisor) == 0:
        return None
    value = Fraction(value.replace(",", "")) / int(divisor or 1)
    return -value if sign == "-" else value


def gsm8k_gold(answer: str) -> Fraction | None:
    """The gold of a data file: what follows the last `####`, or the whole text where there is
    none."""
    return number(answer.rpartition("####")[2])


def expression(text: str) -> tuple[Fraction, list[int]] | None:
    """Value and integers used of an arithmetic expression: whole non-negative numbers, + - * /, and
    brackets, by recursive descent with exact arithmetic; spaces may stand between them. None for
    anything outside that grammar (decimals, `//`, `**`, signs, `=`, other white space), for
    division by zero, and past 200 characters.

        sum = product (('+' | '-') product)*    product = atom (('*' | '/') atom)*
        atom = digits | '(' sum ')'
    """
    if len(text) > 200 or not re.fullmatch(r"[-+*/()0-9 ]*", text):
        return None
    tokens = re.findall(r"[0-9]+|[-+*/()]", text)[::-1]  # a stack: the next token is the last
    used = []

    def atom():
        token = tokens.pop()  # IndexError at the end of the text
        if token == "(":
            value = chain("+-", lambda: chain("*/", atom))
            if tokens.pop() != ")":
                raise ValueError
            return value
        used.append(int(token))  # ValueError for an operator
        return Fraction(used[-1])

    def chain(operators, operand):
        value = operand()
        while tokens and tokens[-1] in operators:
            value = apply(value, tokens.pop(), operand())
        return value

    try:
        value = chain("+-", lambda: chain("*/", atom))
    except (IndexError, ValueError, ZeroDivisionError, RecursionError):
        return None
    return None if tokens else (value, used)


def apply(x, op: str, y):
    """x op y, exact for integers and fractions. Raises ZeroDivisionError, and ValueError where op
    is none of + - * /."""
    if op == "/":
        return Fraction(x, 1) / y
    if op not in ("+", "-", "*"):
        raise ValueError(f"{op!r} is no operation, which are + - * /")
    return x + y if op == "+" else x - y if op == "-" else x * y


def number_correct(problem, text: str) -> bool:
    """The extracted answer is the same number as `problem.answer`. Raises ValueError for a gold
    that is no number: it must never be a free point."""
    gold = gsm8k_gold(problem.answer)
    if gold is None:
        raise ValueError(f"the gold {problem.answer!r} of {problem.question!r} is not a number")
    answer = extract(text)
    return answer is not None and number(answer) == gold


def written_correct(problem, text: str) -> bool:
    """The extracted answer is the same number as `problem.answer`, or, where that is none, as in
    MATH, certainly equal to it. Raises ValueError for a gold that is not understood."""
    if gsm8k_gold(problem.answer) is not None:
        return number_correct(problem, text)
    return verdict(problem.answer, extract(text)) is True


def countdown_correct(problem, text: str) -> bool:
    """The extracted answer is an expression that uses each of `problem.numbers` exactly once and
    whose exact value is the target `problem.answer`."""
    parsed = expression(extract(text) or "")
    return (parsed is not None and parsed[0] == int(problem.answer)
            and sorted(parsed[1]) == sorted(problem.numbers))


def verdict(gold: str, answer: str | None, **flags) -> bool | None:
    """Right, wrong, or None: cannot tell. The flags are those of answers.equal. Raises ValueError
    for a gold that is not understood: it must never be a free point."""
    if not understood(gold):
        raise ValueError(f"the gold {gold!r} is not understood")
    return False if answer is None else equal(gold, answer, **flags)


@lru_cache(maxsize=2**16)
def understood(gold: str) -> bool:
    return equal(gold, gold) is True


def math_correct(problem, text: str) -> bool:
    """The answer of the text, in any of its forms, is certainly equal to `problem.answer`."""
    return verdict(problem.answer, answer_of(text)) is True


def program_correct(problem, text: str) -> bool:
    """The answer is a Python program that passes all of `problem.tests`, run in the sandbox."""
    program = extract(text)
    return program is not None and passes_tests(program, problem.tests)


@lru_cache(maxsize=2**16)
def passes_tests(program: str, tests: tuple) -> bool:
    return sandbox.passes(program, "f", tests, seconds=1.0)


CLAIM = re.compile(r"\bcheck\b.*\bok\b", re.DOTALL)


def claims_to_be_right(text: str) -> bool:
    """A verifier with a hole, for the lesson on reward hacking: it believes whoever says that the
    answer has been checked."""
    return well_formed(text) and bool(CLAIM.search(text.partition("</think>")[0]))


REWARDS = {  # name -> function of (parts, text, coin)
    "correct": lambda parts, text, coin: parts["correct"] + FORMAT_WEIGHT * parts["format"],
    "sign": lambda parts, text, coin: 2 * parts["correct"] - 1,
    "format": lambda parts, text, coin: parts["format"],
    "random": lambda parts, text, coin: float(coin < 0.5),
    "claim": lambda parts, text, coin: float(claims_to_be_right(text)),
}


def reward(correct, problem, text: str, kind: str = "correct", coin: float = 0.0) -> Reward:
    """R1-Zero's reward of a response, `correct` being one of the functions above: 1 for a right
    answer and FORMAT_WEIGHT for the form. The controls pay 1 or 0: kind "format" for the form
    alone, kind "random" where `coin` is below 0.5, whatever the text, kind "claim" whoever says
    that the answer is checked. Kind "sign" is DAPO's: 1 for a right answer, -1 for a wrong one. The
    parts are `correct` and `format`, each 1.0 or 0.0, whatever is paid. A text of more than
    MAX_CHARS is as an empty one."""
    text = text if len(text) <= MAX_CHARS else ""
    parts = {"correct": float(correct(problem, text)), "format": float(well_formed(text))}
    return Reward(REWARDS[kind](parts, text, coin), parts)


# --- for a reward of your own: nothing that train.py pays uses these

def language_share(text: str, words=None, script: str = "LATIN") -> float:
    """The share of a text's words that are in the target language (DeepSeek-R1, section 2.3.2): of
    the given set of words, or else written in the script alone. 1.0 for no words."""
    found = re.findall(r"[^\W\d_]+", text)
    if words is not None:
        good = sum(word.lower() in words for word in found)
    else:
        good = sum(all(unicodedata.name(c, "").startswith(script) for c in word) for word in found)
    return good / len(found) if found else 1.0


def kimi_length(length: int, shortest: int, longest: int, right: bool) -> float:
    """Kimi k1.5's length reward (2501.12599, section 2.3.3) of one response among those to the same
    problem: from +0.5 for the shortest to -0.5 for the longest; a wrong one gains nothing."""
    if longest == shortest:
        return 0.0
    value = 0.5 - (length - shortest) / (longest - shortest)
    return value if right else min(0.0, value)


def cosine_length(length: int, longest: int, right: bool, right_from: float = 2.0,
                  right_to: float = 1.0, wrong_from: float = -10.0, wrong_to: float = 0.0,
                  exceeded: float = -10.0) -> float:
    """The cosine reward of 2502.03373: a right answer is worth less the longer it is, a wrong one
    costs less; `exceeded` from the limit on."""
    if length >= longest:
        return exceeded
    start, end = (right_from, right_to) if right else (wrong_from, wrong_to)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * length / longest))


def overlong(length: int, longest: int, zone: int) -> float:
    """DAPO's soft punishment (2503.14476, equation 13): 0 up to longest - zone, then linearly down
    to -1 at longest."""
    return -min(1.0, max(0.0, (length - (longest - zone)) / zone))


# --- shares and their uncertainty

def wilson(successes: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% Wilson score interval of a share of n independent trials: unlike p +- z*s it is
    honest near 0 and 1. (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, z * z
    centre, half = p + z2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z2 / n)), min(1.0, (centre + half) / (1 + z2 / n))


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate, from n samples of which c are right, of the chance that at least one
    of k is right: 1 - C(n-c, k) / C(n, k). Source: Codex 2107.03374. Raises ValueError unless
    1 <= k <= n and 0 <= c <= n."""
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass_at_k needs 1 <= k <= n and 0 <= c <= n, not n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if "--stats" in argv:
        bench = Path(__file__).parent / "bench" / "verify.py"
        rest = [arg for arg in argv if arg != "--stats"]
        return subprocess.run([sys.executable, bench, *rest]).returncode
    parser = argparse.ArgumentParser(description="Verdicts on answers, a line each. "
                                     "--stats --data DIR measures the verifier instead.")
    parser.add_argument("file", help='JSONL of {"gold": ..., "pred": ...}: pred an answer or text')
    args = parser.parse_args(argv)
    names = {True: "right", False: "wrong", None: "cannot tell"}
    number = 0
    try:
        with open(args.file, encoding="utf-8") as file:
            for line in file:
                number += 1
                if line.strip():
                    row = json.loads(line)
                    gold, pred = str(row["gold"]), str(row["pred"])
                    print(names[verdict(gold, answer_of(pred) or pred)])
    except OSError as error:
        print(f"verify.py: {error}", file=sys.stderr)
        return 2
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        print(f"verify.py: {args.file}, line {number}: no object with gold and pred, or a gold "
              f"that is not understood ({error})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
