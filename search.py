"""Thinking longer: what a policy that stays as it is can do with more tokens at test time.

A method is a function that answers problems with n samples each, by one signature, and says what it
spent. Equal answers are grouped by value, not by string, so 1/2 and 0.5 vote together.

    greedy      the likeliest token each time
    vote        the answer that most of n samples give (self-consistency, 2203.11171)
    orm         the best of n for the outcome reward model
    prm         the best of n for the process reward model by its least step; prm-product, prm-last
    weighted    the answer whose samples have the largest sum of scores; weighted-orm
    beam        beams grow step by step; the best quarter of n goes on, each four fold (2408.03314)
    lookahead   the same, but a beam is judged after one more greedy step
    dvts        diverse verifier tree search: each of the kept is the best of its own subtree
    verifier    right if any of n is: the bound of all that choose among n. It needs the truth, so
                it is no method, and is named so
    force       s1's budget forcing (2501.19393): when the thinking ends, its end is replaced by a
                "wait", n - 1 times, so that the policy goes on thinking; force-neutral: by a word
                that means nothing here
    cut         the thinking is cut off after n tokens and the answer demanded

    python search.py --run runs/NAME --method vote --n 32

No method sees a verdict: the verifier is asked once, about what was chosen. The judges are those of
prm.py. Left out on purpose: Monte-Carlo tree search.
"""

import argparse
import itertools
import json
import re
import sys
import time
from pathlib import Path

import torch

import evaluate
import prm
import tokenizer
import verify
from engine.rng import row_seeds
from grading import answers
from player import Found, Player

ANSWER = "</think><answer>"  # both: the tokens of a real model reach across the two tags, and after
                             # "</think>" alone it goes on with anything


def equal(a: str, b: str) -> bool:
    """Certainly the same answer."""
    return a == b or answers.equal(a, b) is True


def grouped(given: list[str | None]) -> list[list[int]]:
    """The indices of equal answers, group by group, in the order of their first occurrence; those
    of no answer are left out."""
    groups = []
    for i, answer in enumerate(given):
        if answer is not None:
            home = next((g for g in groups if equal(given[g[0]], answer)), None)
            home.append(i) if home else groups.append([i])
    return groups


def greedy(player, problems, n: int, seed: int) -> list[Found]:
    """The likeliest token each time; n is not used."""
    made = player.complete([p.question for p in problems], 1, seed, greedy=True)
    return [Found(text, tokens, [text]) for [(text, tokens)] in made]


def sampled(player, problems, n: int, seed: int) -> list[Found]:
    """The first of n samples: what the methods that choose begin with."""
    made = player.complete([p.question for p in problems], n, seed)
    return [Found(some[0][0], sum(tokens for _, tokens in some), [text for text, _ in some])
            for some in made]


def vote(player, problems, n: int, seed: int) -> list[Found]:
    """The first sample of the largest group of equal answers; of equally large ones the first."""
    found = sampled(player, problems, n, seed)
    for one in found:
        groups = grouped([verify.extract(text) for text in one.samples])
        if groups:
            one.text = one.samples[max(groups, key=len)[0]]
    return found


def judged(player, problems, n: int, seed: int, judge: str) -> list[Found]:
    """The samples with what a judge says of each."""
    found = sampled(player, problems, n, seed)
    scores = iter(player.judge(judge, [p.question for p in problems for _ in range(n)],
                               [text for one in found for text in one.samples]))
    for one in found:
        one.scores = [next(scores) for _ in one.samples]
    return found


def best(judge: str, how: str = "last"):
    """The method best-of-n: the sample whose steps, taken together, score highest; of equal ones
    the first."""
    def method(player, problems, n: int, seed: int) -> list[Found]:
        found = judged(player, problems, n, seed, judge)
        for one in found:
            worth = [prm.AGGREGATES[how](p) for p in one.scores]
            one.text = one.samples[worth.index(max(worth))]
        return found
    return method


def weighted(judge: str, how: str = "last"):
    """The method weighted vote: the answer whose samples' scores have the largest sum, and of these
    samples the best."""
    def method(player, problems, n: int, seed: int) -> list[Found]:
        found = judged(player, problems, n, seed, judge)
        for one in found:
            worth = [prm.AGGREGATES[how](p) for p in one.scores]
            groups = grouped([verify.extract(text) for text in one.samples])
            if groups:
                group = max(groups, key=lambda g: sum(worth[i] for i in g))
                one.text = one.samples[max(group, key=lambda i: worth[i])]
        return found
    return method


def score(player, problems, found, ended, busy, ahead: int) -> None:
    """Judges the beams of the problems `busy`, after `ahead` more greedy steps."""
    rows = [(i, j) for i in busy for j in range(len(ended[i]))]
    texts = {(i, j): found[i].samples[j] for i, j in rows}
    over = {(i, j): ended[i][j] for i, j in rows}
    for _ in range(ahead):
        begun = list(dict.fromkeys((i, texts[i, j]) for i, j in rows if not over[i, j]))
        if begun:
            seen = dict(zip(begun, player.steps([problems[i].question for i, _ in begun],
                                                [text for _, text in begun], 1, 0, greedy=True),
                            strict=True))
            for (i, _), (_, tokens, _) in seen.items():
                found[i].tokens += tokens
            for i, j in rows:
                if not over[i, j]:
                    texts[i, j], _, over[i, j] = seen[i, texts[i, j]]
    scores = iter(player.judge("prm", [problems[i].question for i, _ in rows],
                               [texts[row] for row in rows], [over[row] for row in rows]))
    for i in busy:
        found[i].scores = [next(scores) for _ in ended[i]]


def prune(one: Found, ended: list[bool], kept: int, subtrees: bool) -> None:
    """Puts copies of the `kept` best beams by their least step, best first and each n // kept times
    in a row, in the places of all n (samples, scores and `ended`, in place); of subtrees, which are
    so many neighbours each, that of the best in its own. Different texts come before equal ones.
    Where all have ended nothing changes."""
    n = len(ended)
    if all(ended):
        return
    wide = n // kept
    parts = [range(k * wide, (k + 1) * wide) for k in range(kept)] if subtrees else [range(n)]
    chosen = []
    for part in parts:
        order = sorted(part, key=lambda j: -min(one.scores[j]))
        first = list({one.samples[j]: j for j in reversed(order)}.values())
        order = sorted(first, key=order.index) + [j for j in order if j not in first]
        chosen += order[:1 if subtrees else kept]
    places = [j for j in chosen for _ in range(wide)]
    one.samples, one.scores, ended[:] = (
        [row[j] for j in places] for row in (one.samples, one.scores, ended))


def tree(ahead: int = 0, subtrees: bool = False):
    """The method step-level beam search: n beams grow by a step; the player's number of them
    (default n // 4) are kept by their least step, each to be continued in as many ways as make n
    again. ahead: judged after so many more greedy steps. subtrees: the best of each kept one's own
    subtree is kept, rather than the best of all."""
    def method(player, problems, n: int, seed: int) -> list[Found]:
        kept = player.beams or max(1, n // 4)
        if n % kept:
            raise ValueError(f"n = {n} is not a multiple of the {kept} beams to be kept; try "
                             "another --n or --beams")
        wide = n // kept
        found = [Found("", 0, [""] * n) for _ in problems]
        ended = [[False] * n for _ in problems]
        seeds = row_seeds(torch.arange(len(problems) * n), seed).tolist()
        while live := [(i, j) for i, one in enumerate(ended) for j in range(0, n, wide)
                       if not one[j]]:
            grown = iter(player.steps(
                [problems[i].question for i, _ in live], [found[i].samples[j] for i, j in live],
                wide, [seeds[i * n + j + k] for i, j in live for k in range(wide)]))
            for i, j in ((i, j + k) for i, j in live for k in range(wide)):
                found[i].samples[j], tokens, ended[i][j] = next(grown)
                found[i].tokens += tokens
            busy = list(dict.fromkeys(i for i, _ in live))
            score(player, problems, found, ended, busy, ahead)
            for i in busy:
                prune(found[i], ended[i], kept, subtrees)
        for one in found:
            worth = [min(p) for p in one.scores]
            one.text = one.samples[worth.index(max(worth))]
        return found
    return method


def think(player, problems, puts: list[str], longest: int, seed: int) -> list[Found]:
    """Greedy; where the thinking ends, after at most `longest` tokens (0: the player's), each of
    the texts is put in turn, and in the end ANSWER, after which up to 32 tokens are drawn. What is
    put costs nothing. A response that has ended, as one without a thought may, stays as it is."""
    questions = [p.question for p in problems]
    begun, spent = [""] * len(problems), [0] * len(problems)
    for put in [*puts, ANSWER]:
        made = player.complete(questions, 1, seed, begun, stop="</think>", greedy=True,
                               longest=longest)
        spent = [a + tokens for a, [(_, tokens)] in zip(spent, made, strict=True)]
        begun = [text if tokenizer.has_stop_string(text) else text + put for [(text, _)] in made]
    made = player.complete(questions, 1, seed, begun, greedy=True, longest=32)
    return [Found(text, tokens + before, [text])
            for [(text, tokens)], before in zip(made, spent, strict=True)]


def force(word: str):
    """The method greedy, but the end of the thinking is replaced by a word n - 1 times."""
    return lambda player, problems, n, seed: think(player, problems, [f"\n{word}\n"] * (n - 1), 0,
                                                   seed)


def cut(player, problems, n: int, seed: int) -> list[Found]:
    """Greedy, with at most n tokens of thinking."""
    return think(player, problems, [], n, seed)


METHODS = {"greedy": greedy, "vote": vote, "orm": best("orm"), "prm": best("prm", "min"),
           "prm-product": best("prm", "product"), "prm-last": best("prm", "last"),
           "weighted": weighted("prm", "min"), "weighted-orm": weighted("orm"), "beam": tree(),
           "lookahead": tree(ahead=1), "dvts": tree(subtrees=True), "verifier": sampled,
           "force": force("wait"), "force-neutral": force("apples"), "cut": cut}


def evaluate_method(player, task, problems, method: str, n: int, seed: int):
    """Accuracy with its interval, tokens per problem and seconds of a method, and how many problems
    got no answer that could be read; and what it found. The verifier speaks here alone."""
    began = time.perf_counter()
    found = METHODS[method](player, problems, n, seed)
    seconds = time.perf_counter() - began
    if method == "verifier":
        right = [any(task.correct(p, text) for text in one.samples)
                 for p, one in zip(problems, found, strict=True)]
    else:
        right = [task.correct(p, one.text) for p, one in zip(problems, found, strict=True)]
    share = evaluate.proportion(right)
    return {"method": method, "n": n, "accuracy": share["value"], "ci": share["ci"],
            "problems": len(problems), "seconds": round(seconds, 2),
            "tokens_per_problem": sum(one.tokens for one in found) / len(problems),
            "without_answer": sum(all(verify.extract(text) is None for text in one.samples)
                                  for one in found)}, found


def drawn(one: Found) -> str:
    """The samples of a problem as one tree: what several share stands once, with their number;
    steps are coloured by their score, where a judge spoke."""
    def add(node, parts, scores):
        if parts:
            branch = node.setdefault(parts[0], [0, scores[0] if scores else None, {}])
            branch[0] += 1
            add(branch[2], parts[1:], scores[1:])

    def lines(node, depth):
        for part, (count, score, below) in node.items():
            colour = 0 if score is None else 31 if score < 1 / 3 else 33 if score < 2 / 3 else 32
            mark = "" if score is None else f"  {score:.2f}"
            yield (f"{'  ' * depth}\x1b[{colour}m{part.strip()}\x1b[0m{mark}"
                   + (f"  x{count}" if count > 1 else ""))
            yield from lines(below, depth + 1)
    root = {}
    for text, scores in itertools.zip_longest(one.samples, one.scores, fillvalue=()):
        add(root, [p for p in re.split(r"(?<=\n)(?!\n)|(?<=</think>)", text) if p], scores)
    return "\n".join(lines(root, 0))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True, help="the run's folder, such as runs/NAME")
    parser.add_argument("--method", default="vote", choices=METHODS)
    parser.add_argument("--n", type=int, default=16,
                        help="samples of a problem; rounds of force; tokens of cut")
    parser.add_argument("--beams", type=int, default=0, help="kept at each step (default: n // 4)")
    parser.add_argument("--problems", help="JSONL of question and answer (default: held-out ones)")
    parser.add_argument("--count", type=int, default=500, help="held-out problems")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print the first problem's tree")
    args = parser.parse_args(argv)
    try:
        if args.n < 1 or args.count < 1 or args.beams < 0 or not args.temperature > 0:
            raise ValueError("--n and --count must be at least 1, --temperature above 0, --beams "
                             "not negative")
        policy, settings = evaluate.load_run(args.run)
        task = evaluate.load_task(settings)
        problems = (evaluate.read_problems(args.problems, settings) if args.problems
                    else task.held_out(args.count))
        judges = prm.load(args.run, policy) if (Path(args.run) / "prm.pt").exists() else {}
        player = Player(policy, settings["max_new_tokens"], args.temperature, judges,
                        args.beams)
        result, found = evaluate_method(player, task, problems, args.method, args.n, args.seed)
        if args.show:
            print(problems[0].question, drawn(found[0]), f"chosen: {found[0].text}", sep="\n")
    except (ValueError, OSError, KeyError) as error:
        print(f"search.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
