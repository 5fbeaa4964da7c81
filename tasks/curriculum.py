"""Which problems a step samples: all alike, easy levels first, or those that the policy fails.

    uniform       each level of --train-levels in turn, or any problem of a file
    curriculum    of n levels the floor(n * p) + 1 easiest, where p is the share of training done
    prioritized   a level, or a problem of a file, with a probability proportional to 1 - s

s is the success rate: the share of right responses when the level or the problem was last sampled,
and 0 before. The policy changes, so older rates are forgotten. Most tasks make each problem once;
their rate is that of the level. Paper: Kimi k1.5 2501.12599, section 2.3.4, where the probability
may be 0; here 1 - s is at least LEAST_WEIGHT, so that a forgotten problem is found again.
Left out on purpose: difficulty labels of a file, and rates over several visits.
"""

from dataclasses import replace

LEAST_WEIGHT = 0.05
PROBLEM_SAMPLING = ("uniform", "curriculum", "prioritized")


def weight(rate: float) -> float:
    """The weight in prioritized sampling of a level or problem with this success rate."""
    return max(LEAST_WEIGHT, 1 - rate)


def sample_problems(task, rng, n: int, state: dict, options, done: float) -> list:
    """n training problems by options.problem_sampling. state: of the training loop, in which
    `record_success` keeps the success rates. done: the share of the training that is done."""
    how, rates = options.problem_sampling, state.get("success_rates", {})
    if how == "uniform":
        return task.sample(rng, n)
    levels = sorted(getattr(task, "parts", []), key=lambda part: part.level)
    # 1. a file: its problems, by their success rates
    if not levels:
        weights = [weight(rates.get(problem.identity, 0.0)) for problem in task.train]
        return rng.choices(task.train, weights, k=n)
    # 2. levels: the easiest ones alike, or all by their success rates
    weights = [1.0] * min(len(levels), int(len(levels) * done) + 1)
    if how == "prioritized":
        weights = [weight(rates.get(str(part.level), 0.0)) for part in levels]
    return [replace(problem, level=part.level)
            for part in rng.choices(levels[:len(weights)], weights, k=n)
            for problem in part.sample(rng, 1)]


def record_success(state: dict, samples, options) -> None:
    """Keeps the success rates of (problem, text, verify.Reward) samples in the state, under the
    level of a problem, or its identity where it has none. Only prioritized sampling needs them."""
    if options.problem_sampling != "prioritized":
        return
    verdicts = {}
    for problem, _, reward in samples:
        key = str(problem.level) if problem.level else problem.identity
        verdicts.setdefault(key, []).append(reward.parts["correct"])
    rates = {key: sum(found) / len(found) for key, found in verdicts.items()}
    state.setdefault("success_rates", {}).update(rates)
