"""What the search methods of search.py ask of the models: completions, next steps, scores.

The methods work on texts, and token ids stay in here. The ids of a partial response are kept as
they were sampled: the same text, encoded again, may have other ids and would be continued
differently.
"""

import evaluate
import prm
from engine.sampler import generate


class Completer:
    """A policy that completes texts, and reward models {name: prm.StepScorer} that score them.
    Tests replace it by one that reads its texts and scores from a script."""

    def __init__(self, policy, tokenizer, max_new_tokens: int, temperature: float = 1.0,
                 reward_models=None, beams: int = 0):
        self.policy, self.tokenizer = policy, tokenizer
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.reward_models, self.beams = reward_models or {}, beams
        self.sampled_ids = {}  # (question, partial response) -> its ids, as sampled

    def complete(self, questions, n: int, seed: int, prefixes=None, stop="", greedy=False,
                 max_new_tokens=0):
        """n responses to each question: for each question a list of n (text, tokens sampled).

        prefixes: the beginning of each response, which the text includes. A prefix that has ended
        is returned as it is. stop: a string that ends the text, which does not include it."""
        prefixes, stops = prefixes or [""] * len(questions), [stop] if stop else []
        rollout = generate(
            self.policy, [self.tokenizer.encode_prompt(q) for q in questions], n,
            max_new_tokens or self.max_new_tokens, 0.0 if greedy else self.temperature, seed,
            prefixes=[self.tokenizer.encode(text) for text in prefixes],
            **evaluate.stop_conditions(self.policy, self.tokenizer, *stops))
        made = []
        for g, ids in zip(rollout.group.tolist(), rollout.responses(), strict=True):
            if self.tokenizer.has_stop_string(prefixes[g]):
                ids = []
            text = self.tokenizer.decode_response(ids)
            made.append((prefixes[g] + (text.partition(stop)[0] if stop else text), len(ids)))
        return [made[i * n:(i + 1) * n] for i in range(len(questions))]

    def next_steps(self, questions, prefixes, n: int, seeds, greedy=False):
        """n ways to extend each of P partial responses by one step (a line, with its line end):
        P * n of (text, tokens sampled, whether the response has ended), row by row.

        seeds: one per row, or one int. With the same seed in each call, a row's steps are those
        that it would have sampled without a break."""
        ids = [self.sampled_ids.get(key, []) for key in zip(questions, prefixes, strict=True)]
        newlines = self.tokenizer.newline_tokens
        stops = evaluate.stop_conditions(self.policy, self.tokenizer)
        rollout = generate(
            self.policy, [self.tokenizer.encode_prompt(q) for q in questions], n,
            max(1, self.max_new_tokens - min(map(len, ids))), 0.0 if greedy else self.temperature,
            seeds, prefixes=ids, **stops | dict(stop=[*stops["stop"], *newlines]))
        extended = []
        for row, new in enumerate(rollout.responses()):
            room = self.max_new_tokens - len(ids[row // n])
            new = new[:room]
            response = ids[row // n] + new
            text = self.tokenizer.decode_response(response)
            ended = (new[-1] not in newlines or len(new) >= room
                     or self.tokenizer.has_stop_string(text))
            extended.append((text, len(new), ended))
            if not ended:
                self.sampled_ids[questions[row // n], text] = response
        return extended

    def score(self, name: str, questions, texts, ended=True) -> list[list[float]]:
        """The step scores of each text by the reward model `name` ("prm" or "orm"). ended: whether
        the texts are whole responses: one bool, or one for each text."""
        if name not in self.reward_models:
            raise ValueError(f"this run has no {name.upper()}; python prm.py --run RUN makes one")
        ended = [ended] * len(texts) if isinstance(ended, bool) else ended
        return prm.score_steps(self.reward_models[name], self.tokenizer, [
            (self.tokenizer.encode_prompt(q), self.tokenizer.encode(text)
             + [self.tokenizer.eos_id] * (end and not self.tokenizer.has_stop_string(text)))
            for q, text, end in zip(questions, texts, ended, strict=True)])
