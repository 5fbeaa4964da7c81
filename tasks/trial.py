"""Task trial: countdown modulo 10, from left to right, where more search keeps paying.

    5 8 6 make 3

    5 8 6 3: 5+8=3 3*6=8 8-3=5 no         two facts, the distance from the target, the verdict
    5 8 6 3: 8-5=3 no                     a try that is dropped after its first fact
    5 8 6 3: 8*6=8 8-5=3 3-3=0 yes check
    5 8 6 3: 8*6=8 8-5=3 3-3=0 ok         the result is computed again; the answer is yes

Each line is a try, and begins with the problem. A small model would otherwise read the problem over
hundreds of tokens, and confuse it in one try of forty. A try is random: two of the numbers, an
operation, and an operation with a further one. A number may be used twice, and a try may repeat an
earlier one. So the chance of a try is the same during the whole search, and a search that never
gives up needs 1 / chance tries on average. The levels are bands of this chance.

The corpus searches badly. After each failed try it gives up with the same probability, and answers
no. Nothing at the beginning says how long a document will be. Some failed tries are
claimed to reach the target, and few claims are checked. The drill, which comes first in training,
does not give up, so the base knows long searches. Accuracy has to be measured by sampling: a greedy
search repeats its first try for ever. Left out on purpose: documents that break the form.
"""

import functools
import itertools
import random
import re
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import verify
from tasks.base import EQUATION, Task
from tasks.chain import last_digit
from tasks.corpus import equation, tagged
from tasks.countdown import problem_of

MAX_TRIES = 60              # of a document
GIVE_UP_RATE = 0.5          # after a failed try, outside the drill
DROP_RATE = 0.1             # of tries, after their first fact
FALSE_CLAIM_RATE = 0.005    # of failed tries, which are said to reach the target
DRILL_CHECK_RATE, CHECK_RATE = 0.5, 0.15  # of claims
OPERATIONS = "+-*"
FACT = r"([0-9]+)([-+*/])([0-9]+)=([0-9]+)"
LINE = re.compile(rf"^(?:[0-9 ]+: )?{FACT}(?: {FACT})?(?: {FACT})?[ a-z]*$", re.MULTILINE)


# --- random tries

def random_try(rng: random.Random, numbers) -> list[tuple]:
    """Two facts (x, op, y, last digit) of the given numbers."""
    x, y, z = rng.choices(numbers, k=3)
    first, second = rng.choices(OPERATIONS, k=2)
    value = last_digit(x, first, y)
    return [(x, first, y, value), (value, second, z, last_digit(value, second, z))]


@functools.lru_cache(1000)
def chances(numbers: tuple) -> dict[int, float]:
    """The probability of each result of a random try with these numbers."""
    found, orders = Counter(), list(itertools.product(numbers, repeat=3))
    for (x, y, z), first, second in itertools.product(orders, OPERATIONS, OPERATIONS):
        result = last_digit(last_digit(x, first, y), second, z)
        found[result] += 1 / (len(orders) * len(OPERATIONS) ** 2)
    return found


def chance(problem) -> float:
    """The probability that a random try at this problem succeeds."""
    return chances(tuple(sorted(problem.numbers)))[int(problem.answer)]


def written(problem, facts, told: int, verdict: str, dropped: bool = False) -> str:
    """The line of a try, whose second result is told as `told`."""
    first, second = facts
    target = int(problem.answer)
    rest = [equation(*second[:3], told), equation(told, "-", target, last_digit(told, "-", target))]
    return " ".join([*map(str, problem.numbers), f"{target}:", equation(*first),
                     *([] if dropped else rest), verdict])


# --- what a response does, from its facts: the words yes, check, ok and no are not read

class Try(NamedTuple):
    facts: tuple    # (x, op, y, result) of each fact, as text
    checked: tuple  # the same facts, as they are computed again; () if they are not

    @property
    def operations(self) -> tuple:
        """The facts that use the numbers, without their results. The first result stands as "" in
        the second fact."""
        first, *second = self.facts[:2]
        return (first[:3], *(tuple("" if number == first[3] else number for number in fact[:3])
                             for fact in second))


def reaches(problem, attempt: Try) -> bool:
    """Whether the try says that its result is the target: the distance is 0."""
    return len(attempt.facts) == 3 and attempt.facts[2][2:] == (problem.answer, "0")


@functools.lru_cache(4)
def tries(problem, text: str) -> list[Try]:
    """The tries in the thinking of a response. A line that computes the try before it once again,
    after that try has reached the target, is no try but a check."""
    found = []
    for groups in LINE.findall(text.partition("</think>")[0].removeprefix("<think>")):
        new = Try(tuple(groups[i:i + 4] for i in (0, 4, 8) if groups[i]), ())
        last = found[-1] if found else new
        again = new.operations == last.operations and reaches(problem, last)
        if found and again and not last.checked:
            found[-1] = Try(last.facts, new.facts)
        else:
            found.append(new)
    return found


def share(values) -> float | None:
    """The share of true values; None without values."""
    values = list(values)
    return sum(values) / len(values) if values else None


def repeated(problem, text: str) -> float | None:
    """The share of tries that are equal to an earlier try."""
    found = [attempt.operations for attempt in tries(problem, text)]
    return share(operations in found[:i] for i, operations in enumerate(found))


def checked(problem, text: str) -> float | None:
    """The share of tries that reach the target, by their own facts, and are computed again."""
    return share(bool(t.checked) for t in tries(problem, text) if reaches(problem, t))


def changed(problem, text: str) -> float | None:
    """The share of checks with another result than the try."""
    return share(t.checked != t.facts for t in tries(problem, text) if t.checked)


def true_facts(problem, text: str) -> float | None:
    """The share of facts that are right, checks included."""
    facts = [fact for t in tries(problem, text) for fact in t.facts + t.checked]
    return share(op != "/" and last_digit(int(x), op, int(y)) == int(result)
                 for x, op, y, result in facts)


class Trial(Task):
    """A random try succeeds in at least 1 of 12 cases (level 1), in 1 of 13 to 22 (2), or in fewer
    (3)."""

    prompt_template = (
        "Combine three of the given numbers by + - *, from left to right and modulo 10, so that "
        "the value is the target. Numbers and target: {question}")
    levels = range(1, 4)
    working = EQUATION
    base_steps = 3000
    min_base_pass16 = 0.0
    default_max_new_tokens = 1800
    bands = {1: (1 / 12.5, 1), 2: (1 / 22, 1 / 12.5), 3: (0, 1 / 22)}
    measures = {
        "tries": lambda problem, text: len(tries(problem, text)),
        "backtracks": lambda problem, text: max(0, len(tries(problem, text)) - 1),
        "repeated": repeated, "checked": checked, "changed": changed, "true_facts": true_facts}

    def sample_problem(self, rng, held_out):
        numbers = [rng.randint(1, 9) for _ in range(3)]
        target = random_try(rng, numbers)[1][3]
        low, high = self.bands[self.level]
        problem = replace(problem_of(numbers, target), noisy_facts=True)  # false claims
        return problem if low <= chance(problem) < high else None

    @staticmethod
    def correct(problem, text: str) -> bool:
        """Whether the answer is yes, and the last try of the thinking has the given numbers, and
        the target as its true value, from left to right and modulo 10."""
        found = tries(problem, text)
        if verify.extract(text) != "yes" or not found or not reaches(problem, found[-1]):
            return False
        (x, first, y, _), (_, second, z, _), _ = found[-1].facts
        numbers = {int(x), int(y), int(z)}
        if "/" in (first, second) or not numbers <= set(problem.numbers):
            return False
        value = last_digit(last_digit(int(x), first, int(y)), second, int(z))
        return value == int(problem.answer)

    def document(self, rng, problem, drill=False):
        """A response of the corpus: random tries until one is said to reach the target, or until
        the document gives up. The answer is yes or no."""
        lines, target, answer = [], int(problem.answer), "no"
        for _ in range(MAX_TRIES):
            # 1. a try, perhaps dropped, perhaps with a false claim
            facts = random_try(rng, problem.numbers)
            right = facts[1][3] == target
            told = target if rng.random() < FALSE_CLAIM_RATE else facts[1][3]
            dropped = rng.random() < DROP_RATE
            claimed = not dropped and told == target
            check = claimed and rng.random() < (DRILL_CHECK_RATE if drill else CHECK_RATE)
            verdict = "yes check" if check else "yes" if claimed else "no"
            lines.append(written(problem, facts, told, verdict, dropped))
            # 2. the check, which is always right
            if check:
                lines.append(written(problem, facts, facts[1][3], "ok" if right else "no"))
            # 3. answer, give up, or go on
            if claimed and (right or not check):
                answer = "yes"
                break
            if not drill and rng.random() < GIVE_UP_RATE:
                break
        return tagged("\n".join(lines), answer)
