"""Verifiers: text in, reward out. Never a learned model, never `eval`.

A policy that is paid for what a verifier accepts will find every hole in it, so each one is a small
grammar: what it does not know is wrong. Numbers are compared as exact fractions.

    r(problem, text) = correct(answer in text, gold) + 0.1 * format(text)           (R1-Zero's rule)

Paper: DeepSeek-R1 2501.12948, section 2.2.2. The two statistics that verdicts are summed up with,
`wilson` and `pass_at_k`, stand at the end. Left out on purpose: LaTeX, symbols, units, programs.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

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


def well_formed(text: str) -> bool:
    """The whole text is `<think>…</think><answer>…</answer>`: each tag exactly once, in this order,
    nothing before or after but white space, neither part empty."""
    parts = TAGS.split(text)
    return (TAGS.findall(text) == ["<think>", "</think>", "<answer>", "</answer>"]
            and [bool(part.strip()) for part in parts] == [False, True, False, True, False])


def extract(text: str) -> str | None:
    """The content of the one `<answer>…</answer>` after the thinking. None when there is none, when
    it is empty, or when there are several: whoever offers two answers has given none."""
    tags = TAGS.findall(text)
    if tags.count("<answer>") != 1 or tags[-2:] != ["<answer>", "</answer>"]:
        return None
    if tags[-3:-2] == ["<think>"]:  # still thinking
        return None
    return text.rpartition("<answer>")[2].partition("</answer>")[0].strip() or None


def number(text: str) -> Fraction | None:
    """The exact value of a text that is one number and nothing else, in the forms of GSM8K: an
    integer, decimal or fraction, a sign, thousands commas, `$`, `%`, a closing full stop. '1/3' is
    not '0.33'. None for anything else, for division by zero, and for absurd lengths."""
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
    brackets, by recursive descent with exact arithmetic. None for anything outside that grammar
    (decimals, `//`, `**`, signs, `=`), for division by zero, and past 200 characters.

        sum = product (('+' | '-') product)*    product = atom (('*' | '/') atom)*
        atom = digits | '(' sum ')'
    """
    if len(text) > 200 or not re.fullmatch(r"[-+*/()0-9 ]*", text):
        return None
    if re.search(r"[0-9] +[0-9]", text):
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
    """x op y for one of + - * /, exact for integers and fractions. Raises ZeroDivisionError."""
    if op == "/":
        return Fraction(x, 1) / y
    return x + y if op == "+" else x - y if op == "-" else x * y


def number_correct(problem, text: str) -> bool:
    """The extracted answer is the same number as `problem.answer`. Raises ValueError for a gold
    that is no number: it must never be a free point."""
    gold = gsm8k_gold(problem.answer)
    if gold is None:
        raise ValueError(f"the gold {problem.answer!r} of {problem.question!r} is not a number")
    answer = extract(text)
    return answer is not None and number(answer) == gold


def countdown_correct(problem, text: str) -> bool:
    """The extracted answer is an expression that uses each of `problem.numbers` exactly once and
    whose exact value is the target `problem.answer`."""
    parsed = expression(extract(text) or "")
    return (parsed is not None and parsed[0] == int(problem.answer)
            and sorted(parsed[1]) == sorted(problem.numbers))


def reward(correct, problem, text: str, kind: str = "correct", coin: float = 0.0) -> Reward:
    """R1-Zero's reward of a response, `correct` being one of the two functions above. The controls:
    kind "format" pays for the form alone, kind "random" pays by `coin` in [0, 1), whatever the
    text."""
    text = text if len(text) <= MAX_CHARS else ""
    parts = {"correct": float(correct(problem, text)), "format": float(well_formed(text))}
    total = {"correct": parts["correct"] + FORMAT_WEIGHT * parts["format"],
             "format": parts["format"],
             "random": float(coin < 0.5)}[kind]
    return Reward(total, parts)


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
    1<=k<=n."""
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass_at_k needs 1 <= k <= n and 0 <= c <= n, not n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)
