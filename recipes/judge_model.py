"""A judge that writes: it reads a question and a response, gives its reasons, and then a verdict.

    score = P(yes | question, response, reasons)      reasons sampled from the judge

It is a policy like any other, so sft.train trains it, by next-token prediction (generative
verifiers, 2408.15240). Several samples of the reasons are votes: their scores are averaged. A
rubric has a weight for each criterion, each is judged alone, and a panel of judges is as strict as
its strictest member (2507.17746, 2310.02743):

    reward = min over judges of sum over criteria of weight * score / sum of weights

The control is a direct verifier, which gives the verdict alone. Left out on purpose: reasons that
the judge finds itself; programs write those that it learns from.
"""

import copy
import random
from dataclasses import replace
from functools import partial
from string import ascii_lowercase

import torch

import evaluate
import sft
import verify
from tasks import Problem, writing
from tasks.corpus import equation

MAX_WORDS = 160  # tokens of a judgement
RATE = "rate"    # the criterion "is it good?", which the annotators' verdicts teach


# --- what the judge reads

def check_prompt(question: str, text: str) -> str:
    """A question and a response of task chain, and "check"."""
    return "\n".join(["check", question, plain(text)])


def plain(text: str) -> str:
    """A response with line ends in the place of its tags."""
    return "\n".join(filter(None, verify.TAGS.split(text)[::2]))


def prompt(kind: str, question: str, *texts: str) -> str:
    """A request and a response of task writing, or two, and what is asked: "compare", RATE or a
    criterion. Each sentence is a line with a letter, so that the reasons can name it."""
    parts = [writing.sentences(text) for text in texts]
    lines = lettered(sum(parts, []))
    if len(parts) > 1:
        lines.insert(len(parts[0]), "second")
    return "\n".join([kind, question, *lines])


def lettered(lines: list[str]) -> list[str]:
    """The lines with the letters a, b, c and so on before them; z for the 26th and later ones."""
    return [f"{ascii_lowercase[min(i, 25)]} {line}" for i, line in enumerate(lines)]


# --- what it learns: (prompt, words); the last line of the words is the verdict

def chain_lesson(problem, text: str, right: bool, reasons: bool = True) -> tuple[str, str] | None:
    """A verified sample of task chain. The reasons are the true lines of the chain, each with "ok"
    or, at the first line that differs, "no". None where reasons and verdict disagree."""
    true = [*(equation(*step) for step in problem.steps), problem.answer]
    lines, words = plain(text).split("\n"), []
    for said, line in zip(lines, true, strict=False):
        words.append(f"{line} {'ok' if said == line else 'no'}")
        if said != line:
            break
    if right != (lines == true):
        return None
    verdict = "yes" if right else "no"
    return check_prompt(problem.question, text), "\n".join([*words * reasons, verdict])


def reasons_for(problem, *texts: str) -> list[str]:
    """The notes of a careful reader of responses of task writing: a line for each sentence."""
    return lettered([" ".join(note) for text in texts for note in writing.notes(problem, text)])


def writing_lesson(rng, problem, texts, biases, kind: str) -> tuple[str, str]:
    """A judgement of the response texts[0]; for "compare" of two. Annotators with these biases say
    whether one is good, and which is better. Criteria are facts, and programs give the reasons."""
    if kind == "compare":
        first = rng.random() < writing.preference(problem, *texts, biases)
        verdict = "first" if first else "second"
    else:
        texts = texts[:1]
        good = (rng.random() < writing.approval(problem, *texts, biases) if kind == RATE
                else writing.meets(problem, *texts, kind))
        verdict = "yes" if good else "no"
    words = [*reasons_for(problem, *texts), verdict]
    return prompt(kind, problem.question, *texts), "\n".join(words)


def writing_lessons(samples, biases, kinds):
    """The function draw(rng) -> lesson, of samples (problem, [texts]). kinds: drawn as often."""
    def draw(rng):
        problem, texts = rng.choice(samples)
        return writing_lesson(rng, problem, rng.sample(texts, 2), biases, rng.choice(kinds))
    return draw


def train_judge(model, tokenizer, draw, steps: int, seed: int, **how):
    """A copy of the model after SFT on the lessons (prompt, words) of draw(rng). how: learning
    rates of sft.train."""
    rng, judge = random.Random(f"judge {seed}"), copy.deepcopy(model).requires_grad_(True)

    def batch(done):
        pairs, size = [], 0
        while size < sft.BATCH_TOKENS:
            read, words = draw(rng)
            pair = tokenizer.encode_prompt(read), tokenizer.encode(words) + [tokenizer.eos_id]
            pairs.append(pair)
            size += sum(map(len, pair))
        return pairs
    sft.train(judge, batch, steps, **how)
    return judge.requires_grad_(False)


# --- what it says

def ask(judge, tokenizer, prompts, seed: int = 0, votes: int = 1, yes: str = "yes", no: str = "no"
        ) -> dict[str, tuple[float, str]]:
    """prompt -> (score, words of the first vote). The score is the mean over votes of the
    probability of the verdict `yes`; a vote without a verdict counts 0."""
    asked = [Problem(text, "") for text in dict.fromkeys(prompts)]
    rollout, words = evaluate.sample_responses(judge, tokenizer, asked, votes, seed=seed,
                                               max_new_tokens=MAX_WORDS)
    # the verdict is the token before the end of text
    columns = torch.arange(rollout.mask.shape[1])
    verdict = (rollout.mask * columns).argmax(1, keepdim=True) - 1            # (N, 1)
    probability = rollout.logp.gather(1, verdict)[:, 0].exp().tolist()        # (N,)
    scores = []
    for p, said, cut in zip(probability, words, rollout.truncated.tolist(), strict=True):
        last = "" if cut else said.rpartition("\n")[2]
        scores.append(p if last == yes else 1 - p if last == no else 0.0)
    return {problem.question: (sum(scores[i:i + votes]) / votes, words[i])
            for i, problem in zip(range(0, len(scores), votes), asked, strict=True)}


compare = partial(ask, yes="first", no="second")  # -> the probability that the first is better


class Panel:
    """Judges with a rubric (criterion -> weight). It stands in the place of a reward model in
    train.py. Judges and rubric may be changed between two steps."""

    def __init__(self, judges, tokenizer, rubric=None, votes: int = 1):
        self.judges, self.tokenizer, self.rubric = list(judges), tokenizer, rubric or {RATE: 1}
        self.votes, self.calls = votes, 0

    def verdicts(self, judge, criterion: str, problems, texts) -> list[tuple[float, str]]:
        """(score, words) of each response, by one judge and one criterion."""
        prompts = [prompt(criterion, problem.question, text)
                   for problem, text in zip(problems, texts, strict=True)]
        self.calls += 1  # another seed for each call
        said = ask(judge, self.tokenizer, prompts, self.calls, self.votes)
        return [said[each] for each in prompts]

    def weigh(self, judge, problems, texts) -> list[tuple[float, str]]:
        """(reward, words) of each response, by one judge: the weighted mean over the rubric. The
        words show P(yes) too, because a verdict is sampled: it may be the less likely one."""
        said = {name: self.verdicts(judge, name, problems, texts) for name in self.rubric}
        total, found = sum(self.rubric.values()), []
        for i in range(len(texts)):
            score = sum(weight * said[name][i][0] for name, weight in self.rubric.items()) / total
            words = [f"{name}: {said[name][i][1]}, P(yes) {said[name][i][0]:.2f}" for name in said]
            found.append((score, "\n".join(words)))
        return found

    def pay(self, problems, texts) -> list[tuple[float, str]]:
        """(reward, words) of each response, by its strictest judge."""
        return [min(row) for row in zip(*(self.weigh(judge, problems, texts)
                                          for judge in self.judges), strict=True)]

    def set_rewards(self, batch, samples, rollout, tokenizer) -> None:
        """Pays the responses of a ppo.Batch, and puts the words into their verify.Reward."""
        problems, texts, rewards = zip(*samples, strict=True)
        for i, (value, words) in enumerate(self.pay(problems, texts)):
            batch.rewards[i] = value
            samples[i] = problems[i], texts[i], replace(rewards[i], total=value, words=words)


class Gold(Panel):
    """The control: pays the gold itself."""

    def __init__(self):
        super().__init__([], None)

    def pay(self, problems, texts):
        return [(writing.gold_reward(*row), "") for row in zip(problems, texts, strict=True)]
