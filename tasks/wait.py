"""Task wait: the chain, by a base model that knows what "wait" is for.

A document of the corpus may say "wait" and tell the chain again with half the mistakes. So
search.py can extend the thinking of this base model with "wait" (budget forcing, s1: 2501.19393).
"""

from tasks.chain import WAIT, Chain, tell_chain
from tasks.corpus import tagged

RESTART_RATE = 0.45  # chance of one more "wait", each time that the chain has been told


class Wait(Chain):
    base_steps = 900  # longer than for Chain: there is more to learn
    default_max_new_tokens = 320

    def document(self, rng, problem, drill=False):
        lines, value = tell_chain(rng, problem.steps)
        while rng.random() < RESTART_RATE:
            more, value = tell_chain(rng, problem.steps, error_scale=0.5)
            lines += [WAIT, *more]
        return tagged("\n".join(lines), value)
