"""What the methods of search.py play with: a policy that completes texts, and judges of them.

Everything here is texts; tokens stay within. What was drawn is remembered as the tokens it was
drawn as, since the same text cut otherwise would be continued otherwise.
"""

from dataclasses import dataclass, field

import evaluate
import prm
import tokenizer
from engine.sampler import generate


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

    def complete(self, questions, n: int, seed: int, begun=None, stop="", greedy=False,
                 longest=0):
        """n responses to each question: [[(text, tokens drawn)]]. begun: of each question the
        beginning of its response, which the text includes (and which is the whole of it, where it
        has ended); stop: a text that ends it too, and is not in it."""
        begun, stops = begun or [""] * len(questions), [stop] if stop else []
        rollout = generate(
            self.policy, [tokenizer.encode_prompt(q) for q in questions], n,
            longest or self.longest, 0.0 if greedy else self.temperature, seed,
            prefixes=[tokenizer.encode(text) for text in begun],
            **evaluate.stop_conditions(self.policy, *stops))
        made = []
        for g, ids in zip(rollout.group.tolist(), rollout.responses(), strict=True):
            if tokenizer.has_stop_string(begun[g]):
                ids = []
            text = tokenizer.decode_response(ids)
            made.append((begun[g] + (text.partition(stop)[0] if stop else text), len(ids)))
        return [made[i * n:(i + 1) * n] for i in range(len(questions))]

    def steps(self, questions, begun, n: int, seeds, greedy=False):
        """n ways to add one more step to each response begun: [(text, tokens drawn, whether it has
        ended)], row by row. The line's end is part of the text. seeds: of each row its own; a step
        draws what the row would have drawn had it never stopped."""
        ids = [self.written.get(key, []) for key in zip(questions, begun, strict=True)]
        lines, how = tokenizer.newline_tokens(), evaluate.stop_conditions(self.policy)
        rollout = generate(
            self.policy, [tokenizer.encode_prompt(q) for q in questions], n,
            max(1, self.longest - min(map(len, ids))), 0.0 if greedy else self.temperature, seeds,
            prefixes=ids, **how | dict(stop=[*how["stop"], *lines]))
        grown = []
        for row, new in enumerate(rollout.responses()):
            room = self.longest - len(ids[row // n])
            new = new[:room]
            every = ids[row // n] + new
            text = tokenizer.decode_response(every)
            over = new[-1] not in lines or len(new) >= room or tokenizer.has_stop_string(text)
            grown.append((text, len(new), over))
            if not over:
                self.written[questions[row // n], text] = every
        return grown

    def judge(self, name: str, questions, texts, ended=True) -> list[list[float]]:
        """What the judge of that name says of each text, step by step."""
        if name not in self.judges:
            raise ValueError(f"this run has no {name.upper()}; prm.py makes one")
        ended = [ended] * len(texts) if isinstance(ended, bool) else ended
        return prm.scores(self.judges[name], [
            (tokenizer.encode_prompt(q), tokenizer.encode(text)
             + [tokenizer.EOT] * (end and not tokenizer.has_stop_string(text)))
            for q, text, end in zip(questions, texts, ended, strict=True)])
