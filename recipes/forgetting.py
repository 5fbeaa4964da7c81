"""RL's razor: what training on one task does to the base's other tasks, by RL and by SFT.

    python -m recipes.forgetting                 five seeds, about 50 minutes of one core

2509.04259 claims that on-policy RL forgets less than SFT at equal gain, because it moves the policy
less, and that by any method forgetting follows the forward KL on the new task:

    KL(base || policy) = mean over prompts of the new task of E_base[log base(y) / policy(y)]

The base has read sums, and chains modulo 10 in Latin and in Chinese. The new task is the sums,
which it mostly answers at once. Their steps (9*9=81) contradict those of the chains (9*9=1). The
arms train the same base with the same optimizer, and differ in the answers that they learn from:

    GRPO           the policy's own answers, right and wrong ones
    RAFT           its own right answers
    SFT, own       right answers of the base, sampled once
    SFT, corpus    right answers with long working, as the corpus has them
    SFT, foreign   the same in a style that the base has never read: 9*9 is 81
    ..., slow      controls: a fifth of the learning rate

Forgetting is the greedy accuracy that the other tasks lose. Arms are compared at equal accuracy on
the new task, by interpolation along their curves. Left out on purpose: DPO, a KL penalty, and the
usual cure, answers to the other tasks in the training.
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

import copy
import random
from dataclasses import replace
from functools import partial
from itertools import compress
from statistics import mean

import evaluate
import gkd
import sft
from bench.stats import spearman
from grading.languages import CHINESE, LATIN
from recipes import page, runs
from tasks import bilingual, corpus
from tasks.arithmetic import Arithmetic
from tasks.base import several

FLAGS = ("--task bilingual --level 1 --size nano --base-steps 600 --max-new-tokens 96 --steps 40 "
         "--reward accuracy --prompts 16 --group-size 8 --lr 1e-3")
SFT, SLOW = "--algo raft", "--algo raft --lr 2e-4"
ARMS = {  # name -> (flags, the answers to learn from; "": those that it samples)
    "GRPO": ("--algo grpo", ""), "RAFT": ("--algo raft", ""), "SFT, own": (SFT, "own"),
    "SFT, corpus": (SFT, "corpus"), "SFT, foreign": (SFT, "foreign"),
    "SFT, corpus, slow": (SLOW, "corpus"), "SFT, foreign, slow": (SLOW, "foreign")}
GROUPS = {"all": list(ARMS), "RL": ["GRPO", "RAFT"], "SFT": [x for x in ARMS if "SFT" in x]}
POINTS = 1, 2, 3, 5, 8, 12, 18, 27         # steps after which a policy is measured; and the last
PROBLEMS, KL_PROMPTS = 150, 100            # of each task, at each point
PREDICTORS = "forward KL", "reverse KL", "distance"  # the last: of weights, Euclidean


class Chains(bilingual.Bilingual):
    """Chains in one language, told without mistakes."""

    language = LATIN

    def sample_problem(self, rng, held_out):
        problem = super().sample_problem(rng, held_out)
        return replace(problem, question=bilingual.written(problem.key, self.language))

    def document(self, rng, problem, drill=False):
        return bilingual.curated(rng, problem)


class ChineseChains(Chains):
    language = CHINESE


NEW, OTHERS = "sums", ("chains", "Chinese chains")
PARTS = {NEW: Arithmetic(1), "chains": Chains(1), "Chinese chains": ChineseChains(1)}


# --- a seed

def ruler(base, tokenizer, limit: int):
    """The function that measures a policy: greedy accuracy on each task, the KLs between base and
    policy on the new task in nats per response, and the distance of their weights."""
    def sampled(policy):
        return sft.sampled_pairs(evaluate.sample_responses(
            policy, tokenizer, PARTS[NEW].held_out(KL_PROMPTS), seed=1, max_new_tokens=limit)[0])
    of_base = sampled(base)

    def measure(policy) -> dict:
        found = {name: evaluate.greedy_accuracy(policy, tokenizer, part, part.held_out(PROBLEMS),
                                                limit)["value"] for name, part in PARTS.items()}
        change = [p - q for p, q in zip(policy.parameters(), base.parameters(), strict=True)]
        return found | {"others": mean(found[name] for name in OTHERS),
                        "forward KL": gkd.response_kl(base, policy, of_base),
                        "reverse KL": gkd.response_kl(policy, base, sampled(policy)),
                        "distance": sum(float(x.square().sum()) for x in change) ** 0.5}
    return measure


def answers(base, tokenizer, limit: int, rng, count: int) -> dict:
    """The pairs that the SFT arms learn from: answers to `count` problems of the new task; "own"
    has the right ones among the base's."""
    task = PARTS[NEW]
    problems = task.sample(rng, count)
    rollout, texts = evaluate.sample_responses(base, tokenizer, problems, max_new_tokens=limit)
    right = [task.correct(p, t) for p, t in zip(problems, texts, strict=True)]
    found = {"own": list(compress(sft.sampled_pairs(rollout), right))}
    worked = [corpus.write_steps(rng, p.steps, "long", wrong=False)[0] for p in problems]
    for name, between, equals in (("corpus", "\n", "="), ("foreign", ", ", " is ")):
        texts = [corpus.tagged(between.join(lines).replace("=", equals), p.answer)
                 for p, lines in zip(problems, worked, strict=True)]
        found[name] = sft.pairs_from(tokenizer, problems, texts)
    return found


def run_seed(seed: int, folder: Path, args) -> dict:
    """The curve of each arm: a list of measurements, each with its step."""
    flags = f"{FLAGS} {args.flags}"
    base, _, tokenizer, options = runs.start(flags, seed, folder, several(PARTS))
    measure = ruler(base, tokenizer, options.max_new_tokens)
    pairs = answers(base, tokenizer, options.max_new_tokens, random.Random(seed), args.answers)
    first = measure(base) | {"step": 0, "forgotten": 0.0}

    def curve(more: str, source: str) -> list[dict]:
        policy, points, (own, *_) = copy.deepcopy(base), [first], runs.read(f"{flags} {more}", seed)

        def on_step(metrics):
            if metrics["step"] in (*POINTS, own.steps):
                found = measure(policy)
                points.append(found | {"step": metrics["step"],
                                       "forgotten": first["others"] - found["others"]})
        if source:
            runs.supervise(policy, pairs[source], tokenizer, own, on_step)
        else:
            runs.reinforce(policy, PARTS[NEW], tokenizer, own, on_step)
        return points
    return {name: page.kept(folder / f"{name}.json", partial(curve, *arm))
            for name, arm in ARMS.items()}


# --- the page

def at_equal_gain(result: dict) -> dict:
    """Each arm's numbers at the highest accuracy on the new task that all arms of a seed reach."""
    target = min(max(point[NEW] for point in curve) for curve in result.values())
    return {name: page.first_at(curve, NEW, target) for name, curve in result.items()}


def correlations(result: dict, names) -> dict:
    """The rank correlation of PREDICTORS with forgetting, over the points of these arms."""
    points = [point for name in names for point in result[name][1:]]
    lost = [point["forgotten"] for point in points]
    return {key: spearman([point[key] for point in points], lost) for key in PREDICTORS}


def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page."""
    equal = [at_equal_gain(result) for result in results]
    ends = [{name: curve[-1] for name, curve in result.items()} | {"base": result["GRPO"][0]}
            for result in results]
    ranks = [{group: correlations(result, names) for group, names in GROUPS.items()}
             for result in results]

    def rows(found, names, shares=(*PARTS, "others")):
        return [[name, *(page.cell(found, name, key) for key in shares),
                 *(page.cell(found, name, key, 1, 2) for key in PREDICTORS)] for name in names]
    columns = ["arm", *(f"{key}, %" for key in (*PARTS, "others")), *PREDICTORS]
    return [("At equal gain on the new task", columns, rows(equal, ARMS)),
            ("At the end", columns, rows(ends, ["base", *ARMS])),
            ("The other tasks at equal gain", page.DIFFERENCES, page.differences(
                equal, [(name, "GRPO") for name in ARMS if name != "GRPO"], "others")),
            ("Rank correlation with forgetting, over all points of the curves of these arms",
             ["arms", *PREDICTORS], rows(ranks, GROUPS, ()))]


def draw(results: list[dict], figure) -> None:
    """Left: the other tasks against the new one. Right: forgetting against the forward KL."""
    left, right = figure.subplots(1, 2)
    for i, name in enumerate(ARMS):
        for seed, result in enumerate(results):
            new, others, kl, lost = ([point[key] for point in result[name][1:]] for key in (
                NEW, "others", "forward KL", "forgotten"))
            left.plot(new, others, ".-", color=f"C{i}", alpha=0.6)
            right.plot(kl, lost, ".", color=f"C{i}", label="" if seed else name)
    left.set(xlabel="greedy accuracy on the new task", ylabel="on the other tasks")
    right.set(xlabel="KL(base || policy) on the new task, nats per response", xscale="log",
              ylabel="accuracy lost on the other tasks")
    right.legend()


def main(argv=None) -> int:
    return page.main("forgetting", "Forgetting: RL's razor", __doc__, run_seed, tables, draw, argv,
                     [("--answers", 1500, "problems with an answer, for each SFT arm")])


if __name__ == "__main__":
    sys.exit(main())
