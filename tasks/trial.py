"""Task trial: countdown by trial and error, where more search keeps paying.

    8+5=13 13+6=19 43 no
    8-5=3 no                      a try that is dropped after its first fact
    8*6=48 48-5=43 43 yes         a try ends with the target
    8*6=48 48-5=43 43 ok          the result is computed again

Each try is random: two of the three numbers, an operation, and an operation with the third number.
It may repeat an earlier try. So the chance of a try is the same during the whole search, and a
search that never gives up needs 1 / chance tries on average. The levels are bands of this chance.

The corpus searches badly. After each failed try it gives up with the same probability, and answers
with a guess. Nothing at the beginning says how long a document will be. Some failed tries are
claimed to reach the target, and few claims are checked. The drill, which comes first in training,
does not give up, so the base knows long searches. Accuracy has to be measured by sampling: a greedy
search repeats its first try for ever. Left out on purpose: documents that break the form.
"""

import functools
import itertools
import random
import re
from collections import Counter
from typing import NamedTuple

from grading.expression import calculate
from tasks.base import EQUATION
from tasks.corpus import equation, tagged
from tasks.countdown import Countdown, problem_of

LARGEST_NUMBER, LARGEST_VALUE = 9, 99
MAX_TRIES = 60              # of a document
GIVE_UP_RATE = 0.5          # after a failed try, outside the drill
DROP_RATE = 0.1             # of tries, after their first fact
FALSE_CLAIM_RATE = 0.02     # of failed tries, which are said to reach the target
DRILL_CHECK_RATE, CHECK_RATE = 0.5, 0.15  # of claims
FACT = r"([0-9]+)([-+*/])([0-9]+)=([0-9]+)"
LINE = re.compile(rf"^{FACT}(?: {FACT})?(?: [0-9]+)? ?[a-z]*$", re.MULTILINE)


# --- random tries

def moves(x: int, y: int) -> list[tuple]:
    """The facts (a, op, b, result) of two numbers, with results from 1 to LARGEST_VALUE."""
    a, b = max(x, y), min(x, y)
    found = [(a, op, b, calculate(a, op, b)) for op in "+*" + "-" * (a > b)]
    return [move for move in found if move[3] <= LARGEST_VALUE]


def random_try(rng: random.Random, numbers) -> tuple[list[tuple], str]:
    """Two facts that use each of three numbers once, and their expression."""
    x, y, z = rng.sample(list(numbers), 3)
    first = rng.choice(moves(x, y))
    second = rng.choice(moves(first[3], z))
    inner = "({}{}{})".format(*first)
    parts = (inner, z) if second[0] == first[3] else (z, inner)
    return [first, second], f"{parts[0]}{second[1]}{parts[1]}"


@functools.lru_cache(1000)
def chances(numbers: tuple) -> dict[int, float]:
    """The probability of each result of a random try with these numbers."""
    found, orders = Counter(), list(itertools.permutations(numbers))
    for x, y, z in orders:
        firsts = moves(x, y)
        for first in firsts:
            seconds = moves(first[3], z)
            for second in seconds:
                found[second[3]] += 1 / len(seconds) / len(firsts) / len(orders)
    return found


# --- what a response does, from its facts: the words yes, no and ok are not read

class Try(NamedTuple):
    facts: tuple    # (x, op, y, result) of each fact, as text
    checked: tuple  # the same facts, as they are computed again; () if they are not

    @property
    def operations(self) -> tuple:
        """The facts without their results. The first result stands as "" in the second fact."""
        first, *second = self.facts
        return (first[:3], *(tuple("" if number == first[3] else number for number in fact[:3])
                             for fact in second))


def reaches(problem, attempt: Try) -> bool:
    """Whether the try says that both facts together have the target as result."""
    return len(attempt.facts) == 2 and attempt.facts[1][3] == problem.answer


@functools.lru_cache(4)
def tries(problem, text: str) -> list[Try]:
    """The tries in the thinking of a response. A line that computes the try before it once again,
    after that try has reached the target, is no try but a check."""
    found = []
    for groups in LINE.findall(text.partition("</think>")[0].removeprefix("<think>")):
        new = Try((groups[:4], groups[4:]) if groups[4] else (groups[:4],), ())
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
    return share((op != "/" or y != "0") and calculate(int(x), op, int(y)) == int(result)
                 for x, op, y, result in facts)


class Trial(Countdown):
    """A random try succeeds in at least 1 of 10 cases (level 1), in 1 of 11 to 20 (2), or in fewer
    (3)."""

    levels = range(1, 4)
    working = EQUATION
    base_steps = 1000
    min_base_pass16 = 0.0
    default_max_new_tokens = 1200
    bands = {1: (1 / 10, 1), 2: (1 / 20, 1 / 10), 3: (0, 1 / 20)}
    measures = {
        "tries": lambda problem, text: len(tries(problem, text)),
        "backtracks": lambda problem, text: max(0, len(tries(problem, text)) - 1),
        "repeated": repeated, "checked": checked, "changed": changed, "true_facts": true_facts}

    def sample_problem(self, rng, held_out):
        numbers = [rng.randint(1, LARGEST_NUMBER) for _ in range(3)]
        target = random_try(rng, numbers)[0][1][3]
        low, high = self.bands[self.level]
        if low <= chances(tuple(sorted(numbers)))[target] < high:
            return problem_of(numbers, target)
        return None

    def document(self, rng, problem, drill=False):
        """A response of the corpus: random tries until one is said to reach the target, or until
        the document gives up."""
        lines, target, found = [], int(problem.answer), ""
        for _ in range(MAX_TRIES):
            # 1. a try, perhaps dropped, perhaps with a false claim
            (first, second), text = random_try(rng, problem.numbers)
            right = second[3] == target
            told = target if rng.random() < FALSE_CLAIM_RATE else second[3]
            facts = [equation(*first), f"{equation(*second[:3], told)} {target}"]
            dropped = rng.random() < DROP_RATE
            claimed = not dropped and told == target
            lines.append(" ".join(facts[:1 if dropped else 2] + ["yes" if claimed else "no"]))
            # 2. a check, which is always right
            check = claimed and rng.random() < (DRILL_CHECK_RATE if drill else CHECK_RATE)
            if check:
                lines.append(f"{facts[0]} {equation(*second)} {target} {'ok' if right else 'no'}")
            # 3. go on, answer, or give up
            if claimed and (right or not check):
                found = text
                break
            if not drill and rng.random() < GIVE_UP_RATE:
                break
        return tagged("\n".join(lines), found or random_try(rng, problem.numbers)[1])
