"""Chains of facts, some of them told wrong: what a judge of steps is for (prm.py, search.py).

    3 +6 *9 -2 =?   ->   3+6=9   9*9=1   1-2=9   ->   9          the last digit is all that is kept

Every document of the corpus tells each fact for itself. One fact in four is often told wrong and
one in twelve mostly, always in the same way: errors of the first kind a vote cures, those of the
second all samples share. In task wait a document may say "wait" and tell the chain again, more
carefully. A product is by 3, 7 or 9, so that no mistake is lost on the way.
"""

import hashlib

import verify

MOSTLY, OFTEN = 0.7, 0.4  # how often a doubtful fact is told wrong
AGAIN = 0.45              # chance, each time that a chain is told, of one more
WAIT = "wait"


def last_digit(x: int, op: str, y: int) -> int:
    return int(verify.apply(x, op, y)) % 10


def belief(x: int, op: str, y: int) -> tuple[int, float]:
    """What is told instead of the last digit, and how often: a hash picks one fact in twelve that
    is mostly told wrong, and three in twelve that often are."""
    digest = hashlib.blake2b(f"{x}{op}{y}".encode(), digest_size=2).digest()
    share = {0: MOSTLY, 1: OFTEN, 2: OFTEN, 3: OFTEN}.get(digest[0] % 12, 0.0)
    return (last_digit(x, op, y) + 1 + digest[1] % 9) % 10, share


def draw(rng, fewest: int, most: int):
    """A random chain: its text and its steps (x, op, y, last digit)."""
    value = rng.randint(0, 9)
    text, steps = str(value), []
    for _ in range(rng.randint(fewest, most)):
        op = rng.choice("+-*")
        y = rng.choice((3, 7, 9)) if op == "*" else rng.randint(1, 9)
        text += f" {op}{y}"
        steps.append((value, op, y, last_digit(value, op, y)))
        value = steps[-1][3]
    return text + " =?", tuple(steps)


def tell(rng, steps, haste: float = 1.0) -> tuple[list[str], int]:
    """Lines of a chain as a document tells it, and the digit they come to; what is told wrong is so
    `haste` times as often."""
    lines, value = [], steps[0][0]
    for _, op, y, _ in steps:
        wrong, share = belief(value, op, y)
        said = wrong if rng.random() < haste * share else last_digit(value, op, y)
        lines.append(f"{value}{op}{y}={said}")
        value = said
    return lines, value


def document(rng, steps, again: bool) -> str:
    """A response of the corpus. again: it may say "wait" and begin anew, erring half as often."""
    lines, value = tell(rng, steps)
    while again and rng.random() < AGAIN:
        more, value = tell(rng, steps, haste=0.5)
        lines += [WAIT, *more]
    return "<think>" + "\n".join(lines) + f"</think><answer>{value}</answer>"


def steps_true(problem, text: str) -> list[bool] | None:
    """The exact oracle: of each line of working whether it and all before it are true, and last
    whether the answer is right; None where the text has another form. After a "wait" all begins
    anew. It measures step labels and scores, and never makes them."""
    thought, end, _ = text.removeprefix("<think>").partition("</think>")
    if not end or not problem.doubtful or "\n" in text[text.find("</think>"):]:
        return None
    right = ["{}{}{}={}".format(*step) for step in problem.steps]
    truths, said = [], []
    for line in thought.split("\n"):
        said = [] if line == WAIT else [*said, line]
        truths.append(said == right[:len(said)])
    return [*truths, truths[-1] and verify.number_correct(problem, text)]


def worked(problem, text: str) -> bool:
    """Whether an answer is right by true steps, and all of them, those after the last "wait": the
    answer alone, one digit, is right by luck one time in ten."""
    truths, lines = steps_true(problem, text), text.partition("</think>")[0].split("\n")
    told = lines[::-1].index(WAIT) if WAIT in lines else len(lines)
    return bool(truths) and truths[-1] and told == len(problem.steps)
