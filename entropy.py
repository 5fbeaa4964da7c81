"""Entropy: token filters and an entropy bonus for any algorithm, to keep its policy exploring.

The entropy falls if log-prob and advantage have a positive covariance: likely tokens with A > 0 and
rare tokens with A < 0. A few tokens cause most of the fall. A filter acts on them alone, once per
optimizer step (--token-filter):

    cov[t] = (A[t] - mean A) * (logp[t] - mean logp)        means over tokens of weight > 0
    clip-cov     A = 0 at random tokens with 1 < cov < 5, at most --cov-ratio of all tokens
    kl-cov       loss += --kl-cov-coef * |logp - old_logp| at the --cov-ratio with the highest cov
    top-entropy  A = 0 except at the --top-entropy-quantile of tokens with the highest entropy

The coefficient of the bonus has a schedule or a target. With a target, a step whose entropy is at
most the target raises it by 0.005, and other steps lower it by 0.005 and switch the next bonus off.

Differences from the authors' code: theirs takes means and ranks over a micro-batch with the current
logp; here they are over an optimizer step, with old_logp. Their KL-Cov does not clip: --clip-low 1
--clip-high 1000. Papers: Clip-Cov, KL-Cov and the fit 2505.22617; top-entropy 2506.01939; target
2505.22312. Clip-Higher is in dapo.py. Left out: filters with a critic, or a ratio per response.

    python entropy.py runs/NAME      fits R = -a * exp(H) + b: accuracy R and entropy H of each step
"""

import math
import sys
from dataclasses import replace

import torch

import ppo

COV_LOW, COV_HIGH = 1.0, 5.0    # clip-cov takes tokens whose covariance is between these
COEF_STEP, COEF_MAX = 0.005, 1  # change per step and maximum of the coefficient, with a target


# --- filters: functions of the Batch of one optimizer step, options and random.Random

def covariance(advantages, logp, mask):
    """cov[t] of each token (N, T); -inf where mask is 0. The mean of cov is the covariance."""
    def centred(x):
        return x - (x * mask).sum() / mask.sum()
    return torch.where(mask > 0, centred(advantages) * centred(logp), -math.inf)


def clip_cov(batch: ppo.Batch, options, rng) -> ppo.Batch:
    """The batch with advantage 0 at random tokens whose covariance is between the bounds."""
    cov = covariance(batch.advantages, batch.old_logp, batch.weights > 0)
    high = ((cov > COV_LOW) & (cov < COV_HIGH)).nonzero()                                # (n, 2)
    count = max(1, int(options.cov_ratio * int(cov.isfinite().sum())))
    chosen = high[rng.sample(range(len(high)), min(count, len(high)))]
    kept = torch.ones_like(cov).index_put(tuple(chosen.T), cov.new_zeros(()))
    return replace(batch, advantages=batch.advantages * kept)


def kl_cov(batch: ppo.Batch, options, rng) -> ppo.Batch:
    """The batch with kl_cov (N, T): the weight of |logp - old_logp|, 0 at most tokens."""
    cov = covariance(batch.advantages, batch.old_logp, batch.weights > 0).flatten()
    count = max(1, int(options.cov_ratio * int(cov.isfinite().sum())))
    highest = cov.argsort(descending=True, stable=True)[:count]
    penalty = torch.zeros_like(cov).index_fill(0, highest, options.kl_cov_coef)
    return replace(batch, kl_cov=penalty.view_as(batch.mask))


def top_entropy(batch: ppo.Batch, options, rng) -> ppo.Batch:
    """The batch with advantage 0 at tokens whose entropy is below the quantile."""
    weighed = batch.entropy[batch.weights > 0]  # none if all tokens are dropped
    threshold = weighed.quantile(1 - options.top_entropy_quantile) if len(weighed) else 0.0
    return replace(batch, advantages=batch.advantages * (batch.entropy >= threshold))


TOKEN_FILTERS = {"none": lambda batch, options, rng: batch, "clip-cov": clip_cov,
                 "kl-cov": kl_cov, "top-entropy": top_entropy}  # the choices of --token-filter


def minibatches(batch: ppo.Batch, options, rng):
    """Yields the Batch of each optimizer step (ppo.minibatches), after --token-filter."""
    for part in ppo.minibatches(batch, options, rng):
        yield TOKEN_FILTERS[options.token_filter](part, options, rng)


# --- the coefficient of the bonus

SCHEDULES = {  # the choices of --entropy-schedule: proportion of the run that is done -> factor
    "constant": lambda done: 1.0,
    "linear": lambda done: max(0.0, 1 - done),
}


def coefficient(state: dict, options, done: float) -> float:
    """The coefficient of the next step. done: the proportion of the run that is done."""
    if not options.entropy_target:
        return options.entropy_coef * SCHEDULES[options.entropy_schedule](done)
    return state["entropy_coef"] if state.get("entropy", math.inf) <= options.entropy_target else 0


def adapted(coef: float, entropy: float, target: float) -> dict:
    """The entries of the training state that `coefficient` reads after a step of this entropy."""
    step = COEF_STEP if entropy <= target else -COEF_STEP
    return {"entropy": entropy, "entropy_coef": min(COEF_MAX, max(0.0, coef + step))}


# --- the fit of a run

def fit(entropy, accuracy) -> tuple[float, float, float]:
    """a, b and R2 of the least-squares fit accuracy = -a * exp(entropy) + b, both lists over steps.
    Raises ValueError for fewer than 3 steps, and if a list is constant."""
    x, y = points = torch.tensor([[math.exp(h) for h in entropy], accuracy], dtype=torch.float64)
    if len(x) < 3 or len({*entropy}) < 2 or len({*accuracy}) < 2:
        raise ValueError("the fit needs at least 3 steps, with changing entropy and accuracy")
    slope = points.cov()[0, 1] / x.var()
    return -float(slope), float(y.mean() - slope * x.mean()), float(points.corrcoef()[0, 1] ** 2)


def main(argv=None) -> int:
    from infra import entropy_fit  # not at the top: entropy_fit imports this file
    return entropy_fit.main(argv)


if __name__ == "__main__":
    sys.exit(main())
