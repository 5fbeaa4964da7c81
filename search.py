"""Thinking longer: what a policy that stays as it is can do with more tokens at test time.

A method is a function that answers problems with n samples each, by one signature, and says what it
spent. Equal answers are grouped by value, not by string, so 1/2 and 0.5 vote together.

    greedy     the likeliest token each time
    vote       the answer that most of n samples give (self-consistency, 2203.11171)
    verifier   right if any of n is: the bound of all that choose among n. It needs the truth, so it
               is no method, and is named so
    force      s1's budget forcing (2501.19393): when the thinking ends, its end is replaced by a
               word, n - 1 times, so that the policy goes on thinking
    cut        the thinking is cut off after n tokens and the answer demanded

    python search.py --run runs/NAME --method vote --n 32

No method sees a verdict: the verifier is asked once, about what was chosen. Left out on purpose:
whatever needs a learned judge of steps (best-of-n, weighted votes, beams).
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass

import answers
import evaluate
import tasks
import tokenizer
import verify
from sample import generate

THINK_END = tokenizer.encode("</think>")[0]


@dataclass
class Found:
    """What a method makes of one problem."""

    text: str            # the response it chose
    tokens: int          # how many tokens were drawn for it
    samples: list[str]   # all responses it chose from


class Player:
    """A policy that completes texts. Tests play with one that reads from a script."""

    def __init__(self, policy, max_new_tokens: int, temperature: float = 1.0):
        self.policy, self.longest, self.temperature = policy, max_new_tokens, temperature

    def complete(self, questions, n: int, seed: int, begun=None, stop=(), greedy=False,
                 longest=0):
        """n responses to each question: [[(text, tokens drawn)]]. begun: of each question the
        beginning of its response, which the text includes; stop: tokens that end it as well as the
        end of text, and are not in it."""
        begun = begun or [""] * len(questions)
        rollout = generate(
            self.policy, [tokenizer.encode_prompt(q) for q in questions], n,
            longest or self.longest, 0.0 if greedy else self.temperature, seed,
            stop=[tokenizer.EOT, *stop], pad=tokenizer.PAD,
            prefixes=[tokenizer.encode(text) for text in begun])
        ends = {tokenizer.EOT, *stop}
        made = [(begun[g] + tokenizer.decode(ids[:-1] if ids[-1] in ends else ids), len(ids))
                for g, ids in zip(rollout.group.tolist(), rollout.responses(), strict=True)]
        return [made[i * n:(i + 1) * n] for i in range(len(questions))]


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


def force(player, problems, n: int, seed: int, word: str = "wait") -> list[Found]:
    """Greedy, but the end of the thinking is replaced by a word n - 1 times."""
    questions = [p.question for p in problems]
    begun, spent = [""] * len(problems), [0] * len(problems)
    for i in range(n):
        made = player.complete(questions, 1, seed, begun, stop=[THINK_END], greedy=True)
        spent = [a + tokens for a, [(_, tokens)] in zip(spent, made, strict=True)]
        begun = [text + (f"\n{word}\n" if i < n - 1 else "</think>") for [(text, _)] in made]
    made = player.complete(questions, 1, seed, begun, greedy=True, longest=32)
    return [Found(text, tokens + before, [text])
            for [(text, tokens)], before in zip(made, spent, strict=True)]


def cut(player, problems, n: int, seed: int) -> list[Found]:
    """Greedy, with at most n tokens of thinking."""
    questions = [p.question for p in problems]
    made = player.complete(questions, 1, seed, stop=[THINK_END], greedy=True, longest=n)
    begun = [text + "</think><answer>" for [(text, _)] in made]
    ended = player.complete(questions, 1, seed, begun, greedy=True, longest=32)
    return [Found(text, tokens + before, [text]) for [(text, tokens)], [(_, before)] in zip(
        ended, made, strict=True)]


METHODS = {"greedy": greedy, "vote": vote, "verifier": sampled, "force": force, "cut": cut}


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
    share = evaluate.share(right)
    return {"method": method, "n": n, "accuracy": share["value"], "ci": share["ci"],
            "problems": len(problems), "seconds": round(seconds, 2),
            "tokens_per_problem": sum(one.tokens for one in found) / len(problems),
            "without_answer": sum(all(verify.extract(text) is None for text in one.samples)
                                  for one in found)}, found


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True, help="the run's folder, such as runs/NAME")
    parser.add_argument("--method", default="vote", choices=METHODS)
    parser.add_argument("--n", type=int, default=16,
                        help="samples of a problem; rounds of force; tokens of cut")
    parser.add_argument("--problems", help="JSONL of question and answer (default: held-out ones)")
    parser.add_argument("--count", type=int, default=500, help="held-out problems")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print the first problem's samples")
    args = parser.parse_args(argv)
    try:
        if args.n < 1 or args.count < 1 or not args.temperature > 0:
            raise ValueError("--n and --count must be at least 1, --temperature above 0")
        policy, settings = evaluate.trained(args.run)
        task = tasks.TASKS[settings["task"]](settings["level"], settings["data"],
                                             settings["eval_data"])
        problems = (tasks.read_jsonl(args.problems) if args.problems
                    else task.held_out(args.count))
        player = Player(policy, settings["max_new_tokens"], args.temperature)
        result, found = evaluate_method(player, task, problems, args.method, args.n, args.seed)
        if args.show:
            print(problems[0].question, *found[0].samples, f"chosen: {found[0].text}",
                  sep="\n---\n")
    except (ValueError, OSError, KeyError) as error:
        print(f"search.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
