"""Inputs of part 7: process reward models and search. The answers are not here."""

from types import SimpleNamespace

import torch
from torch import nn


def step_ends(f):
    def call(*pieces):
        def decode_bytes(ids):
            return b"".join(pieces[i].encode() for i in ids)
        tokenizer = SimpleNamespace(decode_bytes=decode_bytes,
                                    decode=lambda ids: decode_bytes(ids).decode())
        return f(tokenizer, list(range(len(pieces))))
    yield "three lines", call, "1+1=2", "\n", "2+2", "=4", "\n", "5"
    yield "lines and the end of the thinking", call, "a", "\n", "b", "</think>", "<answer>", "5"
    yield "a line end inside a token", call, "1+1", "=2\n3", "=3\n", "end"
    yield "a tag of several tokens", call, "a", "</th", "ink", ">", "5", "</answer>"
    yield "a response that ends with a line end", call, "a", "\n", "b", "\n"
    yield "two line ends in a row", call, "a", "\n", "\n", "b"
    yield "two line ends in one token", call, "a", "\n\n", "b"
    yield "one step", call, "a", "b", "c"
    yield "other tags, and a broken one", call, "<think>", "a", "</think", "b", "</answer>", "c"
    yield "a tag that begins in the token of a line end", call, "a", "\n</", "think>", "x"
    yield "letters of two bytes", call, "éé", "\n", "ü", "\n", "x"


class Scorer(nn.Module):
    """Logits that depend on token and place, with one weight."""

    def __init__(self, weight: float):
        super().__init__()
        self.head = nn.Linear(1, 1)
        self.head.weight.data = torch.tensor([[weight]])

    def forward(self, tokens, mask, step_mask):
        places = torch.arange(1, 1 + tokens.shape[1])
        return ((tokens - 3.3 + places / 10) * self.head.weight)[step_mask]


def prm_loss(f):
    def call(weight, pairs, ends, labels):
        scorer = Scorer(weight)
        loss = f(scorer, pairs, ends, labels)
        gradient = torch.zeros(1)
        if loss.requires_grad:
            gradient = torch.autograd.grad(loss.sum(), scorer.head.weight)[0][0]
        return {"loss": loss, "gradient": gradient}
    one, two = ([1, 2], [5, 1, 4]), ([3], [2, 6])
    yield "one step, label 1 (value and gradient)", call, 0.5, [one], [[2]], [[1.0]]
    yield "one step, label 0", call, 0.5, [one], [[2]], [[0.0]]
    yield "labels between 0 and 1", call, 0.5, [one], [[0, 2]], [[0.25, 0.75]]
    yield "two solutions, three steps", call, 0.7, [one, two], [[0, 2], [1]], [[0.5, 1.0], [0.0]]
    yield "logits of some hundreds", call, 90.0, [one, two], [[0, 2], [1]], [[0.5, 1.0], [0.0]]


def group_by_answer(f):
    yield "equal texts", f, ["5", "6", "5", "5"]
    yield "no answers among them", f, [None, "5", None, "6", "5"]
    yield "equal values", f, ["1/2", "0.5", "2", "2/4", "2.0"]
    yield "words", f, ["x", "y", "x"]
    yield "no answer at all", f, [None, None]
    yield "nothing", f, []
    yield "answers that cannot be compared", f, ["3 apples", "3 pears", "3 pears"]
    yield "the larger group comes second", f, ["1", "2", "2", "3", "2", "1"]


def response(answer: str, thought: str = "t") -> str:
    return f"<think>{thought}</think><answer>{answer}</answer>"


def questions(n: int) -> list:
    return [SimpleNamespace(question=f"question {i}", answer="?") for i in range(n)]


def vars_of(result) -> dict:
    return {"text": result.text, "tokens": result.tokens, "samples": list(result.samples)}


def vote(f):
    def call(*samples):
        """Each problem has a list of (text, tokens)."""
        def complete(asked, n, seed, *more, **how):
            order = 1 if seed == 3 else -1  # another seed gives other samples
            return [list(samples[int(q.split()[1])])[:n][::order] for q in asked]
        found = f(SimpleNamespace(complete=complete), questions(len(samples)), len(samples[0]), 3)
        return [vars_of(result) for result in found]
    a, b, c = response("5", "a"), response("6", "b"), response("5", "c")
    yield "two of three agree", call, [(b, 3), (a, 4), (c, 5)]
    yield "a tie", call, [(b, 3), (a, 4), (response("6", "d"), 2), (c, 5)]
    yield "equal values in other words", call, [(b, 1), (response("1/2"), 1), (response("0.5"), 1)]
    yield "groups of 2, 3 and 1", call, [(a, 1), (c, 1), (b, 2), (b, 3), (response("7"), 4), (b, 5)]
    yield "most samples have no answer", call, [("none", 9), ("none", 9), (a, 4), ("no", 1)]
    yield "no sample has an answer", call, [("none", 9), ("nothing", 8)]
    yield "two problems", call, [(a, 1), (b, 2), (b, 3)], [(b, 4), (c, 5), (a, 6)]


def prune(f):
    def call(samples, scores, ended, beams, subtrees):
        from search import SearchResult
        result, ended = SearchResult("", 0, list(samples), [list(s) for s in scores]), list(ended)
        f(result, ended, beams, subtrees)
        return {"samples": list(result.samples), "scores": [list(s) for s in result.scores],
                "ended": list(ended)}
    scores = [[0.9, 0.2], [0.5, 0.6], [0.7, 0.8], [0.3, 0.9]]
    on = [False] * 4
    yield "the best of four beams, two of them ended", call, "abcd", scores, [True, False, True,
                                                                              False], 1, False
    yield "the best two of four beams", call, "abcd", scores, [False, True, False, False], 2, False
    yield "equal texts", call, "cbca", [[0.9], [0.5], [0.8], [0.1]], on, 2, False
    yield "fewer texts than beams", call, "ccca", [[0.9], [0.5], [0.8], [0.1]], on, 2, False
    yield "subtrees", call, "abcd", [[0.9], [0.8], [0.2], [0.3]], on, 2, True
    yield "equal scores", call, "abcd", [[0.5], [0.7], [0.7], [0.5]], on, 2, False
    yield ("steps of 0.6 and 0.6 against one of 0.5", call, "abcd",
           [[0.5], [0.6, 0.6], [0.1], [0.2]], on, 1, False)
    yield "one text in all beams", call, "cccc", [[0.9], [0.5], [0.8], [0.1]], on, 2, False
    six = [[0.3], [0.6], [0.1], [0.7], [0.9], [0.8]]
    yield ("six beams, the best three", call, "cbcaac",
           [[0.9], [0.8], [0.7], [0.6], [0.1], [0.3]], [False] * 6, 3, False)
    yield "six beams, two subtrees", call, "abcdef", six, [False] * 6, 2, True
    yield "six beams, three subtrees", call, "abcdef", six, [False] * 6, 3, True
    yield "all beams have ended", call, "abcd", scores, [True] * 4, 2, False


class Writer:
    """A completer without a model: it thinks in three words, and longer after each insertion."""

    max_new_tokens = 7
    tokenizer = SimpleNamespace(
        has_stop_string=lambda text: "</answer>" in text or "<end>" in text)

    def next(self, question: str, text: str, greedy: bool) -> str:
        if question == "question 1":  # it does not think
            return "8</answer>" if text else "<answer>"
        if question == "question 3":  # it ends by another stop string
            return "<end>"
        if "</think>" in text and question in ("question 4", "question 5"):  # a long answer
            words = text.rpartition("<answer>")[2].split()
            longest = 10 if question == "question 4" else 40
            return "7</answer>" if len(words) == longest else " so" if greedy else " hm"
        if text.endswith("<answer>") and question == "question 6":
            return "</think>"
        if "</think>" in text:
            return "7</answer>" if text.endswith(("<answer>", "<answer></think>")) else "<answer>"
        words = text.split("wait")[-1].split()
        longer = 3 + text.count("wait") + 4 * (question == "question 2")
        return "</think>" if len(words) >= longer else " so" if greedy else " hm"

    def complete(self, asked, n, seed, prefixes=None, stop="", greedy=False, max_new_tokens=0):
        made = []
        for question, text in zip(asked, prefixes or [""] * len(asked), strict=True):
            tokens = 0
            ended = self.tokenizer.has_stop_string
            while tokens < (max_new_tokens or self.max_new_tokens) and not ended(text):
                word, tokens = self.next(question, text, greedy), tokens + 1
                if word == stop:
                    break
                text += word
            made.append([(text, tokens)] * n)
        return made


def decode_with_budget(f):
    def call(count, insertions, max_thinking):
        """count: of the questions, or the number of a single one in a list."""
        asked = questions(count) if isinstance(count, int) else questions(7)[count[0]:][:1]
        found = f(Writer(), asked, insertions, max_thinking, 0)
        return [vars_of(result) for result in found]
    yield "no insertion", call, 1, [], 0
    yield "one insertion", call, 1, [" wait"], 0
    yield "two insertions", call, 1, [" wait", " wait"], 0
    yield "at most 2 tokens of thinking", call, 1, [], 2
    yield "at most 2 tokens of thinking, one insertion", call, 1, [" wait"], 2
    yield "a response without thinking, and a long one", call, 3, [" wait"], 0
    yield "two different insertions", call, 1, [" hm", " wait"], 0
    yield "a response that ends by another stop string", call, [3], [" wait"], 0
    yield "an answer of 12 tokens", call, [4], [], 0
    yield "an answer of 42 tokens", call, [5], [], 0
    yield "an answer with </think> in it", call, [6], [], 0


CHECKS = {"step_ends": step_ends, "loss": prm_loss, "group_by_answer": group_by_answer,
          "vote": vote, "prune": prune, "decode_with_budget": decode_with_budget}
