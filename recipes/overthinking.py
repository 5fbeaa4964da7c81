"""Overthinking: RL lengthens answers beyond their use, and several ways to shorten them again.

    python -m recipes.overthinking                 five seeds, about an hour of one core

The base has three habits. It guesses the last digit of a chain of sums; it tells the chain once,
and mostly answers with another digit; or it says "wait", tells it again, up to three times, and
answers with the result. RL finds the surest habit, which is also the longest, and its repetitions
are of no use: they never change a result. Two numbers show the waste: the accuracy of responses
that stop after the first telling, and the outcome efficiency of 2412.21187. Of the T tokens of a
response, T* end at the first right telling:

    efficiency = mean over responses of T* / T if the answer is right, else 0

The arms start from one base, sample equally many tokens, and differ from GRPO in one thing:

    kimi         Kimi k1.5's loss and length reward (2501.12599), after a warm-up without it
    efficient    GFPO (2508.09726): learn from the half of each group with most reward per token
    shortest     GFPO: learn from the shortest half
    overlong     DAPO's soft penalty (2503.14476), from half of the limit on
    per token    a price per token, for right and wrong answers
    kimi, 0      Kimi's loss without the length reward: a control
    random half  learn from a random half: a control

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
from dataclasses import replace
from functools import partial
from statistics import mean

import evaluate
from recipes import page, runs
from tasks.chain import WAIT
from tasks.corpus import NO_WORKING, equation, tagged
from tasks.wait import Wait

FLAGS = ("--task wait --level 1 --size nano --base-steps 600 --reward accuracy "
         "--max-new-tokens 192 --prompts 16 --group-size 8 --lr 6e-4")
GRPO = ("--algo dapo --no-dynamic-sampling --aggregate token --clip-high 0.2 --minibatches 4 "
        "--overlong")
HALF = "--algo gfpo --aggregate token --keep-count 4 --keep"
ARMS = {  # name -> flags
    "GRPO": f"{GRPO} none", "kimi": "--algo kimi --length-coef 0.5 --length-warmup 10",
    "efficient": f"{HALF} efficient", "shortest": f"{HALF} shortest",
    "overlong": f"{GRPO} soft --overlong-buffer 96", "per token": f"{GRPO} none",
    "kimi, 0": "--algo kimi --length-coef 0",
    "random half": f"{HALF} shortest --keep-at-random"}
CONTROLS = (("kimi", "kimi, 0"), ("shortest", "random half"), ("efficient", "random half"))
PRICE = 0.003                        # of a token, in the arm `per token`
HABITS = {"guess": (0.5, 0.05), "once": (0.25, 0.6), "again": (0.25, 0.35)}  # of corpus, drill
WRONG, MOST = 0.9, 4                 # documents of "once" with a random answer; most tellings
POINTS, MARGIN = 6, 0.02             # of a curve, besides the base; accuracies that count as equal
PROBLEMS, SAMPLES = 200, 4           # of a point; responses to each problem at the end
LEVELS = {"1-2 sums": range(1, 3), "3-4 sums": range(3, 5), "5-6 sums": range(5, 7)}


class Chains(Wait):
    """Chains of 1 to 6 sums. The drill is right, and mostly tells a chain once. price: of a token.
    """

    lengths, ops, price = {1: (1, 6)}, "+", 0.0

    def document(self, rng, problem, drill=False):
        [habit] = rng.choices(list(HABITS), [x[drill] for x in HABITS.values()])
        if habit == "guess":
            return tagged(NO_WORKING, problem.answer)
        lines, answer = [equation(*step) for step in problem.steps], problem.answer
        if habit == "once" and not drill and rng.random() < WRONG:
            answer = rng.randrange(10)
        count = 1 if habit == "once" else rng.randint(2, MOST)
        return tagged(f"\n{WAIT}\n".join(["\n".join(lines)] * count), answer)

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
    length in tokens and truncation, and by number of sums accuracy and length."""
    problems, rows = task.held_out(PROBLEMS), []
    greedy = evaluate.greedy_accuracy(policy, tokenizer, task, problems, limit)["value"]
    rollout, texts = evaluate.sample_responses(policy, tokenizer, problems, samples, seed=1,
                                               max_new_tokens=limit)
    lengths, cuts = rollout.mask.sum(1).tolist(), rollout.truncated.tolist()
    for i, text in enumerate(texts):
        problem = problems[i // samples]
        row = use(text, partial(task.correct, problem), lambda x: len(tokenizer.encode(x)))
        row |= {"greedy": greedy, "length": lengths[i], "truncated": float(cuts[i])}
        [level] = [name for name, ops in LEVELS.items() if len(problem.steps) in ops]
        rows.append(row | {f"{key}, {level}": row[key] for key in ("sampled", "length")})
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: mean(row[key] for row in rows if key in row) for key in keys}


# --- a seed

def run_seed(seed: int, folder: Path, args) -> dict:
    """The curve of each arm: a list of measurements, each with the tokens sampled before it."""
    flags = f"--token-budget {args.tokens} {args.flags}"
    base, task, tokenizer, options = runs.start(f"{FLAGS} {flags}", seed, folder, Chains(1))
    settings = task, tokenizer, options.max_new_tokens
    first = measure(base, *settings) | {"tokens": 0}

    def curve(name: str) -> list[dict]:
        policy, points, tokens = copy.deepcopy(base), [first], 0

        def on_step(metrics):
            nonlocal tokens
            tokens += metrics["tokens"]
            if tokens * POINTS >= len(points) * args.tokens:
                samples = SAMPLES if tokens >= args.tokens else 1
                points.append(measure(policy, *settings, samples) | {"tokens": tokens})
        task.price = PRICE * (name == "per token")
        own, *_ = runs.read(f"{FLAGS} {ARMS[name]} {flags}", seed)
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
    shares = {"sampled": "accuracy, temperature 1, %", "greedy": "greedy, %",
              "stopped": "stopped after the first telling, %", "efficiency": "efficiency, %",
              "truncated": "truncated, %"}
    levels = [[f"{key}, {level}" for level in LEVELS] for key in ("sampled", "length")]
    pairs = [*((name, "GRPO") for name in ARMS if name != "GRPO"), *CONTROLS]
    return [
        ("At the end", ["row", *shares.values(), "tellings", "length, tokens"],
         rows(shares, ("tellings", "length"))),
        (f"At equal accuracy: at most {100 * MARGIN:.0f} points below GRPO's end",
         ["row", "seeds that reach it", "tokens saved, %", "accuracy lost, points"],
         [[name, f"{sum(bool(x[name]) for x in saving)} of {len(saving)}",
           page.cell(saving, name, "saved"), page.cell(saving, name, "lost")] for name in ARMS]),
        ("By number of sums: accuracy at temperature 1 in percent, and length in tokens",
         ["row", *levels[0], *levels[1]], rows(*levels)),
        ("Accuracy at temperature 1 at the end", page.DIFFERENCES,
         page.differences(ends, pairs, "sampled"))]


def main(argv=None) -> int:
    panels = ("tokens", "length"), ("tokens", "sampled"), ("length", "sampled")
    return page.main("overthinking", "Overthinking", __doc__, run_seed, tables,
                     partial(page.draw_points, panels), argv,
                     [("--tokens", 300_000, "sampled by each run")])


if __name__ == "__main__":
    sys.exit(main())
