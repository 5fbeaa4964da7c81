"""Overthinking: RL lengthens answers beyond their use, and several ways to shorten them again.

    python -m recipes.overthinking                 five seeds, about an hour of one core

The base tells a chain of operations with slips. Some documents of its corpus then say "wait" and
tell it again, until two tellings agree or longer. So telling it again pays, and RL teaches it. RL
also removes the slips, and then the further tellings are of no use. Two numbers show the waste: the
accuracy of responses that stop after the first telling, and the outcome efficiency of 2412.21187.
Of T tokens of a response, T* end at the first right telling:

    efficiency = mean over responses of T* / T if the answer is right, else 0

The arms start from one base, sample equally many tokens, and differ from GRPO in one thing:

    overlong     DAPO's soft penalty (2503.14476), from half of the limit on
    kimi         Kimi k1.5's loss and length reward (2501.12599), after a warm-up without it
    kimi, 0      the same loss without the length reward: its control
    shortest     GFPO (2508.09726): learn from the shortest half of each group
    efficient    GFPO: learn from the half with the most reward per token
    random half  learn from a random half: GFPO's control
    per token    reward minus a price per token, for right and wrong answers: a control

Tokens are saved at equal accuracy: of each arm's curve, the point with the shortest responses whose
accuracy is at most MARGIN below GRPO's at the end. Left out on purpose: GFPO's number of kept
responses by difficulty, and rewards with a target length.
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

import copy
import itertools
from dataclasses import replace
from functools import partial
from statistics import mean

import evaluate
from recipes import page, runs
from tasks.chain import WAIT, last_digit
from tasks.corpus import equation, tagged
from tasks.wait import Wait

FLAGS = ("--task wait --level 1 --size nano --base-steps 450 --reward accuracy "
         "--max-new-tokens 256 --prompts 16 --group-size 8 --lr 6e-4")
GRPO = "--algo dapo --no-dynamic-sampling --overlong none --aggregate sequence --clip-high 0.2"
GRPO += " --minibatches 4"
HALF = "--algo gfpo --keep-count 4 --keep"
ARMS = {  # name -> flags
    "GRPO": GRPO, "overlong": f"{GRPO} --overlong soft --overlong-buffer 128",
    "kimi": "--algo kimi --length-coef 0.5 --length-warmup 10",
    "kimi, 0": "--algo kimi --length-coef 0",
    "shortest": f"{HALF} shortest", "efficient": f"{HALF} efficient",
    "random half": f"{HALF} shortest --keep-at-random", "per token": GRPO}
CONTROLS = (("kimi", "kimi, 0"), ("shortest", "random half"), ("efficient", "random half"))
PRICE = 0.003                     # of a token, for the arm `per token`
SLIPS, FEWER_SLIPS = 0.12, 0.02   # share of lines with a slip in the first telling, and in others
CAREFUL, AGAIN, MOST = 0.4, 0.3, 5   # share of documents that tell the chain until two tellings
#                                   agree; chance of one more telling after that; most tellings
POINTS, MARGIN = 8, 0.02          # of a curve, besides the base; accuracies that count as equal
PROBLEMS, SAMPLES = 300, 4        # of each point; responses to each problem at the end
LEVELS = {"1-3 operations": range(1, 4), "4-6": range(4, 7), "7-8": range(7, 9)}


class Chains(Wait):
    """Chains of 1 to 8 operations. price: what a token of a response costs."""

    lengths = {1: (1, 8)}

    def __init__(self, level=1, price=0.0):
        super().__init__(level)
        self.price = price

    def document(self, rng, problem, drill=False):
        def tell(rate):
            lines, value = [], problem.steps[0][0]
            for _, op, y, _ in problem.steps:
                slip = rng.randint(1, 9) if rng.random() < rate else 0
                lines.append(equation(value, op, y, (last_digit(value, op, y) + slip) % 10))
                value = int(lines[-1][-1])
            return "\n".join(lines)
        tellings, careful = [tell(FEWER_SLIPS if drill else SLIPS)], rng.random() < CAREFUL
        while careful and len(tellings) < MOST and (
                [x[-1] for x in tellings[-2:]] != 2 * [tellings[-1][-1]] or rng.random() < AGAIN):
            tellings.append(tell(FEWER_SLIPS))
        return tagged(f"\n{WAIT}\n".join(tellings), tellings[-1][-1])

    def score(self, problem, text, reward="correct", uniform=0.0, tokens=(), group=()):
        found = super().score(problem, text, reward, uniform, tokens, group)
        return replace(found, total=found.total - self.price * len(tokens))


# --- how much of a response is of use

def stopped(text: str, count: int) -> str:
    """The response, had it stopped after `count` tellings: the answer is then the last result."""
    tellings = text.partition("</think>")[0].removeprefix("<think>").split(f"\n{WAIT}\n")
    if len(tellings) <= count:
        return text
    return tagged(f"\n{WAIT}\n".join(tellings[:count]), tellings[count - 1].rpartition("=")[2])


def use(text: str, is_right, length) -> dict:
    """How much of a response is of use. is_right and length are functions of a text."""
    tellings = 1 + text.partition("</think>")[0].count(f"\n{WAIT}\n")
    cuts = [stopped(text, count) for count in range(1, tellings + 1)]
    first = next((cut for cut in cuts if is_right(cut)), None) if is_right(text) else None
    return {"sampled": float(is_right(text)), "stopped": float(is_right(cuts[0])),
            "tellings": tellings, "efficiency": length(first) / length(text) if first else 0.0}


def measure(policy, task, tokenizer, limit: int, samples: int = 1) -> dict:
    """Greedy accuracy. And of `samples` responses to each problem at temperature 1: means of `use`,
    length in tokens and truncation, and by number of operations accuracy and length."""
    problems, rows = task.held_out(PROBLEMS), []
    greedy = evaluate.greedy_accuracy(policy, tokenizer, task, problems, limit)
    rollout, texts = evaluate.sample_responses(policy, tokenizer, problems, samples, seed=1,
                                               max_new_tokens=limit)
    for i, (text, count, cut) in enumerate(zip(texts, rollout.mask.sum(1).tolist(),
                                               rollout.truncated.tolist(), strict=True)):
        problem = problems[i // samples]
        row = use(text, partial(task.correct, problem), lambda x: len(tokenizer.encode(x)))
        row |= {"length": count, "truncated": float(cut)}
        [level] = [name for name, ops in LEVELS.items() if len(problem.steps) in ops]
        rows.append(row | {f"{key}, {level}": row[key] for key in ("sampled", "length")})
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: mean(row[key] for row in rows if key in row) for key in keys} | {
        "greedy": greedy["value"]}


# --- a seed

def run_seed(seed: int, folder: Path, args) -> dict:
    """The curve of each arm: a list of measurements, each with the tokens sampled before it."""
    flags = f"{FLAGS} --token-budget {args.tokens} {args.flags}"
    base, _, tokenizer, options = runs.start(flags, seed, folder, Chains())

    def curve(name: str) -> list[dict]:
        policy, task = copy.deepcopy(base), Chains(price=PRICE if name == "per token" else 0.0)
        look = partial(measure, policy, task, tokenizer, options.max_new_tokens)
        points, tokens = [look() | {"tokens": 0}], 0

        def on_step(metrics):
            nonlocal tokens
            tokens += metrics["tokens"]
            if tokens * POINTS >= len(points) * args.tokens:
                points.append(look(SAMPLES if tokens >= args.tokens else 1) | {"tokens": tokens})
        own, *_ = runs.read(f"{flags} {ARMS[name]}", seed)
        runs.reinforce(policy, task, tokenizer, own, on_step)
        return points
    return {name: page.kept(folder / f"{name}.json", partial(curve, name)) for name in ARMS}


# --- the page

def saved(result: dict, name: str) -> dict:
    """What an arm saves at equal accuracy: {} where no point of its curve is as accurate."""
    end = result["GRPO"][-1]
    equal = [point for point in result[name] if point["sampled"] >= end["sampled"] - MARGIN]
    if not equal:
        return {}
    best = min(equal, key=lambda point: point["length"])
    return {"saved": 1 - best["length"] / end["length"],
            "lost": end["sampled"] - best["sampled"]}


def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page."""
    ends = [{name: curve[-1] for name, curve in result.items()} | {"base": result["GRPO"][0]}
            for result in results]
    saving = [{name: saved(result, name) for name in ARMS} for result in results]

    def rows(keys, more):
        return [[name, *(page.cell(ends, name, key) for key in keys),
                 *(page.cell(ends, name, key, 1, 1) for key in more)] for name in ("base", *ARMS)]
    by_level = [[f"{key}, {level}" for level in LEVELS] for key in ("sampled", "length")]
    shares = {"sampled": "accuracy, temperature 1, %", "greedy": "greedy, %",
              "stopped": "stopped after the first telling, %", "efficiency": "efficiency, %",
              "truncated": "truncated, %"}
    pairs = [*((name, "GRPO") for name in ARMS if name != "GRPO"), *CONTROLS]
    return [
        ("At the end", ["row", *shares.values(), "tellings", "length, tokens"],
         rows(shares, ("tellings", "length"))),
        (f"At equal accuracy: at most {100 * MARGIN:.0f} points below GRPO's end",
         ["row", "seeds that reach it", "tokens saved, %", "accuracy lost, points"],
         [[name, f"{sum(bool(x[name]) for x in saving)} of {len(saving)}",
           page.cell(saving, name, "saved"), page.cell(saving, name, "lost")] for name in ARMS]),
        ("By number of operations: accuracy at temperature 1, and length in tokens",
         ["row", *(f"accuracy, {x}, %" for x in LEVELS), *(f"length, {x}" for x in LEVELS)],
         rows(*by_level)),
        ("Accuracy at temperature 1 at the end", page.DIFFERENCES,
         page.differences(ends, pairs, "sampled"))]


def draw(results: list[dict], figure) -> None:
    """Length and accuracy over sampled tokens, and accuracy against length: means over seeds."""
    labels = {"tokens": "sampled tokens", "length": "tokens per response",
              "sampled": "accuracy at temperature 1"}
    for axes, (x, y) in zip(figure.subplots(1, 3), itertools.combinations(labels, 2), strict=True):
        for name in ARMS:
            points = list(zip(*(result[name] for result in results), strict=False))
            axes.plot(*([mean(p[key] for p in point) for point in points] for key in (x, y)), ".-",
                      label=name)
        axes.set(xlabel=labels[x], ylabel=labels[y])
    axes.legend()


def main(argv=None) -> int:
    return page.main("overthinking", "Overthinking", __doc__, run_seed, tables, draw, argv,
                     [("--tokens", 250_000, "sampled by each run")])


if __name__ == "__main__":
    sys.exit(main())
