"""True working, and the quality of step labels and step scores (prm.py) against exact step truths.

The chains of chain.py can be worked out, so it is known of each line whether it is true. Three
questions are asked of a reward model. Does it score true steps above false ones (area under the ROC
curve)? Where does it see the first false step? Are its scores calibrated probabilities?

    auc = P(score of a true step > score of a false step) + 1/2 P(the two are equal)

The oracle measures labels and reward models. It never makes them. `true_working` tells an answer
that is worked out from a guess, for recipes/pass_at_k.py.
Shapes: `solutions` are those of prm.py; `scores` holds a list for each solution, with one score for
each step.
"""

import re

from grading.expression import calculate
from tasks import chain

EQUATION = re.compile(r"(-?[0-9]+)([-+*/])([0-9]+)=(-?[0-9]+)")  # of two numbers


def true_working(problem, text: str) -> bool:
    """Whether the working of a response is true and leads to the answer of the problem, in the
    tasks chain, arithmetic, countdown and gsm. The answer that the response gives is not read.

    Every equation must hold, the last result must be the problem's answer, and the result of each
    step of the problem must be told. A later equation with the same left side replaces a false one
    (the corpus corrects itself after "wait"). A chain needs exactly its steps, modulo 10."""
    if problem.noisy_facts:
        return chain.correct_with_working(problem, text)
    thought = text.partition("</think>")[0].replace("<think>", " ")
    equations = [EQUATION.fullmatch(piece) for piece in thought.split() if "=" in piece]
    if not equations or None in equations:
        return False
    told = {}  # (x, op, y) -> its result as told last
    for x, op, y, result in (equation.groups() for equation in equations):
        told[int(x), op, int(y)] = int(result)
    return (all((op != "/" or y) and calculate(x, op, y) == z for (x, op, y), z in told.items())
            and int(equations[-1][4]) == int(problem.answer)
            and {step[3] for step in problem.steps} <= set(told.values()))


def auc(scores: list[float], truths: list[bool]) -> float | None:
    """The probability that a true item scores above a false one, where ties count half (the area
    under the ROC curve). None if all items are true, or all are false."""
    import torch  # not at the top: `import tasks` reads this file, and tasks need no tensors
    x, true = torch.tensor(scores, dtype=torch.float64), torch.tensor(truths, dtype=torch.bool)
    n_pairs = int(true.sum()) * int((~true).sum())
    if not n_pairs:
        return None
    # the rank sum of the true items (Mann-Whitney U); tied scores share their mean rank
    _, value_index, count = x.unique(return_inverse=True, return_counts=True)
    rank = (count.cumsum(0).double() - (count - 1) / 2)[value_index]
    wins = rank[true].sum() - true.sum() * (true.sum() + 1) / 2
    return float(wins / n_pairs)


def scores_with_truths(solutions: list, scores: list[list[float]]):
    """[(step scores, step truths)] of the solutions whose lines the oracle can read."""
    pairs = [(p, chain.steps_true(s.problem, s.text))
             for s, p in zip(solutions, scores, strict=True)]
    return [(p, truths) for p, truths in pairs if truths is not None and len(truths) == len(p)]


def score_quality(solutions, scores) -> dict:
    """How well step scores tell true steps from false ones.

    auc, accuracy: over all steps; auc_to_first_error: over the steps up to the first false one.
    first_error_found: how often the first step with a score below 1/2 is the first false step.
    first_error_by_fall: the same for the first step whose score is less than half of the score
    before it. (Scores predict the outcome, so before hard steps all of them are low.)
    calibration: the last steps by tenths of their score, [(mean score, proportion true, count)];
    calibration_error: the mean distance of the two."""
    read = scores_with_truths(solutions, scores)
    if not read:
        return {"solutions": 0}
    steps = [(x, t) for p, truths in read for x, t in zip(p, truths, strict=True)]

    # the first false step of each solution, by the oracle and by two readings of the scores
    first = [truths.index(False) if False in truths else len(truths) for _, truths in read]
    low = [next((i for i, x in enumerate(p) if x < 0.5), len(p)) for p, _ in read]
    start = sum(p[0] for p, _ in read) / len(read)  # stands before the first step
    fall = [next((i for i, (x, y) in enumerate(zip([start, *p], p, strict=False)) if y < x / 2),
                 len(p)) for p, _ in read]
    hits = [[a == b for (_, truths), a, b in zip(read, first, guess, strict=True)
             if a < len(truths)] for guess in (low, fall)]
    early = [(x, t) for (p, truths), k in zip(read, first, strict=True)
             for x, t in zip(p[:k + 1], truths[:k + 1], strict=True)]

    # calibration of the last step's score, by tenths
    bins = [[(p[-1], truths[-1]) for p, truths in read if min(9, int(10 * p[-1])) == tenth]
            for tenth in range(10)]
    table = [(sum(x for x, _ in b) / len(b), sum(t for _, t in b) / len(b), len(b))
             for b in bins if b]
    return {"solutions": len(read), "steps": len(steps), "auc": auc(*zip(*steps, strict=True)),
            "auc_to_first_error": auc(*zip(*early, strict=True)),
            "accuracy": sum((x >= 0.5) == t for x, t in steps) / len(steps),
            "first_error_found": sum(hits[0]) / max(1, len(hits[0])),
            "first_error_by_fall": sum(hits[1]) / max(1, len(hits[1])),
            "calibration_error": sum(abs(x - t) * n for x, t, n in table) / len(read),
            "calibration": table}


def label_quality(solutions: list, n: int) -> dict:
    """The quality of step labels from k = 1, 2, 4 ... n completions, {str(k): {...}}.

    auc: of the soft labels (proportions of correct completions) against the oracle.
    hard_wrong: the proportion of hard labels (1 if any completion is correct) that are wrong.
    The last step is left out, because its label is the outcome."""
    result, k = {}, 1
    while k <= n:
        labels = [s.step_labels(k) for s in solutions]
        soft = [(x, t) for p, truths in scores_with_truths(solutions, labels)
                for x, t in zip(p[:-1], truths[:-1], strict=True)]
        if soft:
            result[str(k)] = {"auc": auc(*zip(*soft, strict=True)),
                              "hard_wrong": sum((x > 0) != t for x, t in soft) / len(soft)}
        k *= 2
    return result
