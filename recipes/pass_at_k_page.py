"""The page of recipes/pass_at_k.py: curves of pass@k, and where the base overtakes a policy.

A result is {task: {policy: counts}}. The counts are the number n of samples to each problem, and of
these the numbers with a right answer ("answers") and with true steps as well ("steps"), a number
for each problem. Problems are the same for all seeds. Shapes: S seeds, P problems, K numbers k.
"""

from functools import partial

import numpy as np

import verify
from bench.stats import with_interval

KS = [2**i for i in range(11)]
SHOWN = [1, 4, 16, 64, 256, 1024]  # k of the first table
DRAWS = 2000                       # of the bootstrap, over seeds and problems
MEASURES = {"answers": "right answers", "steps": "right answers with true steps"}
BASE, GUESS = "base", "guessing"


def curves(results: list[dict], task: str, policy: str, measure: str) -> np.ndarray:
    """pass@k of each seed, problem and k of KS that the samples allow, (S, P, K)."""
    found = [result[task][policy] for result in results]
    return np.array([[[verify.pass_at_k(x["n"], c, k) for k in ks_of(results)]
                      for c in x[measure]] for x in found])


def ks_of(results) -> list[int]:
    """The numbers of samples k that the number of samples allows."""
    return [k for k in KS if k <= next(iter(results[0].values()))[BASE]["n"]]


def lead(base: np.ndarray, policy: np.ndarray, ks: list[int]) -> list[str]:
    """Cells for curves (S, P, K): the first k at which the mean of the base is above the policy,
    its interval, and the lead of the base at the largest k, in points. The bootstrap draws seeds
    and problems; problems are the same for all seeds."""
    rng, gap = np.random.default_rng(0), base - policy
    seeds, problems = (rng.multinomial(n, [1 / n] * n, DRAWS) / n for n in gap.shape[:2])
    draws = np.einsum("ds,dp,spk->dk", seeds, problems, gap)                     # (DRAWS, K)

    def first(gaps):  # index of the first k with the base above; len(ks): none
        return np.where((gaps > 1e-9).any(-1), (gaps > 1e-9).argmax(-1), len(ks))
    names = [*map(str, ks), "none"]
    low, high = np.percentile(first(draws), [2.5, 97.5], method="nearest").astype(int)
    bounds = np.percentile(draws[:, -1], [2.5, 97.5])
    return [f"{names[first(gap.mean((0, 1)))]} [{names[low]}, {names[high]}]",
            "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in (gap.mean((0, 1))[-1], *bounds)))]


def thirds(results, task: str) -> list[tuple]:
    """(name, problems (S, P) in it) by the base's own share of right answers with true steps, seed
    by seed, the easiest first."""
    shares = curves(results, task, BASE, "steps")[..., 0] + 1e-6 * curves(
        results, task, BASE, "answers")[..., 0]  # ties by the answers
    rank = (-shares).argsort(1, kind="stable").argsort(1)
    return [(name, rank * 3 // shares.shape[1] == i)
            for i, name in enumerate(("easy", "middle", "hard"))]


def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page."""
    ks, of, leads, levels, costs = ks_of(results), partial(curves, results), [], [], []
    shown, passes = [ks.index(k) for k in SHOWN if k in ks], []
    for task, policies in results[0].items():
        for policy in policies:
            for measure, title in MEASURES.items():
                if measure not in policies[policy]:
                    continue
                found = of(task, policy, measure)
                passes.append([task, policy, title,
                               *(with_interval(found[..., i].mean(1)) for i in shown)])
                if policy in (BASE, GUESS):
                    continue
                leads.append([task, policy, title, *lead(of(task, BASE, measure), found, ks)])
            if policy == GUESS:
                continue
            found, cells = of(task, policy, "steps"), []
            for _, chosen in thirds(results, task):
                cells += [with_interval([x[rows, i].mean() for x, rows in
                                         zip(found, chosen, strict=True)]) for i in (0, -1)]
            levels.append([task, policy, *cells])
            runs_of = [result[task][policy] for result in results]
            if runs_of[0]["entropy"]:
                costs.append([task, policy, with_interval([x["tokens"] for x in runs_of], 1e-3, 0),
                              *(with_interval([x["entropy"][i] for x in runs_of], 1, 3)
                                for i in (0, -1))])
    ends = [f"pass@{k}" for k in (ks[0], ks[-1])]
    return [("pass@k, in percent", ["task", "policy", "counted", *(f"k = {ks[i]}" for i in shown)],
             passes),
            ("Where does the base overtake?",
             ["task", "against", "counted", "first k with the base above",
              f"lead of the base at k = {ks[-1]}, points"], leads),
            ("By difficulty: thirds of the problems, true steps, in percent",
             ["task", "policy", *(f"{name}: {end}" for name in ("easy", "middle", "hard")
                                  for end in ends)], levels),
            ("The runs", ["task", "policy", "thousand tokens", "entropy, first step, nats",
                          "entropy, last step"], costs)]


def draw(results: list[dict], figure) -> None:
    """A panel for each task: true steps as lines, right answers dotted, the mean over seeds."""
    ks, names = ks_of(results), list(dict.fromkeys(p for task in results[0].values() for p in task))
    panels = figure.subplots(1, len(results[0]), sharey=True, squeeze=False)[0]
    for axes, (task, policies) in zip(panels, results[0].items(), strict=True):
        for policy in policies:
            for measure, style in zip(MEASURES, (":", "-"), strict=True):
                if measure in policies[policy]:
                    axes.plot(ks, 100 * curves(results, task, policy, measure).mean((0, 1)), style,
                              color=f"C{names.index(policy)}",
                              label=policy if style == "-" or policy == GUESS else None)
        axes.set_xscale("log", base=2)
        axes.set(title=task, xlabel="k")
        axes.legend(fontsize=7)
    figure.axes[0].set_ylabel("pass@k, % (dotted: answers; lines: true steps)")
