"""pass@k: does RL add anything to the base, or does it only sharpen what the base can do?

    python -m recipes.pass_at_k                 three seeds

The share of problems that a policy solves in k samples is pass@k. The estimator is unbiased: of n
samples to a problem, c count (2107.03374):

    pass@k = mean over problems of 1 - C(n - c, k) / C(n, k)

2504.13837 counts right answers. There the base overtakes RL at large k, so RL adds nothing.
2506.14245 counts right answers with a true chain of thought (CoT-pass@k), since a base that samples
1,024 answers also guesses. There RL stays above. Here programs check every step
(tasks/oracle.py), so both are exact. All policies of a task start from one base; the long runs
sample equal numbers of tokens. `guessing` is the control: the answers of the base to the other
problems, which need no thought about this one.

The last task is beyond the base by construction. Its corpus has chains of one kind of step (sums
and differences, or products), chains of both kinds with two steps, and one in 750 of both kinds
with three. In its problems the kinds alternate over seven steps, and the answer is all results, so
no guess hits it. One run has these problems alone. One has a curriculum of two to seven steps
(--train-levels). The control has RL on the problems of the corpus. These three sample twice the
tokens of a long run.
Left out on purpose: the choice of the best temperature and prompt for each k.
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

from collections import Counter
from dataclasses import replace
from functools import partial

import evaluate
import verify
from recipes import page, runs
from recipes.pass_at_k_page import BASE, GUESS, draw, tables
from tasks import Problem, chain, corpus, oracle

FLAGS = "--size nano --reward accuracy --prompts 16 --lr 8e-4 --steps 1000000"
STEPS = 7    # of the longest chains in the last task
THREE = 0.004  # of the corpus's chains of both kinds have three steps
SHORT = 0.1  # the tokens of short RL, as a share of those of long RL


class Compose(chain.Chain):
    """Chains without false facts. The answer is the digits of all results, so no guess hits it.
    At level n > 1 a chain has n steps whose kinds alternate. At level 1, the corpus, two chains of
    three have one kind. The third one alternates over two steps, and rarely over three."""

    levels = range(1, STEPS + 1)

    def sample_problem(self, rng, held_out):
        kinds, n = rng.sample(("+-", "*"), 2), self.level
        if n == 1 and rng.random() < 2 / 3:
            kinds, n = kinds[:1], rng.randint(1, STEPS)
        elif n == 1:
            n = 3 if rng.random() < THREE else 2
        text, steps = chain.sample_chain(rng, n, n, (STEPS * kinds)[:n])
        return Problem(text, "".join(str(step[3]) for step in steps), steps, noisy_facts=True)

    @staticmethod
    def correct(problem, text: str) -> bool:
        return verify.extract(text) == problem.answer

    def document(self, rng, problem, drill=False):
        lines, _ = chain.tell_chain(rng, problem.steps, error_scale=0)
        return corpus.tagged("\n".join(lines), "".join(line[-1] for line in lines))


# policy -> (share of the tokens, options that differ)
MAIN = {BASE: (0, {}), "short RL": (SHORT, {}), "long RL": (1, {})}
CURED = {"long RL, KL-Cov": (1, dict(token_filter="kl-cov", cov_ratio=0.02, clip_low=1.0,
                                     clip_high=1000.0)),
         "long RL, pass@8": (1, dict(algo="passk", pass_at=8))}
BEYOND = {BASE: (0, {}), "RL on the corpus": (2, dict(train_levels="1")), "RL": (2, {}),
          "RL, curriculum": (2, dict(train_levels="2,3,4,5,6,7", problem_sampling="curriculum"))}
TASKS = {  # name -> (flags, task of the base, task of RL and of the problems, policies)
    "chain": ("--task chain --level 2 --base-steps 400", None, None, MAIN | CURED),
    "arithmetic": ("--task arithmetic --level 1 --base-steps 400", None, None, MAIN),
    "countdown": ("--task countdown --level 1 --base-steps 400", None, None, MAIN),
    "beyond the base": ("--task chain --base-steps 500", Compose(1), Compose(STEPS), BEYOND),
}


# --- a seed

def count(task, problems, samples: list[Counter]) -> dict:
    """How many samples to each problem have the right answer, and how many of these true steps.
    samples: {response: how often it was sampled} of each problem."""
    right = [{text: times for text, times in texts.items() if task.correct(problem, text)}
             for problem, texts in zip(problems, samples, strict=True)]
    return {"n": samples[0].total(), "answers": [sum(texts.values()) for texts in right],
            "steps": [sum(times for text, times in texts.items()
                          if oracle.true_working(problem, text))
                      for problem, texts in zip(problems, right, strict=True)]}


def count_guesses(task, problems, samples: list[Counter]) -> dict:
    """The same for the answers to all other problems: how many are right here, by chance."""
    answers = [Counter() for _ in problems]
    for own, texts in zip(answers, samples, strict=True):
        for text, times in texts.items():
            own[verify.extract(text)] += times
    total = sum(answers, Counter())
    right = [sum(times for answer, times in (total - own).items()
                 if answer and task.correct(problem, f"<answer>{answer}</answer>"))
             for problem, own in zip(problems, answers, strict=True)]
    return {"n": total.total() - samples[0].total(), "answers": right}


def work(seed: int, folder: Path, args) -> dict:
    """{task: {policy: counts}} of a seed."""
    result = {}
    for name, (flags, base_task, target, policies) in TASKS.items():
        base, task, tokenizer, options = runs.start(f"{FLAGS} {flags} {args.flags}", seed,
                                                    args.work, base_task)
        start = base, target or task, tokenizer, options
        result[name] = {}
        for policy, arm in policies.items():
            path = folder / name.replace(" ", "-") / f"{policy.replace(' ', '-')}.json"
            result[name] |= page.kept(path, partial(counts_of, policy, arm, start, seed, path,
                                                    args))
    return result


def counts_of(policy: str, arm: tuple, start: tuple, seed: int, path: Path, args) -> dict:
    """{policy: its counts, tokens and entropies}, and for the base also the counts of guesses. arm:
    an item of TASKS' policies. start: base, task, tokenizer and options. The run is kept beside
    `path`."""
    (share, changes), (model, task, tokenizer, options), history = arm, start, []
    problems = task.held_out(args.problems)
    if share:
        budget = max(1, int(share * args.tokens))
        model, history = runs.reinforced(path.with_suffix(".pt"), model, task, tokenizer, replace(
            options, token_budget=budget, **changes))
    samples = [Counter(texts) for _, texts in evaluate.sample_each(
        model, tokenizer, problems, args.samples, 1000 * seed, options.max_new_tokens)]
    found = {policy: count(task, problems, samples) | {
        "tokens": sum(line["tokens"] for line in history),
        "entropy": [line["entropy"] for line in history]}}
    return found | ({GUESS: count_guesses(task, problems, samples)} if policy == BASE else {})


def main(argv=None) -> int:
    numbers = [("--tokens", 400_000, "sampled by a long run"),
               ("--problems", 24, "held-out problems of each task", 3),
               ("--samples", 1024, "samples to each problem", 2)]
    return page.main("pass_at_k", "pass@k: base against RL", __doc__, work, tables, draw, argv,
                     numbers, seeds="0,1,2")


if __name__ == "__main__":
    sys.exit(main())
