"""What the methods of search.py play with: a policy that completes texts, and judges of them.

Everything here is texts; tokens stay within. What was drawn is remembered as the tokens it was
drawn as, since the same text cut otherwise would be continued otherwise.
"""

from dataclasses import dataclass, field

import evaluate
import prm
import tokenizer
from sample import generate


@dataclass
class Found:
    """What a method makes of one problem."""

    text: str            # the response it chose
    tokens: int          # how many tokens were drawn for it
    samples: list[str]   # all responses it chose from
    scores: list = field(default_factory=list)  # of each sample, step by step, where a judge spoke


class Player:
    """A policy that completes texts, and judges of what it wrote. Tests play with one that reads
    from a script."""

    def __init__(self, policy, max_new_tokens: int, temperature: float = 1.0, judges=None,
                 beams: int = 0):
        self.policy, self.longest, self.temperature = policy, max_new_tokens, temperature
        self.judges, self.beams = judges or {}, beams
        self.written = {}  # (question, text) -> the tokens it was drawn as

    def complete(self, questions, n: int, seed: int, begun=None, stop=(), greedy=False,
                 longest=0):
        """n responses to each question: [[(text, tokens drawn)]]. begun: of each question the
        beginning of its response, which the text includes; stop: tokens that end it as well as the
        end of text, and are not in it."""
        begun, how = begun or [""] * len(questions), evaluate.ending(self.policy)
        ends = [*how["stop"], *stop]
        rollout = generate(
            self.policy, [tokenizer.encode_prompt(q) for q in questions], n,
            longest or self.longest, 0.0 if greedy else self.temperature, seed,
            prefixes=[tokenizer.encode(text) for text in begun], **how | dict(stop=ends))
        made = [(begun[g] + tokenizer.decode(ids[:-1] if ids[-1] in ends else ids), len(ids))
                for g, ids in zip(rollout.group.tolist(), rollout.responses(), strict=True)]
        return [made[i * n:(i + 1) * n] for i in range(len(questions))]

    def steps(self, questions, begun, n: int, seeds, greedy=False):
        """n ways to add one more step to each response begun: [(text, tokens drawn, whether it has
        ended)], row by row. The line's end is part of the text. seeds: of each row its own; a step
        draws what the row would have drawn had it never stopped."""
        ids = [self.written.get(key, []) for key in zip(questions, begun, strict=True)]
        rollout = generate(
            self.policy, [tokenizer.encode_prompt(q) for q in questions], n,
            max(1, self.longest - min(map(len, ids))), 0.0 if greedy else self.temperature, seeds,
            stop=[tokenizer.EOT, prm.NEWLINE], pad=tokenizer.PAD, prefixes=ids)
        grown = []
        for row, new in enumerate(rollout.responses()):
            room = self.longest - len(ids[row // n])
            new = new[:room]
            every = ids[row // n] + new
            grown.append((tokenizer.text_of(every), len(new),
                          new[-1] != prm.NEWLINE or len(new) >= room))
            self.written[questions[row // n], grown[-1][0]] = every
        return grown

    def judge(self, name: str, questions, texts, ended=True) -> list[list[float]]:
        """What the judge of that name says of each text, step by step."""
        if name not in self.judges:
            raise ValueError(f"this run has no {name.upper()}; prm.py makes one")
        ended = [ended] * len(texts) if isinstance(ended, bool) else ended
        return prm.scores(self.judges[name], [
            (tokenizer.encode_prompt(q), tokenizer.encode(text) + [tokenizer.EOT] * end)
            for q, text, end in zip(questions, texts, ended, strict=True)])
