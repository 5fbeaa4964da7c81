"""Parts 1 to 3 of recipes/judge.py: a verifier on another task, biases of a judge, ways to ask it.

The measures, of responses whose quality a program knows:

    accuracy   share of verdicts that are right                    best    accuracy of the sample
    auc        P(a right response has a higher score than a wrong one)     with the highest score
    mean       probability that the liked one of two equal answers wins, over both orders

Papers: generative verifiers 2408.15240, biases of a judge 2306.05685, rubrics 2507.17746.
"""

import random
from functools import partial
from pathlib import Path
from statistics import mean

import evaluate
import model as gpt
import verify
from infra import tensors
from recipes import hacks, runs
from recipes.judge_model import (
    Panel,
    ask,
    chain_lesson,
    check_prompt,
    compare,
    prompt,
    train_judge,
)
from tasks import Chain, oracle, writing

CHAIN = "--task chain --level 2 --size nano"
LEVELS = {"short chains": 1, "longer chains": 2}  # where the verifier learned, and where not
SAMPLES, VOTES = 8, 4                             # samples of a problem; votes of the verifier


def kept_model(path: Path, make) -> gpt.GPT:
    """The model of make(). It is kept in the file `path`, and read from it the next time."""
    if not path.exists():
        tensors.save(path, gpt.to_state(make()))
    return gpt.from_state(tensors.load(path))


def sample(policy, tokenizer, problems, n: int, seed: int, limit: int) -> list[tuple]:
    """(problem, n texts) of each problem."""
    return list(evaluate.sample_each(policy, tokenizer, problems, n, seed, limit))


# --- 1. a verifier on another task

def verifiers(seed: int, folder: Path, args) -> dict:
    """result["VERIFIER, TASK"]: accuracy of the verdicts, AUC, and accuracy of the best sample."""
    base, task, tokenizer, options = runs.start(f"{CHAIN} {args.flags}", seed, folder)
    draw_samples = partial(sample, base, tokenizer, n=SAMPLES, seed=seed,
                           limit=options.max_new_tokens)
    # 1. lessons: as many right samples as wrong ones (a lesson that contradicts itself is None)
    rng, short = random.Random(f"lessons {seed}"), Chain(1)
    rows = [(problem, text, bool(short.correct(problem, text))) for problem, texts in draw_samples(
        problems=short.sample(rng, args.problems)) for text in texts]
    judges = {}
    for name, reasons in (("with reasons", True), ("verdict alone", False)):
        lessons = {right: [lesson for row in rows if row[2] == right
                           and (lesson := chain_lesson(*row, reasons))] for right in (True, False)}
        judges[name] = kept_model(folder / f"verifier {name}.pt", partial(
            train_judge, base, tokenizer, partial(balanced, lessons),
            args.verifier_steps, seed))
    # 2. measures on held-out problems
    tested = {where: draw_samples(problems=Chain(level).held_out(args.held_out))
              for where, level in LEVELS.items()}
    tested["bad habits"] = told_badly(args.held_out)
    result = {}
    for where, rows in tested.items():
        result[f"with reasons, {where}"] = measure_verifier(
            judges["with reasons"], tokenizer, rows, 1)
        result[f"with reasons, {where}, {VOTES} votes"] = measure_verifier(
            judges["with reasons"], tokenizer, rows, VOTES)
        result[f"verdict alone, {where}"] = measure_verifier(
            judges["verdict alone"], tokenizer, rows, 1)
    return result


def told_badly(n: int) -> list[tuple]:
    """(problem, documents) of n held-out problems of recipes/hacks.py: chains without working, with
    a claim of a check, or with a line that is said again and again."""
    task, rng = hacks.Chain(), random.Random("bad habits")
    return [(problem, [text for _ in range(SAMPLES)
                       if verify.well_formed(text := task.document(rng, problem))])
            for problem in task.held_out(n)]


def balanced(lessons: dict[bool, list], rng):
    """A lesson of a right sample, or, as often, one of a wrong sample, where there are both."""
    return rng.choice(lessons[rng.random() < 0.5] or lessons[True] + lessons[False])


def measure_verifier(judge, tokenizer, tested, votes: int) -> dict:
    """The measures of a verifier on (problem, texts). "sampled": without the verifier."""
    prompts = [[check_prompt(problem.question, text) for text in texts]
               for problem, texts in tested]
    said = ask(judge, tokenizer, sum(prompts, []), votes=votes)
    scores = [[said[each][0] for each in row] for row in prompts]
    right = [[bool(Chain.correct(problem, text)) for text in texts] for problem, texts in tested]
    best = [truths[max(range(len(row)), key=lambda i, row=row: row[i])]
            for row, truths in zip(scores, right, strict=True)]
    scores, right = sum(scores, []), sum(right, [])
    return {"accuracy": mean((s > 0.5) == r for s, r in zip(scores, right, strict=True)),
            "auc": oracle.auc(scores, right), "best": mean(best), "sampled": mean(right)}


# --- 2. biases and 3. calls

def win_rate(margins) -> float:
    """The share of margins above 0. A margin of 0 counts half."""
    return mean((x > 0) + (x == 0) / 2 for x in margins)


def liking(prefers, problems, bias: str) -> dict:
    """How often the liked one of two equal responses wins: the mean probability ("mean"), and the
    share of pairs where it is above 1/2 ("above"). prefers(rows): the probability that a wins, for
    each (problem, a, b)."""
    rng = random.Random("equal pairs")
    rows = [(problem, *writing.equal_pairs(rng, problem)[bias]) for problem in problems]
    forward, back = prefers(rows), prefers([(p, b, a) for p, a, b in rows])
    wins = [(x + 1 - y) / 2 for x, y in zip(forward, back, strict=True)]  # over both orders
    if bias == "position":  # the first one is the liked one
        wins = forward + back
    return {"mean": mean(wins), "above": win_rate(x - 0.5 for x in wins)}


def prefers(judge, tokenizer, rows, seed: int = 0) -> list[float]:
    """The probability that the judge prefers a to b, for each (problem, a, b)."""
    prompts = [prompt("compare", problem.question, a, b) for problem, a, b in rows]
    said = compare(judge, tokenizer, prompts, seed=seed)
    return [said[each][0] for each in prompts]


def accuracy_of_calls(judge, tokenizer, tested, rubric) -> dict:
    """method -> {"calls": judgements for a pair, "accuracy": share of pairs in which the judge and
    the gold agree}; for one order also "changed": share of pairs whose winner is another one
    in the other order. tested: (problem, a, b), a the better."""
    problems, *sides = zip(*tested, strict=True)
    forward = prefers(judge, tokenizer, tested)
    back = prefers(judge, tokenizer, [(p, b, a) for p, a, b in tested], seed=1)
    single = [0.5 - back[i] if i % 2 else forward[i] - 0.5 for i in range(len(tested))]
    margins = {"pairwise": (1, single),  # in every second pair the better one is read second
               "pairwise, both orders": (2, [x - y for x, y in zip(forward, back, strict=True)])}
    for name, weights, votes in (("pointwise", None, 1), ("pointwise, 3 votes", None, 3),
                                ("rubric of part 4", rubric, 1),
                                ("all criteria", dict.fromkeys(writing.CRITERIA, 1), 1)):
        panel = Panel([judge], tokenizer, weights, votes)
        a, b = (panel.pay(problems, texts) for texts in sides)
        margins[name] = 2 * votes * len(panel.rubric), [x - y for (x, _), (y, _) in zip(
            a, b, strict=True)]
    result = {name: {"calls": calls, "accuracy": win_rate(margin)}
              for name, (calls, margin) in margins.items()}
    result["pairwise"]["changed"] = mean(
        (x > 0.5) == (y > 0.5) for x, y in zip(forward, back, strict=True))
    return result


def judged(judges, tokenizer, task, rubric, n: int) -> dict:
    """The measures of parts 2 and 3: result["BIAS, JUDGE"] and result["METHOD, JUDGE"]. judges:
    name -> (judge, biases of its annotators)."""
    result, problems, rng, tested = {}, task.held_out(n), random.Random("pairs"), []
    for problem in problems:  # pairs of unequal gold, the better one first
        texts = sorted((task.document(rng, problem) for _ in range(2)), reverse=True,
                       key=partial(writing.gold_reward, problem))
        if len({writing.gold_reward(problem, text) for text in texts}) == 2:
            tested.append((problem, *texts))
    for name, (judge, biases) in judges.items():
        def annotators(rows, biases=biases):
            return [writing.preference(*row, biases) for row in rows]
        for who, says in (("annotators", annotators),
                          ("judge", partial(prefers, judge, tokenizer))):
            for bias in writing.Biases._fields:
                result[f"{bias}, {name} {who}"] = liking(says, problems, bias)
        for method, found in accuracy_of_calls(judge, tokenizer, tested, rubric).items():
            result[f"{method}, {name} judge"] = found
    return result
