"""How good the labels and the judges of steps are (prm.py), by an oracle that makes neither.

The chains of chain.py can be worked out, so of each line it is known whether it is true. What a
judge is asked is whether it scores true steps above false ones (the area under the ROC curve),
where it sees the first false one, and whether its scores are shares of right answers (calibration).

    auc = chance that a true step is scored above a false one, ties counting half

Shapes: solutions are those of prm.py; found, of each of them, a score a step.
"""

import torch

from tasks import chain


def auc(scores: list[float], truths: list[bool]) -> float | None:
    """The chance that a true one is scored above a false one, ties counting half (the area under
    the ROC curve); None where there is but one kind."""
    x, true = torch.tensor(scores, dtype=torch.float64), torch.tensor(truths, dtype=torch.bool)
    n = int(true.sum()) * int((~true).sum())
    if not n:
        return None
    _, place, count = x.unique(return_inverse=True, return_counts=True)
    rank = (count.cumsum(0).double() - (count - 1) / 2)[place]                # mean rank of ties
    wins = rank[true].sum() - true.sum() * (true.sum() + 1) / 2
    return float(wins / n)


def judged(solutions: list, found: list[list[float]]):
    """[(scores, truths)] of the solutions that the oracle can read."""
    pairs = [(p, chain.steps_true(s.problem, s.text))
             for s, p in zip(solutions, found, strict=True)]
    return [(p, truths) for p, truths in pairs if truths is not None and len(truths) == len(p)]


def measure(solutions, found) -> dict:
    """AUC and accuracy of step scores, also of the steps up to the first wrong one alone; how often
    that is found, as the first step below a half, or as the first whose score is less than half of
    the one before (scores are of reaching the answer, and before hard steps all are low); and the
    calibration of the last step's score: [(mean score, share right, count)] by tenths, with the
    mean distance of the two."""
    read = judged(solutions, found)
    if not read:
        return {"solutions": 0}
    flat = [(x, t) for p, truths in read for x, t in zip(p, truths, strict=True)]
    first = [truths.index(False) if False in truths else len(truths) for _, truths in read]
    early = [(x, t) for (p, truths), k in zip(read, first, strict=True)
             for x, t in zip(p[:k + 1], truths[:k + 1], strict=True)]
    low = [next((i for i, x in enumerate(p) if x < 0.5), len(p)) for p, _ in read]
    begin = sum(p[0] for p, _ in read) / len(read)
    fall = [next((i for i, (x, y) in enumerate(zip([begin, *p], p, strict=False)) if y < x / 2),
                 len(p)) for p, _ in read]
    found = [[a == b for (_, truths), a, b in zip(read, first, said, strict=True)
              if a < len(truths)] for said in (low, fall)]
    bins = [[(p[-1], truths[-1]) for p, truths in read if min(9, int(10 * p[-1])) == tenth]
            for tenth in range(10)]
    table = [(sum(x for x, _ in b) / len(b), sum(t for _, t in b) / len(b), len(b))
             for b in bins if b]
    return {"solutions": len(read), "steps": len(flat), "auc": auc(*zip(*flat, strict=True)),
            "auc_to_first_error": auc(*zip(*early, strict=True)),
            "accuracy": sum((x >= 0.5) == t for x, t in flat) / len(flat),
            "first_error_found": sum(found[0]) / max(1, len(found[0])),
            "first_error_by_fall": sum(found[1]) / max(1, len(found[1])),
            "calibration_error": sum(abs(x - t) * n for x, t, n in table) / len(read),
            "calibration": table}


def label_noise(solutions: list, n: int) -> dict:
    """Of labels from 1, 2, 4 ... n completions: the AUC of the soft ones (shares) against the
    oracle, and how many of the hard ones (whether any completion is right) are wrong. The last
    step, whose label is the outcome, is left out."""
    result, k = {}, 1
    while k <= n:
        soft = [(x, t) for p, truths in judged(solutions, [s.soft(k) for s in solutions])
                for x, t in zip(p[:-1], truths[:-1], strict=True)]
        if soft:
            result[str(k)] = {"auc": auc(*zip(*soft, strict=True)),
                              "hard_wrong": sum((x > 0) != t for x, t in soft) / len(soft)}
        k *= 2
    return result
