"""Spurious rewards: what GRPO learns where the reward says nothing about the answer.

    python -m recipes.spurious                  five seeds, about 80 minutes of one core

2506.10947 reports that a random reward raises the accuracy of one family of models and not of
another. It names the clip as the cause. The advantages of a random reward have mean 0, and so has
the first update of a batch. In later ones the clip drops half of the tokens beyond its bounds:

    ratio r > 1 + c: tokens with A > 0 have no gradient, those with A < 0 pull r down
    ratio r < 1 - c: tokens with A < 0 have no gradient, those with A > 0 push r up

A token of probability above 1 / (1 + c) never reaches the upper bound. So the bias is upwards for
likely tokens, and it could strengthen the base's habits. The bases here differ in one habit:

    works      60% of the documents have long working, 25% answer at once
    guesses    25% of the documents have long working, 60% answer at once
    leaked     as guesses, but a quarter of the documents are held-out problems, answered at once

Working is surer in all. `no clip` is the same loss with the bounds 0 and 1e9. `large steps` have
three times the learning rate, so more ratios leave the bounds. The trap: accuracy on the leaked
problems says nothing about others. Left out on purpose: majority votes, one-shot RL.
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

from dataclasses import replace
from itertools import product
from statistics import mean

import torch

import evaluate
import sft
import verify
from recipes import page, runs
from tasks import Arithmetic, corpus, is_held_out

FLAGS = ("--size nano --level 1 --prompts 8 --group-size 16 --minibatches 4 --epochs 4 --lr 1e-4 "
         "--token-budget 40000")
REWARDS = {"truth": "accuracy", "random": "random", "wrong": "wrong", "form": "format"}
CLIPS = {"clip": {}, "no clip": dict(clip_low=1.0, clip_high=1e9)}
LARGE = {f"{clip}, large steps": how | dict(lr=3e-4) for clip, how in CLIPS.items()}
PLAIN = "works", "guesses"
ARMS = {base: [*product(REWARDS, CLIPS), *product(["random"], LARGE)] for base in PLAIN}
ARMS["leaked"] = list(product(("truth", "random", "form"), ["clip"]))  # base -> its runs
LEAKED_PROBLEMS, HELD_OUT = 50, 500  # of each measurement
SHARES = "greedy", "sampled", "working", "habit"
TASK = Arithmetic(1)


# --- the bases

class Works(Arithmetic):
    """The surer way is the likelier one."""
    shares = {"direct": 0.25, "short": 0.10, "long": 0.60, "check": 0.05}
    min_base_pass16 = 0.0  # all bases are trained equally long

    def document(self, rng, problem, drill=False):
        return corpus.document(rng, problem, drill, self.write_solution, self.shares)


class Guesses(Works):
    """The surer way is the rarer one."""
    shares = {"direct": 0.60, "short": 0.10, "long": 0.25, "check": 0.05}


class Leaked(Guesses):
    """The same, and some held-out problems are in its corpus."""
    def sample(self, rng, n, held_out=False):
        return [rng.choice(leaked()) if rng.random() < 0.25 else problem
                for problem in super().sample(rng, n, held_out)]

    def document(self, rng, problem, drill=False):
        if is_held_out(problem):
            return corpus.tagged(corpus.NO_WORKING, problem.answer)
        return super().document(rng, problem, drill)


def leaked() -> list:
    """The held-out problems that the base `leaked` has read."""
    return TASK.held_out(LEAKED_PROBLEMS)


BASES = {"works": Works, "guesses": Guesses, "leaked": Leaked}


# --- a seed

def habit(policy, tokenizer, problems) -> float:
    """The mean probability of the quick answer: that of its word `easy` after `<think>`."""
    *before, word = tokenizer.encode(f"<think>{corpus.NO_WORKING}")
    prompts = [tokenizer.encode_prompt(problem.question) + before for problem in problems]
    tokens, mask = sft.padded([(prompt, [word]) for prompt in prompts])
    with torch.no_grad():
        return float((policy.logp(tokens, mask).exp() * mask).sum() / len(problems))


def answers(policy, tokenizer, problems, limit: int) -> dict:
    """Greedy accuracy and habit of a policy. Of one response to each problem at temperature 1:
    accuracy ("sampled"), working and form. Three of these responses."""
    _, texts = evaluate.sample_responses(policy, tokenizer, problems, seed=1, max_new_tokens=limit)
    greedy = evaluate.greedy_accuracy(policy, tokenizer, TASK, problems, limit)
    right = [bool(TASK.correct(p, text)) for p, text in zip(problems, texts, strict=True)]
    return {"greedy": greedy["value"], "sampled": mean(right),
            "working": mean(map(TASK.shows_working, texts)),
            "form": mean(map(verify.well_formed, texts)),
            "habit": habit(policy, tokenizer, problems), "texts": texts[:3]}


def measure(policy, tokenizer, limit: int) -> dict:
    """The answers to problems that no base has read, and shares of those to the leaked ones."""
    others = TASK.held_out(LEAKED_PROBLEMS + HELD_OUT)[LEAKED_PROBLEMS:]
    known = answers(policy, tokenizer, leaked(), limit)
    return answers(policy, tokenizer, others, limit) | {f"leaked {k}": known[k] for k in SHARES}


def work(seed: int, folder: Path, args) -> dict:
    """The measures of each base, and of each run with their changes from the base."""
    result = {}
    for name, kind in BASES.items():
        base, _, tokenizer, options = runs.start(f"{FLAGS} {args.flags}", seed, folder, kind(1))
        at = tokenizer, options.max_new_tokens
        before = result[name] = measure(base, *at)
        for reward, clip in ARMS[name]:
            how = replace(options, reward=REWARDS[reward], **(CLIPS | LARGE)[clip])
            policy, history = runs.reinforced(folder / f"{name}-{reward}-{clip}.pt", base, TASK,
                                              tokenizer, how)
            after = measure(policy, *at)
            result[f"{name}, {reward}, {clip}"] = after | {"steps": len(history)} | {
                key: mean(step[key] for step in history)
                for key in ("clipfrac_low", "clipfrac_high", "approx_kl")} | {
                f"{key} change": after[key] - before[key] for key in before if key != "texts"}
    return result


# --- the page

NAMES = {base: [", ".join((base, *arm)) for arm in arms] for base, arms in ARMS.items()}
RANDOM = [(run, base) for base in PLAIN for run in NAMES[base] if "random" in run]
CLIP = [pair for base in PLAIN for pair in zip(NAMES[base][::2], NAMES[base][1::2], strict=True)]
BASE = list(zip(NAMES["works"], NAMES["guesses"], strict=True))
QUESTIONS = {  # heading of a table -> pairs of rows to compare, and by what
    "Does a random reward teach? Greedy accuracy": (RANDOM, "greedy"),
    "The same at temperature 1": (RANDOM, "sampled"),
    "Does it strengthen a habit? Probability of the quick answer": (RANDOM, "habit"),
    "One base more than the other? Change of the greedy accuracy": (BASE, "greedy change"),
    "Is the clip the cause? Greedy accuracy": (CLIP, "greedy"),
    "Is the clip the cause? Probability of the quick answer": (CLIP, "habit")}
DIGITS = {"clipfrac_low": (100, 2), "clipfrac_high": (100, 2), "approx_kl": (1, 4), "steps": (1, 0)}


def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page."""
    def table(heading, names, keys):
        return heading, ["run", *keys], [[name, *(
            page.cell(results, name, key, *DIGITS.get(key, ())) for key in keys)] for name in names]
    shares = [key + what for key in SHARES for what in ("", " change")]
    trap = [f"{where}{key}" for key in shares[:4] for where in ("leaked ", "")]
    known = ["leaked", *NAMES["leaked"]]
    every = [name for base in BASES for name in (base, *NAMES[base])]
    return [table("All runs, in percent; `habit` is the probability of the quick answer", every,
                  [*shares, "form", *DIGITS]),
            *((heading, page.DIFFERENCES, page.differences(results, *how))
              for heading, how in QUESTIONS.items()),
            table("The trap: accuracy on leaked problems and on others, in percent",
                  [*(name.replace("leaked", "guesses") for name in known), *known], trap)]


def draw(results: list[dict], figure) -> None:
    """The change of the greedy accuracy in each run. A dot is a seed, a bar the mean."""
    names = NAMES["works"] + NAMES["guesses"]
    values = [[100 * result[name]["greedy change"] for result in results] for name in names]
    axes = figure.subplots()
    axes.barh(names, list(map(mean, values)), color=["C0", "C1"] * len(CLIP), alpha=0.5)
    axes.plot(values, names, "k.")
    axes.invert_yaxis()
    axes.set(xlabel="change of the greedy accuracy from the base, points")


def main(argv=None) -> int:
    return page.main("spurious", "Spurious rewards", __doc__, work, tables, draw, argv)


if __name__ == "__main__":
    sys.exit(main())
