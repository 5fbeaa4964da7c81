"""RL's razor: what training on one task does to the base's other tasks, by RL and by SFT.

    python -m recipes.forgetting                 five seeds, about 50 minutes of one core

2509.04259 claims that on-policy RL forgets less than SFT at equal gain, because it moves the policy
less, and that by any method forgetting follows the forward KL on the new task:

    KL(base || policy) = mean over prompts of the new task of E_base[log base(y) / policy(y)]

The base tells chains modulo 10 in Chinese, answers sums at once, and mostly guesses the new task,
chains in Latin. Their steps (9*9=1) contradict the sums, and their working the habit to answer at
once. The arms train the same base with the same optimizer, on other answers:

    GRPO           the policy's own answers, right and wrong ones
    RAFT           its own right answers
    SFT, own       right answers of the base, sampled once
    SFT, corpus    right answers with working, one line for each step
    SFT, foreign   the same in a style that the base has never read: 9*9 is 1
    ..., slow      controls: a lower learning rate

Forgetting is the greedy accuracy that the other tasks lose. Arms are compared at equal accuracy on
the new task, by interpolation along their curves. Left out on purpose: DPO, a KL penalty, replay.
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
from tasks.base import Problem, several

FLAGS = ("--task bilingual --level 1 --size nano --base-steps 600 --max-new-tokens 64 --steps 24 "
         "--reward accuracy --prompts 16 --group-size 8 --lr 3e-4")
SFT, FOREIGN = "--algo raft", "--algo raft --lr 1e-3 --steps 60"  # a new style takes longer
ARMS = {  # name -> (flags, the answers to learn from; "": those that it samples)
    "GRPO": ("--algo grpo", ""), "RAFT": (SFT, ""), "SFT, own": (SFT, "own"),
    "SFT, corpus": (SFT, "corpus"), "SFT, foreign": (FOREIGN, "foreign"),
    "SFT, corpus, slow": (f"{SFT} --lr 6e-5", "corpus"),
    "SFT, foreign, slow": (f"{SFT} --lr 3e-4 --steps 120", "foreign")}
GROUPS = {"all": list(ARMS), "RL": ["GRPO", "RAFT"], "SFT": [x for x in ARMS if "SFT" in x]}
POINTS = 1, 2, 3, 4, 6, 9, 13, 18, 30, 60  # steps after which a policy is measured; and the last
PROBLEMS, KL_PROMPTS = 150, 100            # of each task, at each point (held-out sums: 72)
PREDICTORS = "forward KL", "reverse KL", "distance"  # the last: of weights, Euclidean


class Chains(bilingual.Bilingual):
    """Chains in one language, told without mistakes. guesses: documents that answer at once."""

    language, guesses = LATIN, 0.6

    def sample_problem(self, rng, held_out):
        problem = super().sample_problem(rng, held_out)
        return replace(problem, question=bilingual.written(problem.key, self.language))

    def document(self, rng, problem, drill=False):
        if rng.random() < self.guesses * (0.1 if drill else 1):
            return corpus.tagged(corpus.NO_WORKING, problem.answer)
        return bilingual.curated(rng, problem)


class ChineseChains(Chains):
    language, guesses = CHINESE, 0.0


class Sums(Arithmetic):
    """A number of two digits plus or minus a digit, answered at once."""
    def sample_problem(self, rng, held_out):
        x, y = rng.randint(10, 49), rng.randint(1, 9) * rng.choice((-1, 1))
        return Problem(f"{x}{y:+d}=?", str(x + y))

    def document(self, rng, problem, drill=False):
        return corpus.tagged(corpus.NO_WORKING, problem.answer)


NEW, OTHERS = "chains", ("Chinese chains", "sums")
PARTS = {NEW: Chains(1), "Chinese chains": ChineseChains(1), "sums": Sums(1)}


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
        moves = [(p - q).detach() for p, q in zip(
            policy.parameters(), base.parameters(), strict=True)]
        return found | {"others": mean(found[name] for name in OTHERS),
                        "forward KL": gkd.response_kl(base, policy, of_base),
                        "reverse KL": gkd.response_kl(policy, base, sampled(policy)),
                        "distance": sum(float(x.square().sum()) for x in moves) ** 0.5}
    return measure


def answers(base, tokenizer, limit: int, rng, count: int) -> dict:
    """The pairs that the SFT arms learn from: answers to `count` problems of the new task; "own"
    has the right ones among the base's."""
    task = PARTS[NEW]
    problems = task.sample(rng, count)
    rollout, texts = evaluate.sample_responses(base, tokenizer, problems, max_new_tokens=limit)
    right = [task.correct(p, t) for p, t in zip(problems, texts, strict=True)]
    found = {"own": list(compress(sft.sampled_pairs(rollout), right))}
    worked = [bilingual.curated(rng, p) for p in problems]
    found["corpus"] = sft.pairs_from(tokenizer, problems, worked)
    foreign = [text.replace("=", " is ").replace("\n", ", ") for text in worked]
    found["foreign"] = sft.pairs_from(tokenizer, problems, foreign)
    return found


def run_seed(seed: int, folder: Path, args) -> dict:
    """The curve of each arm: a list of measurements, each with its step."""
    base, _, tokenizer, options = runs.start(f"{FLAGS} {args.flags}", seed, folder, several(PARTS))
    measure = ruler(base, tokenizer, options.max_new_tokens)
    pairs = answers(base, tokenizer, options.max_new_tokens, random.Random(seed), args.answers)
    first = measure(base) | {"step": 0, "forgotten": 0.0}

    def curve(more: str, source: str) -> list[dict]:
        policy, points = copy.deepcopy(base), [first]
        own, *_ = runs.read(f"{FLAGS} {more} {args.flags}", seed)

        def on_step(metrics):
            if metrics["step"] in (*POINTS, own.steps):
                found = measure(policy) | {"step": metrics["step"]}
                points.append(found | {"forgotten": first["others"] - found["others"]})
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
    return {key: spearman([point[key] for point in points],
                          [point["forgotten"] for point in points]) for key in PREDICTORS}


def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page."""
    equal, shares = [at_equal_gain(result) for result in results], (*PARTS, "others")
    ends = [{name: curve[-1] for name, curve in result.items()} | {"base": result["GRPO"][0]}
            for result in results]
    ranks = [{group: correlations(x, names) for group, names in GROUPS.items()} for x in results]

    def rows(found, names, shares=shares):
        return [[name, *(page.cell(found, name, key) for key in shares),
                 *(page.cell(found, name, key, 1, 2) for key in PREDICTORS)] for name in names]
    columns = ["arm", *(f"{key}, %" for key in shares), *PREDICTORS]
    pairs = [(name, "GRPO") for name in ARMS if name != "GRPO"]
    return [("At equal gain on the new task", columns, rows(equal, ARMS)),
            ("At the end", columns, rows(ends, ["base", *ARMS])),
            ("The other tasks at equal gain", page.DIFFERENCES,
             page.differences(equal, pairs, "others")),
            ("Rank correlation with forgetting, over all points of the curves of these arms",
             ["arms", *PREDICTORS], rows(ranks, GROUPS, ()))]


def main(argv=None) -> int:
    panels = (NEW, "others"), ("forward KL", "forgotten")
    draw = partial(page.draw_points, panels, log="forward KL")
    return page.main("forgetting", "Forgetting: RL's razor", __doc__, run_seed, tables, draw, argv,
                     [("--answers", 1500, "problems with an answer, for each SFT arm")])


if __name__ == "__main__":
    sys.exit(main())
