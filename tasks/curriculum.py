"""The choice of a step's problems: uniform, easy levels first, or by the policy's success rates.

    uniform       each level of --train-levels in turn, or any problem of a file
    curriculum    one of the floor(n * p) + 1 easiest of n levels; p: proportion of training done
    prioritized   a level, or a problem of a file, with probability proportional to 1 - s

s is the success rate: the share of right responses when the level or the problem was last sampled,
and 0 before. The policy changes, so earlier rates are not kept. Most tasks generate new problems,
so they have one rate per level. Paper: Kimi k1.5 2501.12599, section 2.3.4. There the probability
may be 0. Here 1 - s is at least LEAST_WEIGHT, so a problem that the policy unlearns is found again.
Left out on purpose: difficulty labels of a file, and averages of a problem's earlier rates.
"""

from dataclasses import replace

LEAST_WEIGHT = 0.05  # lower bound of 1 - s
PROBLEM_SAMPLING = ("uniform", "curriculum", "prioritized")


def weight(rate: float) -> float:
    """The weight in prioritized sampling of a level or problem with this success rate."""
    return max(LEAST_WEIGHT, 1 - rate)


def sample_problems(task, rng, n: int, state: dict, options, done: float) -> list:
    """n training problems by options.problem_sampling. state: the training state, where
    `record_success` keeps the success rates. done: the proportion of training that is done."""
    method, rates = options.problem_sampling, state.get("success_rates", {})
    if method == "uniform":
        return task.sample(rng, n)
    levels = sorted(getattr(task, "parts", []), key=lambda part: part.level)
    # 1. a file: prioritized sampling of its problems
    if not levels:
        weights = [weight(rates.get(problem.identity, 0.0)) for problem in task.train]
        return rng.choices(task.train, weights, k=n)
    # 2. levels: a curriculum of equal weights, or prioritized sampling
    weights = [1.0] * min(len(levels), int(len(levels) * done) + 1)
    if method == "prioritized":
        weights = [weight(rates.get(str(part.level), 0.0)) for part in levels]
    return [replace(problem, level=part.level)
            for part in rng.choices(levels[:len(weights)], weights, k=n)
            for problem in part.sample(rng, 1)]


def record_success(state: dict, samples, options) -> None:
    """Writes success rates of (problem, text, verify.Reward) samples to state["success_rates"]. The
    key is a problem's level, or its identity if it has no level. Only prioritized sampling reads
    the rates."""
    if options.problem_sampling != "prioritized":
        return
    verdicts = {}
    for problem, _, reward in samples:
        if not problem.answer:  # an open request has no verdict
            continue
        key = str(problem.level) if problem.level else problem.identity
        verdicts.setdefault(key, []).append(reward.parts["correct"])
    rates = {key: sum(right) / len(right) for key, right in verdicts.items()}
    state.setdefault("success_rates", {}).update(rates)
