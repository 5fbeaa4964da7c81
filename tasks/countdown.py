"""Task countdown: reach a target with given numbers, each used once: 43 from 5 8 6 is 8*6-5.

Levels 1 to 3 have three numbers, levels 4 and 5 have four. The target is the value of a random
expression, so a solution always exists. Every value on the way is a positive integer. The corpus
tries combinations of the numbers one after the other:

    8+5=13 13+6=19 no          8*6=48 48-5=43 yes
"""

import itertools

import verify
from grading.expression import calculate, expression
from tasks.base import EQUATION, Problem, Task

MAX_LINES = 9          # attempts in a document; earlier ones are left out
MAX_ATTEMPTS = 20_000  # that the corpus looks at: all of five numbers, a part of six


class Countdown(Task):
    prompt_template = (
        "Use each of the given numbers exactly once, with + - * / and brackets, and write an "
        "expression that makes the target. Numbers and target: {question}")
    working = EQUATION
    base_steps = 1200
    largest = {1: 9, 2: 15, 3: 40, 4: 12, 5: 40}  # number, of each level

    # --- problems

    def sample_problem(self, rng, held_out):
        numbers = [rng.randint(1, self.largest[self.level]) for _ in range(3 + (self.level > 3))]
        value = numbers[0]
        for number in numbers[1:]:
            x, y = rng.choice(((value, number), (number, value)))
            value = calculate(x, rng.choice("+-*/"), y) if y else 0
            if value <= 0 or value != int(value):
                return None
        rng.shuffle(numbers)
        return problem_of(numbers, int(value)) if value <= 100 else None

    # --- verifier

    @staticmethod
    def correct(problem, text: str) -> bool:
        """Whether the answer is an expression that uses each of the numbers exactly once and has
        the target as its exact value. Raises ValueError for a target that is not a number."""
        parsed = expression(verify.extract(text) or "")
        return (parsed is not None and parsed[0] == int(problem.answer)
                and sorted(parsed[1]) == sorted(problem.numbers))

    # --- corpus

    def write_solution(self, rng, problem, style, wrong, drill=False):
        """Lines of attempts, and the expression that was found. A wrong document gives up early
        and answers with a random expression."""
        # all attempts up to the first that reaches the target
        numbers, lines = problem.numbers, []
        attempts = list(itertools.islice(countdown_attempts(
            int(problem.answer), [(n, str(n)) for n in numbers]), MAX_ATTEMPTS))
        if len(numbers) > 3:  # too many to go through in order
            rng.shuffle(attempts)
        for facts, found in attempts:
            lines.append(" ".join(facts + ["yes" if found else "no"]))
            if found:
                break
        lines = lines[-MAX_LINES:]
        # the style
        if wrong or not found:  # not found: a row of a file may have no solution
            x, *others = rng.sample(numbers, len(numbers))
            return (lines[:rng.randint(1, len(lines))],
                    str(x) + "".join(rng.choice("+-*") + str(y) for y in others))
        if style == "short":
            lines = lines[-1:]
        if style == "check":
            lines += ["check", lines[-1].removesuffix(" yes"), "ok"]
        return lines, found


def problem_of(numbers, target: int, template: str = "{question}") -> Problem:
    """The problem of making the target. `template` is a wording that says what to do."""
    question = f"{' '.join(map(str, numbers))} make {target}"
    return Problem(template.replace("{question}", question), str(target), numbers=tuple(numbers),
                   key=f"{sorted(numbers)} {target}")


def countdown_attempts(target: int, pool):
    """All attempts, in order. The pool holds (value, text). Two of its values are combined to one
    until one is left; the last two are combined to the value nearest to the target. Yields
    (facts, expression), the expression None where the attempt misses the target.

        43 from 5 8 6  ->  (["8+5=13", "13+6=19"], None), ..., (["8*6=48", "48-5=43"], "(8*6)-5")
    """
    if len(pool) == 1:
        value, text = pool[0]
        yield [], text[1:-1] if value == target else None
        return
    for (i, first), (j, second) in itertools.combinations(enumerate(pool), 2):
        # every positive integer that the two values can make: (value, fact, text)
        (a, s), (b, t) = sorted((first, second), reverse=True)
        rest = [x for k, x in enumerate(pool) if k not in (i, j)]
        moves = [(int(calculate(a, op, b)), f"{a}{op}{b}", f"({s}{op}{t})")
                 for op in "+" + "-" * (a > b) + "*" + "/" * (a % b == 0)]
        if not rest:
            moves = [min(moves, key=lambda move: abs(move[0] - target))]
        # go on with each of them
        for value, fact, text in moves:
            for facts, found in countdown_attempts(target, [*rest, (value, text)]):
                yield [f"{fact}={value}", *facts], found
