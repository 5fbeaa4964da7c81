"""The base model's corpus: responses to training problems, as mixed as text from the web.

Most documents answer at once. Some show short working, some long. Some check a step, find a mistake
and correct it. Some are wrong, and some break the form. So the base model can do everything that
reinforcement learning needs, but prefers the quick answer, like the base of R1-Zero (2501.12948).
The drill, which comes first in training, is correct, well formed and mostly long.

This file has the parts that tasks share; a task with a corpus of its own has it in its own file.
"""

import random

import verify
from grading.expression import calculate

STYLES = {"direct": 0.55, "short": 0.18, "long": 0.17, "check": 0.10}  # shares of the documents
DRILL_STYLES = {"direct": 0.03, "short": 0.07, "long": 0.80, "check": 0.10}
WRONG_RATE = 0.15      # share of documents with a mistake that is not corrected
MALFORMED_RATE = 0.15  # share of documents that break the form
SLIP_RATE = 0.3        # chance that the first try of a step is wrong, in style "check"
NO_WORKING = "easy"    # the thinking of a direct answer


# --- one step

def equation(x, op, y, result) -> str:
    return f"{x}{op}{y}={result}"


def worked_lines(x, op, y, result) -> list[str]:
    """The lines of one step in style "long": facts about single digits, place by place. The larger
    of two factors is split. Small products and divisions are one line. Zeros get lines too, because
    a rule without exceptions is learned sooner.

        47*6=282  ->  40*6=240, 7*6=42, 240+42, 40+40=80, 0+2=2, 200+80=280, 280+2=282
    """
    if op in "+-":
        return split_by_digit(x, op, y)
    if op == "*" and max(x, y) > 9:
        # one product for each digit of the larger factor
        small, large = sorted((x, y))
        places = [10**i for i in range(len(str(large)))][::-1]
        parts = [large // place % 10 * place for place in places]
        lines = [equation(part, "*", small, part * small) for part in parts]
        # add the products one after the other
        total = parts[0] * small
        for part in parts[1:]:
            lines += [f"{total}+{part * small}", *split_by_digit(total, "+", part * small)]
            total += part * small
        return lines
    return [equation(x, op, y, result)]


def split_by_digit(x: int, op: str, y: int) -> list[str]:
    """The lines of x + y or x - y: first the places that both numbers have, then the sum of these
    parts and the higher places of the longer number.

        308-27  ->  0-20=-20, 8-7=1, 300-20=280, 280+1=281
    """
    common = 10 ** min(len(str(x)), len(str(y)))
    high = calculate(x - x % common, op, y - y % common)
    lines, parts = [], []
    place = common // 10
    while place:
        a, b = x // place % 10 * place, y // place % 10 * place
        parts.append(calculate(a, op, b))
        lines.append(equation(a, op, b, parts[-1]))
        place //= 10
    total, *rest = [high] + parts if high else parts
    for part in rest:
        lines.append(f"{total}{part:+d}={total + part}")
        total += part
    return lines


def near_miss(rng: random.Random, n: int) -> int:
    """A wrong value close to n: one digit is off by one or two."""
    return max(0, n + rng.choice((-2, -1, 1, 2)) * 10 ** rng.randrange(len(str(n))))


# --- a whole solution

def write_steps(rng: random.Random, steps, style: str, wrong: bool) -> tuple[list[str], int]:
    """Lines of working for the steps (x, op, y, result), and their final result. With `wrong` one
    step has a mistake, and later steps go on from its wrong result."""
    wrong_step = rng.randrange(len(steps)) if wrong else -1
    lines, replaced = [], {}  # replaced: correct value -> the wrong value that was written for it
    for i, (x, op, y, result) in enumerate(steps):
        # the result of this step, from the values that were written before
        x, y = replaced.get(x, x), replaced.get(y, y)
        value = result if op == "/" and y == 0 else calculate(x, op, y)
        value = int(value) if value >= 0 else result  # a mistake led below 0: take the correct one
        written = near_miss(rng, value) if i == wrong_step else value
        # its lines
        if style == "check":
            first = near_miss(rng, written) if rng.random() < SLIP_RATE else written
            lines += [equation(x, op, y, first), "check"] + worked_lines(x, op, y, value)
            lines += ["ok"] if first == written else ["wait", equation(x, op, y, written)]
        elif style == "long":
            parts = worked_lines(x, op, y, value)
            lines += ([f"{x}{op}{y}"] if len(parts) > 1 else []) + parts
            lines[-1] = lines[-1].rpartition("=")[0] + f"={written}"
        else:
            lines += [equation(x, op, y, written)]
        if written != result:
            replaced[result] = written
    return lines, written


def write_solution(rng: random.Random, problem, style: str, wrong: bool, drill: bool = False):
    """The lines of working and the answer of a document. Steps are written out. Otherwise the
    working is the problem's `solution`, and a wrong answer is a near miss of a number."""
    if problem.steps and style != "direct":
        return write_steps(rng, problem.steps, style, wrong)
    value = verify.number(problem.answer)
    answer = near_miss(rng, int(value)) if wrong and value is not None else problem.answer
    return [problem.solution or NO_WORKING], answer


# --- a whole response

def tagged(thought: str, answer) -> str:
    return f"<think>{thought}</think><answer>{answer}</answer>"


def document(rng: random.Random, problem, drill: bool = False, write=write_solution,
             shares=None) -> str:
    """One response to a training problem, in a random style. `write` is the task's write_solution;
    it gets (rng, problem, style, wrong, drill). shares: of the styles after the drill (default:
    STYLES)."""
    # 1. choose the style, and whether there is a mistake
    styles = DRILL_STYLES if drill else shares or STYLES
    style = rng.choices(list(styles), styles.values())[0]
    wrong = not drill and rng.random() < WRONG_RATE
    # 2. write the working and the answer
    lines, answer = write(rng, problem, style, wrong, drill)
    thought = NO_WORKING if style == "direct" else "\n".join(lines)
    # 3. put both into tags; outside the drill some documents break the form
    if drill or rng.random() >= MALFORMED_RATE:
        return tagged(thought, answer)
    return rng.choice((f"<answer>{answer}</answer>", f"<think>{thought}</think>{answer}",
                       f"{thought}\n<answer>{answer}</answer>"))
