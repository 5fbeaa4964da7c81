"""The verifier and the rewards: text in, reward out. Never a learned model, never `eval`.

A policy that is paid for what a verifier accepts finds every hole in it. So each verifier is a
small grammar, and everything outside it is wrong. Numbers are compared as exact fractions, other
answers by grading/answers.py. The default reward is R1-Zero's:

    r(problem, text) = correct(answer in text, gold) + 0.1 * format(text)

A new reward is a function of a Sample and a line in REWARDS.

    python verify.py FILE.jsonl               {"gold": ..., "pred": ...} in, a verdict out, per line
    python verify.py --stats --data DIR       runs the measurements of bench/verify.py

Paper: DeepSeek-R1 2501.12948, section 2.2.2. At the end are two statistics that sum up verdicts,
`wilson` and `pass_at_k`. Left out on purpose: rewards from a model (see prm.py).
"""

import argparse
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from grading.answers import equal

FORMAT_WEIGHT = 0.1
MAX_CHARS = 4096   # characters of a response; a longer one is scored like an empty one
MAX_DIGITS = 40    # characters of a number


# --- rewards

CLAIM = re.compile(r"\bcheck\b.*\bok\b", re.DOTALL)


@dataclass(frozen=True)
class Reward:
    total: float
    parts: dict  # name -> value; each is logged. "correct" and "format" are 1.0 or 0.0


@dataclass(frozen=True)
class Sample:
    """One response, as a reward function sees it. Most functions need the first four fields."""

    problem: object             # question, answer and the task's other fields
    text: str                   # the response; "" where it has more than MAX_CHARS characters
    correct: float              # 1.0 or 0.0: the verdict of the task's `correct`
    format: float               # 1.0 or 0.0: well_formed(text)
    uniform: float = 0.0        # a random number in [0, 1), which repeats when a run is resumed
    tokens: Sequence[int] = ()  # ids of the response, the end-of-text token included
    group: Sequence[tuple[str, Sequence[int]]] = ()  # (text, tokens) of the problem's responses


def correct_and_format(sample: Sample) -> float:
    return sample.correct + FORMAT_WEIGHT * sample.format


def sign(sample: Sample) -> float:
    """DAPO's reward: 1 for a correct answer, -1 for a wrong one."""
    return 2 * sample.correct - 1


def format_only(sample: Sample) -> float:
    """A control: pays for the tags alone."""
    return sample.format


def coin(sample: Sample) -> float:
    """A control: pays one response in two, whatever its text (spurious rewards, 2506.10947)."""
    return float(sample.uniform < 0.5)


def claim(sample: Sample) -> float:
    """A verifier with a hole, for the lesson on reward hacking: it pays for the claim that the
    answer has been checked."""
    thought = sample.text.partition("</think>")[0]
    return float(bool(sample.format) and bool(CLAIM.search(thought)))


REWARDS = {  # the choices of --reward
    "correct": correct_and_format,
    "sign": sign,
    "format": format_only,
    "random": coin,
    "claim": claim,
    "process": correct_and_format,  # train.py then replaces the total by the PRM's step scores
}


def reward(correct, problem, text: str, name: str = "correct", uniform: float = 0.0,
           tokens: Sequence[int] = (), group=()) -> Reward:
    """The reward of a response by the function REWARDS[name]. `correct` is the task's verifier
    (problem, text) -> bool; the other arguments are the fields of Sample. A response that was cut
    off at the token limit is no special case: without a complete answer it is wrong and badly
    formed. The metric `truncated` counts these responses."""
    text = text if len(text) <= MAX_CHARS else ""
    parts = {"correct": float(correct(problem, text)), "format": float(well_formed(text))}
    sample = Sample(problem, text, uniform=uniform, tokens=tokens, group=group, **parts)
    return Reward(REWARDS[name](sample), parts)


# --- the form of a response, and the answer in it

TAGS = re.compile(r"</?(?:think|answer)>")
END_OF_TURN = re.compile(
    r"<\|(?:endoftext|end_of_text|im_end|eot_id|end)\|>|</s>|<eos>|<end_of_turn>")
BOXED = re.compile(r"\\(?:boxed|fbox)\s*(\{|[^\s{}\\])")
NUMBER_IN_TEXT = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")


def well_formed(text: str, opened: bool = False) -> bool:
    """Whether the whole text is `<think>…</think><answer>…</answer>`: each tag exactly once, in
    this order, neither part empty, and only white space before, between and after them.
    opened: the prompt ends with `<think>`, so the text does not begin with it."""
    if opened:
        text = "<think>" + text
    parts = TAGS.split(text)
    return (TAGS.findall(text) == ["<think>", "</think>", "<answer>", "</answer>"]
            and [bool(part.strip()) for part in parts] == [False, True, False, True, False])


def extract(text: str) -> str | None:
    """The content of the one `<answer>…</answer>` after the thinking, stripped. None where it is
    missing or empty, and where the text has several answers, inside the thinking included: two
    answers are no answer."""
    tags = TAGS.findall(text)
    if tags.count("<answer>") != 1 or tags[-2:] != ["<answer>", "</answer>"]:
        return None
    if [tag for tag in tags if "think" in tag][-1:] == ["<think>"]:  # the thinking has not ended
        return None
    return text.rpartition("<answer>")[2].partition("</answer>")[0].strip() or None


def extract_any(text: str, last_number: bool = False) -> str | None:
    """The last complete answer of a text in any usual form: `<answer>…</answer>`; `\\boxed{}`,
    `\\fbox{}` or `\\boxed 5`; GSM8K's `#### 5`; with last_number also the last number. Text inside
    the thinking or after the end of the turn does not count."""
    text = END_OF_TURN.split(text)[0].rpartition("</think>")[2]
    if TAGS.search(text):
        return extract(text)
    if answer := extract_boxed(text):
        return answer
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0].strip() or None
    numbers = NUMBER_IN_TEXT.findall(text) if last_number else []
    return numbers[-1] if numbers else None


def extract_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{}` with balanced braces that is not empty."""
    # pair the braces in one pass, so that many open ones cost linear time
    closing, opened = {}, []
    for match in re.finditer(r"\\?[{}]", text):  # an escaped brace is matched whole and ignored
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closing[opened.pop()] = match.start()
    # the last box with content
    for match in reversed(list(BOXED.finditer(text))):
        if match[1] != "{":
            return match[1]
        content = text[match.end():closing.get(match.start(1), 0)].strip()
        if content:
            return content
    return None


# --- verdicts

NUMBER = re.compile(r"([-+]?)\s*\$?\s*((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
                    r"(?:\s*/\s*([0-9]+))?\s*%?\s*\.?")


def number(text: str) -> Fraction | None:
    """The exact value of a text that is one number and nothing else, in the forms of GSM8K: an
    integer, decimal or fraction, with a sign, thousands commas, `$`, `%` (50% is 50) or a final
    full stop. '1/3' is not '0.33'. None for everything else, for division by zero, and for more
    than MAX_DIGITS characters."""
    match = NUMBER.fullmatch(text.strip()) if len(text) <= MAX_DIGITS else None
    if not match:
        return None
    sign, value, divisor = match.groups()
    if divisor is not None and int(divisor) == 0:
        return None
    value = Fraction(value.replace(",", "")) / int(divisor or 1)
    return -value if sign == "-" else value


def gsm8k_gold(answer: str) -> Fraction | None:
    """The number after the last `####` of a reference answer, or the number that is the whole
    answer. None where there is neither."""
    return number(answer.rpartition("####")[2])


def number_correct(problem, text: str) -> bool:
    """Whether the extracted answer is the same number as `problem.answer`. Raises ValueError for a
    gold answer that is not a number: no response may be paid for it."""
    gold = gsm8k_gold(problem.answer)
    if gold is None:
        raise ValueError(f"the gold {problem.answer!r} of {problem.question!r} is not a number")
    answer = extract(text)
    return answer is not None and number(answer) == gold


def written_correct(problem, text: str) -> bool:
    """Whether the extracted answer is the same number as `problem.answer`, or certainly equal to
    it where that is mathematics, as in MATH. Raises ValueError for an unreadable gold answer."""
    if gsm8k_gold(problem.answer) is not None:
        return number_correct(problem, text)
    return verdict(problem.answer, extract(text)) is True


def verdict(gold: str, answer: str | None, **flags) -> bool | None:
    """True for a correct answer, False for a wrong one, None where it cannot be decided. The flags
    are those of grading.answers.equal. Raises ValueError for an unreadable gold answer: no response
    may be paid for it."""
    if not is_checkable(gold):
        raise ValueError(f"the gold answer {gold!r} cannot be read; write a number or mathematics")
    return False if answer is None else equal(gold, answer, **flags)


@lru_cache(maxsize=2**16)
def is_checkable(gold: str) -> bool:
    """Whether the grammar can read a gold answer."""
    return equal(gold, gold) is True


# --- statistics of verdicts

def wilson(successes: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion in n independent trials. Near 0 and 1 it covers
    the truth more often than p +- z*s. (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, z * z
    centre, half = p + z2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z2 / n)), min(1.0, (centre + half) / (1 + z2 / n))


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of pass@k from n samples, c of them correct: the probability that at
    least one of k samples is correct, 1 - C(n-c, k) / C(n, k). Source: Codex 2107.03374. Raises
    ValueError unless 1 <= k <= n and 0 <= c <= n."""
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass_at_k needs 1 <= k <= n and 0 <= c <= n, not n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


# --- the command line

def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if "--stats" in argv:
        bench = Path(__file__).parent / "bench" / "verify.py"
        rest = [arg for arg in argv if arg != "--stats"]
        return subprocess.run([sys.executable, bench, *rest]).returncode
    parser = argparse.ArgumentParser(description="Prints a verdict for each answer in a file. With "
                                     "--stats --data DIR it measures the verifier instead.")
    parser.add_argument("file", help='JSONL of {"gold": ..., "pred": ...}; pred is an answer or a '
                                     "whole response")
    args = parser.parse_args(argv)
    names = {True: "right", False: "wrong", None: "cannot tell"}
    line_number = 0
    try:
        with open(args.file, encoding="utf-8") as file:
            for line in file:
                line_number += 1
                if line.strip():
                    row = json.loads(line)
                    gold, pred = str(row["gold"]), str(row["pred"])
                    print(names[verdict(gold, extract_any(pred) or pred)])
    except OSError as error:
        print(f"verify.py: {error}", file=sys.stderr)
        return 2
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        print(f"verify.py: {args.file}, line {line_number}: the line is not an object with gold "
              f"and pred, or its gold answer cannot be read ({error})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
