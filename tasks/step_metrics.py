"""How good step labels and step scores are (prm.py), measured against the exact truth.

In task chain each step can be checked exactly (tasks/chain.py, steps_true). So three properties of
a process reward model can be measured: whether true steps score above false steps (AUC), where the
model sees the first false step, and whether its scores are probabilities (calibration).

    auc = P(score of a true step > score of a false step), ties count one half

Neither labels nor scores are made from this truth. Solutions are those of prm.py. Scores are a list
of lists: for each solution one score per step.
"""

import torch

from tasks import chain


def roc_auc(scores: list[float], truths: list[bool]) -> float | None:
    """The area under the ROC curve: the probability that a true item has a higher score than a
    false one, where ties count one half. None unless there are items of both kinds."""
    x, true = torch.tensor(scores, dtype=torch.float64), torch.tensor(truths, dtype=torch.bool)
    n = int(true.sum()) * int((~true).sum())
    if not n:
        return None
    _, place, count = x.unique(return_inverse=True, return_counts=True)
    rank = (count.cumsum(0).double() - (count - 1) / 2)[place]                # mean rank of ties
    wins = rank[true].sum() - true.sum() * (true.sum() + 1) / 2
    return float(wins / n)


def with_truth(solutions: list, scores: list[list[float]]):
    """[(scores, truths)] of the solutions whose steps can be checked."""
    pairs = [(p, chain.steps_true(s.problem, s.text))
             for s, p in zip(solutions, scores, strict=True)]
    return [(p, truths) for p, truths in pairs if truths is not None and len(truths) == len(p)]


def score_quality(solutions: list, scores: list[list[float]]) -> dict:
    """Measures step scores. The first false step is looked for in two ways: as the first score
    below 0.5, and as the first score below half of the score before it."""
    checked = with_truth(solutions, scores)
    if not checked:
        return {"solutions": 0}
    # all steps, and the steps up to the first false one
    steps = [(x, t) for p, truths in checked for x, t in zip(p, truths, strict=True)]
    first = [truths.index(False) if False in truths else len(truths) for _, truths in checked]
    early = [(x, t) for (p, truths), k in zip(checked, first, strict=True)
             for x, t in zip(p[:k + 1], truths[:k + 1], strict=True)]
    # where the scores put the first false step
    low = [next((i for i, x in enumerate(p) if x < 0.5), len(p)) for p, _ in checked]
    start = sum(p[0] for p, _ in checked) / len(checked)  # stands before the first score
    fall = [next((i for i, (x, y) in enumerate(zip([start, *p], p, strict=False)) if y < x / 2),
                 len(p)) for p, _ in checked]
    by_low, by_fall = [[a == b for (_, truths), a, b in zip(checked, first, guesses, strict=True)
                        if a < len(truths)] for guesses in (low, fall)]
    # calibration of the last score, by tenths: (mean score, share correct, count)
    bins = [[(p[-1], truths[-1]) for p, truths in checked if min(9, int(10 * p[-1])) == tenth]
            for tenth in range(10)]
    table = [(sum(x for x, _ in b) / len(b), sum(t for _, t in b) / len(b), len(b))
             for b in bins if b]
    return {"solutions": len(checked), "steps": len(steps),
            "auc": roc_auc(*zip(*steps, strict=True)),
            "auc_to_first_error": roc_auc(*zip(*early, strict=True)),
            "accuracy": sum((x >= 0.5) == t for x, t in steps) / len(steps),
            "first_error_found": sum(by_low) / max(1, len(by_low)),
            "first_error_by_fall": sum(by_fall) / max(1, len(by_fall)),
            "calibration_error": sum(abs(x - t) * n for x, t, n in table) / len(checked),
            "calibration": table}


def label_noise(solutions: list, n: int) -> dict:
    """For labels from 1, 2, 4 ... n completions: the AUC of soft labels (the share of correct
    completions), and the share of hard labels (any correct completion) that are wrong. The last
    step is left out, because its label is the outcome."""
    result, k = {}, 1
    while k <= n:
        soft = [(x, t) for p, truths in with_truth(solutions, [s.soft(k) for s in solutions])
                for x, t in zip(p[:-1], truths[:-1], strict=True)]
        if soft:
            result[str(k)] = {"auc": roc_auc(*zip(*soft, strict=True)),
                              "hard_wrong": sum((x > 0) != t for x, t in soft) / len(soft)}
        k *= 2
    return result
