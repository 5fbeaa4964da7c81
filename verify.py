"""The verifier and the rewards: text in, reward out. Never a learned model, never `eval`.

A policy that is paid for what a verifier accepts finds every hole in it. So each verifier is a
small grammar, and everything outside it is wrong. Numbers are compared as exact fractions, other
answers by grading/answers.py. The default reward is R1-Zero's:

    r(problem, text) = correct(answer in text, gold) + 0.1 * format(text)

A new reward is a function of a Sample and a line in REWARDS.

    python verify.py FILE.jsonl               {"gold": ..., "pred": ...} in, a verdict out, per line
    python verify.py --stats --data DIR       runs the measurements of bench/verify.py

Paper: DeepSeek-R1 2501.12948, section 2.2.2. At the end are two statistics that sum up verdicts,
`wilson` and `pass_at_k`. Left out on purpose: rewards from a model (prm.py, reward_model.py).
"""

import math
import numbers
import re
import reprlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from grading import extraction
from grading.answers import equal
from grading.languages import language_consistency
from grading.lexer import join_thousands
from infra.terminal import quote, visible

FORMAT_WEIGHT = 0.1
MAX_DIGITS = 40  # characters of a number


# --- rewards

class RewardError(ValueError):
    """A reward that is not a finite number: one sentence that names function, problem and value."""


@dataclass(frozen=True)
class Reward:
    total: float
    parts: dict  # name -> value; each is logged. "correct" and "format" are 1.0 or 0.0
    no_verdict: bool = False  # the verifier cannot tell; such a response counts as wrong
    words: str = ""  # of a judge: its reasons and its verdict, for the page of a run


@dataclass(frozen=True)
class Sample:
    """One response, as a reward function sees it. Most functions need the first four fields."""

    problem: object             # question, answer and the task's other fields
    text: str                   # the response
    correct: float              # 1.0 or 0.0: the verdict of the task's `correct`
    format: float               # 1.0 or 0.0: well_formed(text)
    uniform: float = 0.0        # a random number in [0, 1), which repeats when a run is resumed
    tokens: Sequence[int] = ()  # ids of the response, the end-of-text token included
    group: Sequence[tuple[str, Sequence[int]]] = ()  # (text, tokens) of the problem's responses


def correct_and_format(sample: Sample) -> float:
    return sample.correct + FORMAT_WEIGHT * sample.format


def accuracy(sample: Sample) -> float:
    """1 for a correct answer, 0 for a wrong one, whatever its format."""
    return sample.correct


def sign(sample: Sample) -> float:
    """DAPO's reward: 1 for a correct answer, -1 for a wrong one."""
    return 2 * sample.correct - 1


def format_only(sample: Sample) -> float:
    """A control: pays for the tags alone."""
    return sample.format


def coin(sample: Sample) -> float:
    """A control: pays one response in two, whatever its text (spurious rewards, 2506.10947)."""
    return float(sample.uniform < 0.5)


def wrong(sample: Sample) -> float:
    """A control: pays for a wrong answer in the right form (spurious rewards, 2506.10947)."""
    return sample.format * (1 - sample.correct)


def claim(sample: Sample) -> float:
    """A verifier with a hole, for the lesson on reward hacking: it pays for the claim that the
    answer has been checked."""
    thought = sample.text.partition("</think>")[0]
    check = re.search(r"\bcheck\b", thought)
    claimed = check and re.search(r"\bok\b", thought[check.end():])
    return float(bool(sample.format) and bool(claimed))


def language(sample: Sample) -> float:
    """R1's reward against mixed languages (section 2.3.2): the sum of `correct_and_format` and of
    the share of the working that is in the language of the question."""
    return correct_and_format(sample) + language_consistency(sample.problem, sample.text)


REWARDS = {  # the choices of --reward
    "correct": correct_and_format,
    "language": language,
    "accuracy": accuracy,
    "sign": sign,
    "format": format_only,
    "random": coin,
    "wrong": wrong,
    "claim": claim,
    "process": correct_and_format,  # train.py then replaces the total by the PRM's step scores
    "preference": correct_and_format,  # train.py adds a reward model's, for open requests alone
}


def reward(correct, problem, text: str, name: str = "correct", uniform: float = 0.0,
           tokens: Sequence[int] = (), group=()) -> Reward:
    """The reward of a response by the function REWARDS[name]. `correct` is the task's verifier
    (problem, text) -> bool; the other arguments are the fields of Sample. A response that was cut
    off at the token limit is no special case: without a complete answer it is wrong and badly
    formed. The metric `truncated` counts these responses. Raises RewardError for a reward that is
    not a finite number."""
    found = correct(problem, text)  # None: it cannot tell
    right = finite(f"the verifier {getattr(correct, '__name__', correct)}", problem, found or 0.0)
    parts = {"correct": right, "format": float(well_formed(text))}
    sample = Sample(problem, text, uniform=uniform, tokens=tokens, group=group, **parts)
    total = finite(f"the reward function {name}", problem, REWARDS[name](sample))
    return Reward(total, parts, found is None)


def finite(function: str, problem, value) -> float:
    """The value as a float. Raises RewardError unless it is a finite number."""
    try:
        if isinstance(value, numbers.Real) and math.isfinite(value):
            return float(value)
    except OverflowError:
        value = "an integer beyond the largest float"
    question = quote(str(getattr(problem, "question", problem)))
    raise RewardError(f"{function} returned {visible(reprlib.repr(value))} for the problem "
                      f"{question}: a reward must be a finite number")


# --- the form of a response, and the answer in it

TAGS = re.compile(r"(</?(?:think|answer)>)")


def well_formed(text: str, opened: bool = False) -> bool:
    """Whether the whole text is `<think>…</think><answer>…</answer>`: each tag exactly once, in
    this order, neither part empty. Only white space may stand before, between and after them, and
    end-of-turn marks at the end. opened: the prompt ends with `<think>`, so the text does not
    begin with it."""
    if opened:
        text = "<think>" + text
    parts = TAGS.split(text, maxsplit=5)
    if parts[1::2] != ["<think>", "</think>", "<answer>", "</answer>"]:
        return False
    before, thought, between, answer, after = parts[::2]
    around = before + between + extraction.END_OF_TURN.sub("", after)
    return not (around.strip() or extraction.is_empty(thought) or extraction.is_empty(answer))


def extract(text: str) -> str | None:
    """The content of the one `<answer>…</answer>` after the thinking, without white space and a
    box around it. None where it is missing, empty or too long (extraction.MAX_ANSWER), and where
    the text has several answers, inside the thinking included: two answers are no answer."""
    before, opened, rest = text.rpartition("<answer>")
    answer, closed, after = rest.partition("</answer>")
    thinking = before.rfind("<think>") > before.rfind("</think>")
    if not opened or "<answer>" in before or not closed or thinking:
        return None
    return None if TAGS.search(answer) or TAGS.search(after) else extraction.unbox(answer)


def extract_any(text: str, last_number: bool = False, bare: bool = False) -> str | None:
    """The last complete answer of a text in any usual form: `<answer>…</answer>`; `\\boxed{}`,
    `\\fbox{}` or `\\boxed 5`; GSM8K's `#### 5`. Text inside the thinking or after the end of the
    turn does not count.

    last_number: where there is none of these forms, the last number of the text is its answer.
    bare: there, all that follows the thinking is the answer, as in `<think>…</think>42`.
    """
    text = extraction.first_turn(text).rpartition("</think>")[2]
    if TAGS.search(text):
        return extraction.without_words(extract(text) or "")
    if boxed := extraction.extract_boxed(text):
        return boxed
    if "####" in text:
        return extraction.after_mark(text)
    if last_number and (numbers := extraction.NUMBER_IN_TEXT.findall(text)):
        return numbers[-1]
    return extraction.without_words(text) if bare else None


# --- verdicts

NUMBER = re.compile(r"([-+]?)\s*(?:\\?\$)?\s*((?:[0-9]{1,3}(?:(?:,|\{,\})[0-9]{3})+|[0-9]+)"
                    r"(?:\.[0-9]+)?|\.[0-9]+)(?:\s*/\s*([0-9]+))?\s*(?:\\?%)?\s*\.?")


def number(text: str) -> Fraction | None:
    """The exact value of a text that is one number and nothing else: an integer, decimal or
    fraction with a sign, thousands commas, `$`, `%` (50% is 50) or a final full stop, as in GSM8K
    or in LaTeX ($5$, \\$5, 5\\%, 1{,}000). '1/3' is not '0.33'. None for everything else, for
    division by zero, and for more than MAX_DIGITS characters, which are counted without white
    space and a pair of $ around the text."""
    text = text.strip()
    text = text[1:-1] if len(text) > 2 and text[0] == text[-1] == "$" else text
    match = NUMBER.fullmatch(text) if len(text) <= MAX_DIGITS else None
    if not match:
        return None
    sign, value, divisor = match.groups()
    if divisor is not None and int(divisor) == 0:
        return None
    value = Fraction(re.sub("[{,}]", "", value)) / int(divisor or 1)
    return -value if sign == "-" else value


def final_answer(reference: str) -> str:
    """The final answer of a reference solution: the answer after its last `####`, or all of it.
    GSM8K writes one number after the mark, so a comma there only separates thousands."""
    if "####" not in reference:
        return reference.strip()
    answer = extraction.after_mark(reference) or ""
    return answer if number(answer) is None else re.sub("[{,}]", "", answer)


def gsm8k_gold(reference: str) -> Fraction | None:
    """The number that is the final answer of a reference solution. None for any other answer, also
    for 150,300 without `####`, which may be two numbers; 1,200 and 150,000 are one."""
    answer = final_answer(reference)
    return None if "," in join_thousands(answer.replace("{,}", "")) else number(answer)


def number_correct(problem, text: str) -> bool:
    """Whether the extracted answer is the same number as `problem.answer`. Raises ValueError for a
    gold answer that is not a number: no response may be paid for it."""
    gold = gsm8k_gold(problem.answer)
    if gold is None:
        raise ValueError(f"the gold {quote(str(problem.answer))} is not a number; the question is "
                         f"{quote(str(problem.question))}")
    answer = extract(text)
    return answer is not None and number(answer) == gold


def written_correct(problem, text: str) -> bool | None:
    """Whether the extracted answer is the same number as `problem.answer`, or equal to it where
    that is mathematics, as in MATH; None where that cannot be decided. Raises ValueError for an
    unreadable gold answer.

    A gold number takes one number alone. If it took 2+3 for 5, a policy could answer the question
    2+3=? with the question."""
    if gsm8k_gold(problem.answer) is not None:
        return number_correct(problem, text)
    return verdict(final_answer(problem.answer), extract(text))


GROUPED = re.compile(r"[^,0-9]*[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])[^,]*")  # as in $1,234.50


def verdict(gold: str, answer: str | None, **flags) -> bool | None:
    """True for a correct answer, False for a wrong one, None where it cannot be decided. The flags
    are those of grading.answers.equal. Raises ValueError for an unreadable gold answer: no response
    may be paid for it.

    The answer 150,300 may be one number or two. It is equal to the gold 150300. The gold 150,300
    is two numbers, so the answer 150300 is wrong."""
    if not is_checkable(gold):
        raise ValueError(f"the gold answer {quote(gold)} cannot be read; write a number or "
                         "mathematics")
    if answer is None:
        return False
    answer = extraction.first_turn(answer)
    if "," not in gold and GROUPED.fullmatch(answer):
        answer = answer.replace(",", "")
    return equal(gold, answer, **flags)


@lru_cache(maxsize=2**16)
def is_checkable(gold: str) -> bool:
    """Whether the grammar can read a gold answer."""
    return equal(gold, gold) is True


# --- statistics of verdicts

def wilson(successes: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion p in n independent trials, inside of [0, 1]:
    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). (0, 1) for n = 0."""
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
    from infra import verdicts  # not at the top: verdicts imports this file
    return verdicts.main(argv)


if __name__ == "__main__":
    sys.exit(main())
