"""The exercises of the course: which functions students write, in an order in which they can.

blank.py removes their bodies, grade.py gives the points. DIAGNOSIS is the number of broken runs of
part 6, one point each. Together they are 100 points. Another choice of exercises is another table.
"""

from dataclasses import dataclass

DIAGNOSIS = 10


@dataclass(frozen=True)
class Exercise:
    part: int
    file: str            # from the root of the repository
    function: str        # "decode", or "KVCache.__call__" for a method
    points: int
    uses: tuple = ()     # other exercises that the function calls; mend these first
    table: str = ""      # a dict of lambdas that students write; the function itself stays
    returns: tuple = ()  # names of the results, if the function returns several

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".")

    @property
    def short(self) -> str:
        """The function without its class."""
        return self.function.split(".")[-1]

    @property
    def name(self) -> str:
        return f"{self.file} {self.function}"


EXERCISES = [
    # 1 sampling with a KV cache
    Exercise(1, "engine/rng.py", "inverse_cdf", 2),
    Exercise(1, "engine/rng.py", "sample_tokens", 3, uses=("inverse_cdf",),
             returns=("tokens", "log-probs", "entropies")),
    Exercise(1, "model.py", "rotate", 2),
    Exercise(1, "sample.py", "KVCache.next_tokens", 2),
    Exercise(1, "sample.py", "KVCache.__call__", 3, uses=("KVCache.next_tokens",)),
    Exercise(1, "sample.py", "decode", 4, uses=("sample_tokens", "rotate", "KVCache.next_tokens",
                                                "KVCache.__call__")),
    # 2 verifiers and rewards
    Exercise(2, "verify.py", "well_formed", 2),
    Exercise(2, "verify.py", "extract", 3),
    Exercise(2, "verify.py", "number", 3),
    Exercise(2, "grading/expression.py", "expression", 3, returns=("value", "numbers")),
    # 3 the base, SFT, pass@k
    Exercise(3, "sft.py", "padded", 2, returns=("tokens", "mask")),
    Exercise(3, "model.py", "GPT.logprobs_of", 3),
    Exercise(3, "verify.py", "wilson", 2),
    Exercise(3, "verify.py", "pass_at_k", 3),
    # 4 policy gradient to GRPO
    Exercise(4, "grpo.py", "group_std", 2),
    Exercise(4, "grpo.py", "group_advantages", 3, uses=("group_std",)),
    Exercise(4, "ppo.py", "surrogate", 4),
    Exercise(4, "ppo.py", "clipped", 2, returns=("below", "above")),
    Exercise(4, "ppo.py", "kl", 3, table="KL"),
    Exercise(4, "ppo.py", "token_weights", 3, table="AGGREGATIONS"),
    Exercise(4, "grpo.py", "sequence_log_ratio", 2),
    Exercise(4, "ppo.py", "token_rewards", 3, uses=("kl",)),
    # 5 PPO and its critic
    Exercise(5, "ppo.py", "gae", 4),
    Exercise(5, "ppo.py", "whiten", 2),
    Exercise(5, "ppo.py", "value_loss", 2),
    Exercise(5, "ppo.py", "explained_variance", 2),
    # 6 DAPO and the diagnosis of broken runs
    Exercise(6, "dapo.py", "informative", 2),
    Exercise(6, "dapo.py", "overlong_penalty", 2),
    Exercise(6, "dapo.py", "prompts_to_sample", 2),
    # 7 process reward models and search
    Exercise(7, "prm.py", "step_ends", 3),
    Exercise(7, "prm.py", "loss", 2),
    Exercise(7, "search.py", "group_by_answer", 2),
    Exercise(7, "search.py", "vote", 2, uses=("extract", "group_by_answer")),
    Exercise(7, "search.py", "prune", 3),
    Exercise(7, "search.py", "decode_with_budget", 3),
]
PARTS = sorted({exercise.part for exercise in EXERCISES})
