"""No labels: a majority vote, the policy's own confidence, or a reference answer as the reward.

Where no verifier exists, a reward can come from the policy itself. Each row starts from the same
base and samples as many responses; r is the reward of response o, of which G answer a problem:

    verifier    r = 1 if the answer is right                                the usual reward
    vote        r = 1 if the answer is the commonest of the group           TTRL 2504.16084
    certainty   r = mean over tokens of KL(uniform || policy)               Intuitor 2505.19590
    reference   r = mean probability of the reference answer's tokens       RLPR 2506.18254
                    after the thought of o; it needs answers, but no verifier
    random      r = 1 with probability 1/2                                  control

Task arithmetic: samples err in different ways, so a vote is right more often than a sample. Task
chain: the corpus states some facts wrongly in most documents, so all samples err alike, and a vote
teaches the error. Left out on purpose: RLPR's debiasing and filters, an offline policy as judge.
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

import copy
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import torch

import evaluate
import sft
import verify
from recipes import page, runs

FLAGS = "--algo grpo --prompts 16 --group-size 16 --lr 4e-4"
TASKS = {"arithmetic": "--level 2 --size tiny", "chain": "--level 1 --size tiny"}
VOTES = 16         # samples of a problem whose majority is measured
HELD_OUT = 200     # problems


# --- the rewards: one number for each response of a group

def vote(policy, tokenizer, problem, texts, responses) -> list[float]:
    """1.0 for the commonest answer of the group; of equally common ones the first. A response
    without an answer has no vote, and gets 0."""
    answers = [verify.extract(text) for text in texts]
    commonest = Counter(answer for answer in answers if answer).most_common(1)
    return [float(bool(commonest) and answer == commonest[0][0]) for answer in answers]


def logits_of(policy, pairs):
    """Logits (tokens, V) that predict the responses of (prompt ids, response ids) pairs, in order.
    """
    tokens, mask = sft.padded(pairs)
    return policy.logits(policy.hidden_states(tokens, mask))


@torch.no_grad()
def certainty(policy, tokenizer, problem, texts, responses) -> list[float]:
    """Self-certainty of each response: mean over its tokens of KL(uniform || policy), in nats:
    -log V - mean over the vocabulary of log p."""
    prompt = tokenizer.encode_problem(problem)
    logp = logits_of(policy, [(prompt, ids) for ids in responses]).log_softmax(-1)
    kl = -logp.mean(-1) - torch.tensor(float(logp.shape[-1])).log()           # (tokens,)
    return [float(part.mean()) for part in kl.split(list(map(len, responses)))]


@torch.no_grad()
def reference(policy, tokenizer, problem, texts, responses) -> list[float]:
    """The mean probability of the tokens of the reference answer, in the place of the response's
    own answer. 0 for a response without the tag of an answer."""
    tag, rewards = tokenizer.encode("<answer>"), [0.0] * len(texts)
    answer = tokenizer.encode_ordinary(str(problem.answer)) + tokenizer.encode("</answer>")
    prompt, pairs, rows = tokenizer.encode_problem(problem), [], []
    for row, ids in enumerate(responses):
        if tag[0] in ids:
            rows.append(row)
            pairs.append((prompt + ids[:ids.index(tag[0]) + 1], answer))
    if rows:
        probs = logits_of(policy, pairs).softmax(-1).view(len(rows), len(answer), -1)
        chosen = probs.gather(2, torch.tensor([answer] * len(rows))[..., None])
        for row, value in zip(rows, chosen.mean((1, 2)).tolist(), strict=True):
            rewards[row] = value
    return rewards


ARMS = {"verifier": None, "vote": vote, "certainty": certainty, "reference": reference,
        "random": None}


def rewarded(task, signal, policy, tokenizer):
    """The task with the reward `signal`, computed once for a group. The verdicts are still logged,
    but nothing is paid for them."""
    class Rewarded(type(task)):
        group_rewards = None, {}  # the group that was scored last, and its rewards

        def score(self, problem, text, reward, uniform, tokens, group):
            found = super().score(problem, text, reward, uniform, tokens, group)
            key = problem, tuple(tuple(ids) for _, ids in group)
            if self.group_rewards[0] != key:
                values = signal(policy, tokenizer, problem, *map(list, zip(*group, strict=True)))
                self.group_rewards = key, dict(zip(key[1], values, strict=True))
            return replace(found, total=self.group_rewards[1][tuple(tokens)])
    return Rewarded(task.level)


# --- a seed

def measure(policy, tokenizer, task, options, n: int, believed=None) -> dict:
    """Of n held-out problems: greedy accuracy; of VOTES samples at temperature 1 the accuracy, that
    of their majority, and the share that agree with it. believed: for each problem whether the
    majority of the base is right; then also the accuracy on the problems where it is wrong."""
    problems = task.held_out(n)
    greedy = evaluate.greedy_accuracy(policy, tokenizer, task, problems, options.max_new_tokens)
    _, texts = evaluate.sample_responses(policy, tokenizer, problems, VOTES, seed=1,
                                         max_new_tokens=options.max_new_tokens)
    right = np.array([bool(task.correct(problems[i // VOTES], text))
                      for i, text in enumerate(texts)]).reshape(-1, VOTES)   # (n, VOTES)
    votes = np.array([vote(None, None, None, texts[i:i + VOTES], None)
                      for i in range(0, len(texts), VOTES)])                 # (n, VOTES)
    majority = (right * votes).max(1) > 0
    found = {"greedy": greedy["value"], "sampled": float(right.mean()),
             "majority": float(majority.mean()), "agreement": float(votes.mean())}
    wrong = ~np.array(majority if believed is None else believed)
    if wrong.any():
        found["believed wrongly"] = float(right[wrong].mean())
    return found | {"majority of each": majority.tolist()}


def learn(arm: str, base, task, tokenizer, options, n: int, believed) -> dict:
    """The measures of an arm, and for each step the point (reward, accuracy) of its curve."""
    policy, of_run = copy.deepcopy(base), task
    if ARMS[arm]:
        of_run = rewarded(task, ARMS[arm], policy, tokenizer)
    if arm == "random":
        options = replace(options, reward="random")
    history = runs.reinforce(policy, of_run, tokenizer, options)
    return measure(policy, tokenizer, task, options, n, believed) | {
        "curve": [[line["reward"], line["accuracy"]] for line in history]}


def work(seed: int, folder: Path, args) -> dict:
    """result["TASK, ARM"]: measures and curve. "TASK, base": the measures of the base."""
    result = {}
    for name, level in TASKS.items():
        flags = f"{FLAGS} --task {name} {level} --reward accuracy --steps {args.steps} {args.flags}"
        base, task, tokenizer, options = runs.start(flags, seed, folder)
        before = measure(base, tokenizer, task, options, args.held_out)
        result[f"{name}, base"] = before
        for arm in ARMS:
            result[f"{name}, {arm}"] = page.kept(folder / f"{name} {arm}.json", partial(
                learn, arm, base, task, tokenizer, options, args.held_out,
                before["majority of each"]))
    return result


# --- the page

def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page."""
    columns = ["run", "greedy, %", "temperature 1, %", f"majority of {VOTES}, %",
               "agree with the majority, %", "right where the base's majority is wrong, %"]
    keys = ("greedy", "sampled", "majority", "agreement", "believed wrongly")
    rows = [[name, *(page.cell(results, name, key) for key in keys)] for name in results[0]]
    gaps = [(f"{task}, {arm}", f"{task}, {other}") for task in TASKS
            for arm, other in (*((arm, "base") for arm in ARMS), ("vote", "verifier"))]
    return [("All runs", columns, rows),
            ("Accuracy at temperature 1, compared", page.DIFFERENCES,
             page.differences(results, gaps, "sampled")),
            ("Accuracy of the majority, compared", page.DIFFERENCES,
             page.differences(results, gaps, "majority"))]


def draw(results: list[dict], figure) -> None:
    """The accuracy in training, of each task."""
    for axes, task in zip(figure.subplots(1, len(TASKS)), TASKS, strict=True):
        for arm in ARMS:
            page.draw_steps(axes, arm, [[100 * accuracy for _, accuracy in
                                         x[f"{task}, {arm}"]["curve"]] for x in results])
        axes.set(xlabel="step", ylabel="accuracy in training, %", title=f"task {task}")
    axes.legend()


def main(argv=None) -> int:
    numbers = [("--steps", 20, "steps of each run"),
               ("--held-out", HELD_OUT, "held-out problems")]
    return page.main("ttrl", "No labels", __doc__, work, tables, draw, argv, numbers, seeds="0,1,2")


if __name__ == "__main__":
    sys.exit(main())
