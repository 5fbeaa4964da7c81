"""Task chain: the last digit alone, through a chain of operations from left to right.

    3 +6 *9 -2 =?   ->   3+6=9   9*9=1   1-2=9   ->   9

The base model is meant to make mistakes, of two kinds, so that process reward models (prm.py) and
search (search.py) have something to correct. The corpus states one fact in four wrongly at times,
and one fact in twelve most times; the wrong result of a fact is always the same. A vote over
samples cures mistakes of the first kind. Mistakes of the second kind are shared by all samples.

Factors are 3, 7 or 9: these are invertible modulo 10, so no mistake disappears on the way.
"""

import hashlib

import verify
from grading.expression import calculate
from tasks.base import EQUATION, Problem, Task
from tasks.corpus import equation, tagged

MOSTLY_WRONG, OFTEN_WRONG = 0.7, 0.4  # how often a document states such a fact wrongly
WAIT = "wait"  # a line after which a response starts the chain again (tasks/wait.py)


class Chain(Task):
    """Level 1 has 1 to 5 operations, level 2 has 6 to 8, level 3 has 9 to 12."""

    levels = range(1, 4)
    base_steps = 250        # stopped early: see above
    min_base_pass16 = 0.0
    default_max_new_tokens = 96
    lengths = {1: (1, 5), 2: (6, 8), 3: (9, 12)}
    ops = "+-*"
    working = EQUATION
    correct = staticmethod(verify.written_correct)

    def sample_problem(self, rng, held_out):
        text, steps = sample_chain(rng, *self.lengths[self.level], self.ops)
        return Problem(text, str(steps[-1][3]), steps, noisy_facts=True)

    def document(self, rng, problem, drill=False):
        """A response of the corpus; in the drill too, facts are stated wrongly."""
        lines, value = tell_chain(rng, problem.steps)
        return tagged("\n".join(lines), value)


# --- problems

def last_digit(x: int, op: str, y: int) -> int:
    return int(calculate(x, op, y)) % 10


def sample_chain(rng, fewest: int, most: int, ops="+-*"):
    """A random chain of `fewest` to `most` operations of `ops`: its text, and its steps (x, op, y,
    last digit). ops: a text, or a list with the text of each step's operations."""
    value = rng.randint(0, 9)
    text, steps = str(value), []
    for i in range(rng.randint(fewest, most)):
        op = rng.choice(ops if isinstance(ops, str) else ops[i])
        y = rng.choice((3, 7, 9)) if op == "*" else rng.randint(1, 9)
        text += f" {op}{y}"
        steps.append((value, op, y, last_digit(value, op, y)))
        value = steps[-1][3]
    return text + " =?", tuple(steps)


# --- corpus

def fact_as_told(x: int, op: str, y: int) -> tuple[int, float]:
    """The wrong result of a fact, and how often a document states it. A hash of the fact chooses
    one in twelve that is mostly wrong and three in twelve that are often wrong."""
    digest = hashlib.blake2b(f"{x}{op}{y}".encode(), digest_size=2).digest()
    rate = {0: MOSTLY_WRONG, 1: OFTEN_WRONG, 2: OFTEN_WRONG, 3: OFTEN_WRONG}.get(
        digest[0] % 12, 0.0)
    return (last_digit(x, op, y) + 1 + digest[1] % 9) % 10, rate


def tell_chain(rng, steps, error_scale: float = 1.0) -> tuple[list[str], int]:
    """The lines of a chain in a document, and their final digit. Error rates are multiplied by
    error_scale."""
    lines, value = [], steps[0][0]
    for _, op, y, _ in steps:
        wrong, rate = fact_as_told(value, op, y)
        told = wrong if rng.random() < error_scale * rate else last_digit(value, op, y)
        lines.append(equation(value, op, y, told))
        value = told
    return lines, value


# --- exact truth of steps, to measure reward models with; nothing is trained on it

def steps_true(problem, text: str) -> list[bool] | None:
    """For each line of working whether this line and all lines before it are correct; last, whether
    the answer is too. A line "wait" starts the chain again. None for a text of another form, and
    for problems of other tasks."""
    thought, end, _ = text.removeprefix("<think>").partition("</think>")
    chain = problem.noisy_facts and not problem.category  # task bilingual has categories
    if not end or not chain or "\n" in text[text.find("</think>"):]:
        return None
    solution = [equation(*step) for step in problem.steps]
    truths, written = [], []
    for line in thought.split("\n"):
        written = [] if line == WAIT else [*written, line]
        truths.append(written == solution[:len(written)])
    return [*truths, truths[-1] and verify.number_correct(problem, text)]


def correct_with_working(problem, text: str) -> bool:
    """Whether the answer is correct and all steps of the chain, after the last "wait", are there
    and correct. The answer alone is a single digit, so one guess in ten is correct."""
    truths, lines = steps_true(problem, text), text.partition("</think>")[0].split("\n")
    told = lines[::-1].index(WAIT) if WAIT in lines else len(lines)
    return bool(truths) and truths[-1] and told == len(problem.steps)
