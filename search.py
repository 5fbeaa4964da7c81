"""Test-time compute: a fixed policy answers better when it may spend more tokens on a problem.

A method is a function method(completer, problems, n, seed) that spends about n samples per problem
and returns a SearchResult for each. Answers are grouped by value: 1/2 and 0.5 vote together.

    greedy      the most likely token each time
    vote        the most frequent answer of n samples (self-consistency, 2203.11171)
    orm         best of n by the outcome reward model
    prm         best of n by the process reward model: by the minimum of the step scores;
                prm-product, prm-last: by their product, by the last
    weighted    the answer whose samples have the largest sum of PRM scores; weighted-orm
    beam        step-level beam search: after each step the best n/4 of n beams are kept, and each
                is continued in 4 ways (2408.03314)
    lookahead   beam search that scores a beam after one more greedy step
    dvts        diverse verifier tree search: beam search in n/4 separate subtrees
    verifier    correct if any of n samples is: the upper bound for choosing among n samples. It
                needs the gold answer, so it is no method
    force       budget forcing (s1, 2501.19393): the end of the thinking is replaced by "wait"
                n - 1 times, so the policy thinks on; force-neutral: by a meaningless word
    cut         early stopping: the thinking ends after n tokens, and the answer is demanded

    python search.py --run runs/NAME --method vote --n 32

Methods never see the gold answer. The verifier is called once, on the chosen response. Reward
models are those of prm.py. Left out on purpose: Monte-Carlo tree search.
"""

import infra.openmp  # noqa: F401  (before torch)

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

import evaluate
import prm
import verify
from engine.rng import row_seeds
from grading import answers
from infra import arguments, memory
from infra.completer import Completer
from infra.terminal import echo
from infra.tree import render_tree, write_tree_page

# Both tags at once: a real model may have tokens that span them, and after "</think>" alone it may
# write anything.
ANSWER = "</think><answer>"


@dataclass
class SearchResult:
    """The outcome of a method on one problem."""

    text: str            # the chosen response
    tokens: int          # number of tokens sampled
    samples: list[str]   # the responses that it was chosen from
    scores: list = field(default_factory=list)  # step scores of each sample, if it was scored
    pruned: dict = field(default_factory=dict)  # beams that were given up: text -> step scores


# --- choosing among n samples

def same_answer(a: str, b: str) -> bool:
    """Whether two answers certainly have the same value."""
    return a == b or answers.equal(a, b) is True


def group_by_answer(given: list[str | None]) -> list[list[int]]:
    """Groups of indices of equal answers, in the order of their first occurrence. Indices of None
    (no answer) are left out."""
    groups = []
    for i, answer in enumerate(given):
        if answer is not None:
            group = next((g for g in groups if same_answer(given[g[0]], answer)), None)
            if group:
                group.append(i)
            else:
                groups.append([i])
    return groups


def greedy(completer, problems, n: int, seed: int) -> list[SearchResult]:
    """The most likely token each time; n is not used."""
    made = completer.complete([p.question for p in problems], 1, seed, greedy=True)
    return [SearchResult(text, tokens, [text]) for [(text, tokens)] in made]


def sampled(completer, problems, n: int, seed: int) -> list[SearchResult]:
    """n samples per problem, of which the first is chosen: where the choosing methods start."""
    made = completer.complete([p.question for p in problems], n, seed)
    return [SearchResult(samples[0][0], sum(tokens for _, tokens in samples),
                         [text for text, _ in samples]) for samples in made]


def vote(completer, problems, n: int, seed: int) -> list[SearchResult]:
    """The first sample of the largest group of equal answers; of equally large groups the first."""
    results = sampled(completer, problems, n, seed)
    for result in results:
        groups = group_by_answer([verify.extract(text) for text in result.samples])
        if groups:
            result.text = result.samples[max(groups, key=len)[0]]
    return results


def scored(completer, problems, n: int, seed: int, reward_model: str) -> list[SearchResult]:
    """n samples per problem with the step scores of a reward model."""
    results = sampled(completer, problems, n, seed)
    scores = iter(completer.score(reward_model, [p.question for p in problems for _ in range(n)],
                                  [text for result in results for text in result.samples]))
    for result in results:
        result.scores = [next(scores) for _ in result.samples]
    return results


def best_of_n(reward_model: str, aggregate: str = "last"):
    """A method: the sample with the highest score; of equal scores the first."""
    def method(completer, problems, n: int, seed: int) -> list[SearchResult]:
        results = scored(completer, problems, n, seed, reward_model)
        for result in results:
            totals = [prm.AGGREGATES[aggregate](steps) for steps in result.scores]
            result.text = result.samples[totals.index(max(totals))]
        return results
    return method


def weighted_vote(reward_model: str, aggregate: str = "last"):
    """A method: the answer whose samples have the largest sum of scores, and of these samples the
    one with the highest score."""
    def method(completer, problems, n: int, seed: int) -> list[SearchResult]:
        results = scored(completer, problems, n, seed, reward_model)
        for result in results:
            totals = [prm.AGGREGATES[aggregate](steps) for steps in result.scores]
            groups = group_by_answer([verify.extract(text) for text in result.samples])
            if groups:
                group = max(groups, key=lambda g: sum(totals[i] for i in g))
                result.text = result.samples[max(group, key=lambda i: totals[i])]
        return results
    return method


# --- growing responses step by step

def score_beams(completer, problems, results, ended, active, lookahead: int) -> None:
    """Fills the scores of the problems in `active` with the PRM's step scores of their beams, after
    `lookahead` further greedy steps. ended[i][j]: whether beam j of problem i has ended."""
    rows = [(i, j) for i in active for j in range(len(ended[i]))]
    texts = {(i, j): results[i].samples[j] for i, j in rows}
    over = {(i, j): ended[i][j] for i, j in rows}

    # extend copies of the beams greedily; equal beams are extended once
    for _ in range(lookahead):
        prefixes = list(dict.fromkeys((i, texts[i, j]) for i, j in rows if not over[i, j]))
        if prefixes:
            extended = dict(zip(prefixes, completer.next_steps(
                [problems[i].question for i, _ in prefixes], [text for _, text in prefixes], 1, 0,
                greedy=True), strict=True))
            for (i, _), (_, tokens, _) in extended.items():
                results[i].tokens += tokens
            for i, j in rows:
                if not over[i, j]:
                    texts[i, j], _, over[i, j] = extended[i, texts[i, j]]

    scores = iter(completer.score("prm", [problems[i].question for i, _ in rows],
                                  [texts[row] for row in rows], [over[row] for row in rows]))
    for i in active:
        results[i].scores = [next(scores) for _ in ended[i]]


def prune(result: SearchResult, ended: list[bool], beams: int, subtrees: bool) -> None:
    """Replaces the n beams of a problem by n // beams copies of each of the best `beams`, best
    first, ranked by the minimum of their step scores. Changes samples, scores and `ended` in place.

    subtrees: the beams form `beams` blocks of neighbours, and the best of each block is kept.
    Otherwise distinct texts are preferred; where there are too few, the best duplicates follow.
    Ended beams are ranked like the others. If all beams have ended nothing changes."""
    n = len(ended)
    if all(ended):
        return
    width = n // beams
    blocks = [range(k * width, (k + 1) * width) for k in range(beams)] if subtrees else [range(n)]
    kept = []
    for block in blocks:
        order = sorted(block, key=lambda j: -min(result.scores[j]))
        # the best beam of each text first, then the duplicates
        first = list({result.samples[j]: j for j in reversed(order)}.values())
        order = sorted(first, key=order.index) + [j for j in order if j not in first]
        kept += order[:1 if subtrees else beams]
    source = [j for j in kept for _ in range(width)]
    result.samples, result.scores, ended[:] = (
        [row[j] for j in source] for row in (result.samples, result.scores, ended))


def beam_search(lookahead: int = 0, subtrees: bool = False):
    """A method: step-level beam search. Each of n beams grows by a step; completer.beams of them
    (default n // 4) are kept, and each is continued in n // beams ways.

    lookahead: a beam is scored after so many further greedy steps. subtrees: the kept beams are the
    best of separate subtrees (DVTS). Raises ValueError if beams does not divide n."""
    def method(completer, problems, n: int, seed: int) -> list[SearchResult]:
        beams = completer.beams or max(1, n // 4)
        if n % beams:
            raise ValueError(f"--n {n} is not a multiple of the {beams} beams that are kept; "
                             "change --n or --beams")
        width = n // beams
        results = [SearchResult("", 0, [""] * n) for _ in problems]
        ended = [[False] * n for _ in problems]
        seeds = row_seeds(torch.arange(len(problems) * n), seed).tolist()
        while unfinished := [(i, j) for i, flags in enumerate(ended) for j in range(0, n, width)
                             if not flags[j]]:
            # each kept beam stands in `width` equal copies: extend them in `width` ways
            steps = iter(completer.next_steps(
                [problems[i].question for i, _ in unfinished],
                [results[i].samples[j] for i, j in unfinished], width,
                [seeds[i * n + j + k] for i, j in unfinished for k in range(width)]))
            for i, j in ((i, j + k) for i, j in unfinished for k in range(width)):
                results[i].samples[j], tokens, ended[i][j] = next(steps)
                results[i].tokens += tokens
            # score and prune
            active = list(dict.fromkeys(i for i, _ in unfinished))
            score_beams(completer, problems, results, ended, active, lookahead)
            for i in active:
                before = dict(zip(results[i].samples, results[i].scores, strict=True))
                prune(results[i], ended[i], beams, subtrees)
                results[i].pruned |= {text: scores for text, scores in before.items()
                                      if text not in results[i].samples}
        for result in results:
            totals = [min(steps) for steps in result.scores]
            result.text = result.samples[totals.index(max(totals))]
        return results
    return method


# --- longer or shorter thinking

def decode_with_budget(completer, problems, insertions: list[str], max_thinking: int,
                       seed: int) -> list[SearchResult]:
    """Greedy decoding with control of the thinking. Where the thinking ends, or after max_thinking
    tokens (0: completer.max_new_tokens), the next of the insertions is written and the thinking
    goes on. At its last end ANSWER is written and up to 32 tokens are sampled.

    Inserted text does not count in `tokens`. A response that ended without thinking (seen by its
    stop string) stays as it is."""
    questions = [p.question for p in problems]
    prefixes, spent = [""] * len(problems), [0] * len(problems)
    for insertion in [*insertions, ANSWER]:
        made = completer.complete(questions, 1, seed, prefixes, stop="</think>", greedy=True,
                                  max_new_tokens=max_thinking)
        spent = [before + tokens for before, [(_, tokens)] in zip(spent, made, strict=True)]
        prefixes = [text if completer.tokenizer.has_stop_string(text) else text + insertion
                    for [(text, _)] in made]
    made = completer.complete(questions, 1, seed, prefixes, greedy=True, max_new_tokens=32)
    return [SearchResult(text, before + tokens, [text])
            for before, [(text, tokens)] in zip(spent, made, strict=True)]


def budget_forcing(word: str):
    """A method: greedy decoding; the end of the thinking is replaced by `word` n - 1 times."""
    return lambda completer, problems, n, seed: decode_with_budget(
        completer, problems, [f"\n{word}\n"] * (n - 1), 0, seed)


def early_stop(completer, problems, n: int, seed: int) -> list[SearchResult]:
    """Greedy decoding with at most n tokens of thinking."""
    return decode_with_budget(completer, problems, [], n, seed)


METHODS = {"greedy": greedy, "vote": vote, "orm": best_of_n("orm"), "prm": best_of_n("prm", "min"),
           "prm-product": best_of_n("prm", "product"), "prm-last": best_of_n("prm", "last"),
           "weighted": weighted_vote("prm", "min"), "weighted-orm": weighted_vote("orm"),
           "beam": beam_search(), "lookahead": beam_search(lookahead=1),
           "dvts": beam_search(subtrees=True), "verifier": sampled,
           "force": budget_forcing("wait"), "force-neutral": budget_forcing("apples"),
           "cut": early_stop}


def evaluate_method(completer, task, problems, method: str, n: int, seed: int):
    """Runs a method. Returns its measurements and the SearchResults. "without_answer" is the number
    of problems without a readable answer. The verifier is called here only."""
    start = time.perf_counter()
    results = METHODS[method](completer, problems, n, seed)
    seconds = time.perf_counter() - start
    if method == "verifier":
        correct = [any(task.correct(p, text) for text in result.samples)
                   for p, result in zip(problems, results, strict=True)]
    else:
        correct = [task.correct(p, result.text)
                   for p, result in zip(problems, results, strict=True)]
    accuracy = evaluate.proportion(correct)
    return {"method": method, "n": n, "accuracy": accuracy["value"], "ci": accuracy["ci"],
            "problems": len(problems), "seconds": round(seconds, 2),
            "tokens_per_problem": sum(result.tokens for result in results) / len(problems),
            "without_answer": sum(all(verify.extract(text) is None for text in result.samples)
                                  for result in results)}, results


def main(argv=None) -> int:
    parser = arguments.Parser("search.py", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    arguments.add_run(parser)
    add("--method", default="vote", choices=METHODS)
    add("--n", type=arguments.integer(1), default=16, help="samples per problem; for force the "
        "rounds of thinking, for cut the tokens of thinking")
    add("--beams", type=arguments.integer(0), default=0, help="kept per step (default: n // 4)")
    add("--problems", type=arguments.path, help="JSONL of question and answer (default: held-out "
        "ones)")
    add("--count", type=arguments.integer(1), default=500, help="number of held-out problems")
    add("--temperature", type=arguments.number(least=arguments.LEAST_TEMPERATURE), default=1.0)
    add("--show", action="store_true", help="print the first problem's tree")
    add("--show-html", type=arguments.path, metavar="FILE", help="write it as a page")
    return arguments.run(parser, argv, work)


def work(args) -> None:
    """Runs a method and prints its measurements as JSON."""
    policy, tokenizer, settings = evaluate.load_run(args.run)
    task = evaluate.load_task(settings, tokenizer, policy.config.context)
    problems = args.problems and evaluate.read_problems(args.problems, settings)
    memory.check_responses(len(problems or range(args.count)) * args.n, settings["max_new_tokens"],
                           "change --n or --count")
    problems = problems or task.held_out(args.count)
    reward_models = prm.load(args.run, policy) if (Path(args.run) / "prm.pt").exists() else {}
    completer = Completer(policy, tokenizer, settings["max_new_tokens"], args.temperature,
                          reward_models, args.beams)
    result, found = evaluate_method(completer, task, problems, args.method, args.n, args.seed)
    if args.show:
        echo(problems[0].question)
        print(render_tree(found[0]))
        echo("chosen:", found[0].text)
    if args.show_html:
        write_tree_page(args.show_html, found[0], problems[0], args.method, args.n,
                        task.correct(problems[0], found[0].text))
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
