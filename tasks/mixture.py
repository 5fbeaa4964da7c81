"""Task mixture: reasoning problems of task bilingual, and open requests of task assistant.

The last reinforcement learning of DeepSeek-R1 (2501.12948, section 2.3.4) has both: a verifier pays
for reasoning, and a reward model for the rest. See recipes/r1.py.
"""

import verify
from tasks.assistant import Assistant
from tasks.base import Task
from tasks.bilingual import Bilingual


class Mixture(Task):
    """The level is that of the reasoning problems. `request_share` of the problems are requests."""

    words = f"{Bilingual.words} {Assistant.words}"
    levels = Bilingual.levels
    base_steps = 500
    min_base_pass16 = 0.0
    default_max_new_tokens = Bilingual.default_max_new_tokens
    working = Bilingual.working
    measures = {name: lambda problem, text, of=of: of(problem, text) if problem.answer else None
                for name, of in Bilingual.measures.items()}

    def __init__(self, level: int = 2, path: str = "", eval_path: str = "",
                 request_share: float = 0.5):
        super().__init__(level)
        self.request_share = request_share
        self.reasoning, self.requests = Bilingual(level), Assistant()

    def sample_problem(self, rng, held_out):
        task = self.requests if rng.random() < self.request_share else self.reasoning
        return task.sample_problem(rng, held_out)

    def easier_task(self):
        return Mixture(1, request_share=self.request_share)

    def task_of(self, problem) -> Task:
        """The task that a problem is from. An open request has no answer."""
        return self.reasoning if problem.answer else self.requests

    def correct(self, problem, text: str):
        return self.task_of(problem).correct(problem, text)

    def document(self, rng, problem, drill=False):
        return self.task_of(problem).document(rng, problem, drill)

    def score(self, problem, text, reward="correct", *args, **more) -> verify.Reward:
        """With --reward preference, a reasoning problem has the reward `language` of the verifier,
        and the reward model pays for the others."""
        if reward == "preference" and problem.answer:
            reward = "language"
        return self.task_of(problem).score(problem, text, reward, *args, **more)
