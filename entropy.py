"""Entropy: what keeps a policy exploring. Options of every algorithm, on top of its own loss.

A policy gradient lowers the entropy most where log-prob and advantage have a high covariance: at
likely tokens that did well, and at rare ones that did badly. Few tokens cause most of the fall, so
a filter acts on these alone, once per optimizer step (--token-filter):

    cov[t] = (A[t] - mean A) * (logp[t] - mean logp)        means over the tokens of the step
    clip-cov     no gradient at a random --cov-ratio of the tokens, chosen where 1 < cov < 5
    kl-cov       loss += --kl-cov-coef * |logp - old_logp| at the --cov-ratio with the highest cov
    top-entropy  a gradient only at the --top-entropy-quantile of tokens with the highest entropy

The bonus has a schedule or a target. With a target, its coefficient rises by 0.005 after a step
with less entropy, falls by 0.005 after one with more, and is not applied after the latter.

Differences from the authors' code: it takes means and ranks over a micro-batch, under the current
policy. Here they are over an optimizer step, under the policy that sampled, so that no cut changes
them. Their KL-Cov has no clip, which is --clip-low 1 --clip-high 1000 here. Papers: Clip-Cov,
KL-Cov, the fit 2505.22617; top-entropy 2506.01939; target 2505.22312. Clip-Higher is in dapo.py.
Left out on purpose: filters with a critic, or with one ratio per response.

    python entropy.py runs/NAME      fits R = -a * exp(H) + b: accuracy R and entropy H of each step
"""

import math
import sys
from dataclasses import replace

import torch

import ppo

COV_LOW, COV_HIGH = 1.0, 5.0    # bounds of clip-cov
COEF_STEP, COEF_MAX = 0.005, 1  # of the coefficient with --entropy-target


# --- filters: functions of the Batch of one optimizer step, options and random.Random

def covariance(advantages, logp, mask):
    """The covariance of each token (N, T): its mean is that of the step. -inf where mask is 0."""
    def centred(x):
        return x - (x * mask).sum() / mask.sum()
    return torch.where(mask > 0, centred(advantages) * centred(logp), -math.inf)


def clip_cov(batch: ppo.Batch, options, rng) -> ppo.Batch:
    """The advantage of tokens chosen at random among those of high covariance is 0."""
    cov = covariance(batch.advantages, batch.old_logp, batch.mask)
    high = ((cov > COV_LOW) & (cov < COV_HIGH)).nonzero()                                # (n, 2)
    count = max(1, int(options.cov_ratio * int(batch.mask.sum())))
    chosen = high[rng.sample(range(len(high)), min(count, len(high)))]
    kept = torch.ones_like(cov).index_put(tuple(chosen.T), cov.new_zeros(()))
    return replace(batch, advantages=batch.advantages * kept)


def kl_cov(batch: ppo.Batch, options, rng) -> ppo.Batch:
    """The tokens of highest covariance get a penalty for leaving the policy that sampled."""
    cov = covariance(batch.advantages, batch.old_logp, batch.mask).flatten()
    count = max(1, int(options.cov_ratio * int(batch.mask.sum())))
    highest = cov.argsort(descending=True, stable=True)[:count]
    penalty = torch.zeros_like(cov).index_fill(0, highest, options.kl_cov_coef)
    return replace(batch, kl_cov=penalty.view_as(batch.mask))


def top_entropy(batch: ppo.Batch, options, rng) -> ppo.Batch:
    """The advantage of tokens whose entropy is below its quantile is 0."""
    threshold = batch.entropy[batch.mask > 0].quantile(1 - options.top_entropy_quantile)
    return replace(batch, advantages=batch.advantages * (batch.entropy >= threshold))


TOKEN_FILTERS = {"none": lambda batch, options, rng: batch, "clip-cov": clip_cov,
                 "kl-cov": kl_cov, "top-entropy": top_entropy}  # the choices of --token-filter


def minibatches(batch: ppo.Batch, options, rng):
    """Yields the Batch of each optimizer step (ppo.minibatches), with its tokens filtered."""
    for part in ppo.minibatches(batch, options, rng):
        yield TOKEN_FILTERS[options.token_filter](part, options, rng)


# --- the coefficient of the bonus

SCHEDULES = {  # the choices of --entropy-schedule: a factor, from the proportion of the run done
    "constant": lambda done: 1.0,
    "linear": lambda done: max(0.0, 1 - done),
}


def coefficient(state: dict, options, done: float) -> float:
    """The coefficient in the next step. done: the proportion of the run that is done."""
    if not options.entropy_target:
        return options.entropy_coef * SCHEDULES[options.entropy_schedule](done)
    return state["entropy_coef"] if state.get("entropy", math.inf) <= options.entropy_target else 0


def adapted(coef: float, entropy: float, target: float) -> dict:
    """What the training state keeps after a step with this entropy, for `coefficient`."""
    step = COEF_STEP if entropy <= target else -COEF_STEP
    return {"entropy": entropy, "entropy_coef": min(COEF_MAX, max(0.0, coef + step))}


# --- the fit of a run

def fit(entropy, accuracy) -> tuple[float, float, float]:
    """a, b and R2 of the least-squares fit accuracy = -a * exp(entropy) + b, of a value per step
    each. Raises ValueError for fewer than 3 steps, and where one of the two never changes."""
    x, y = pairs = torch.tensor([entropy, accuracy], dtype=torch.float64)
    x.exp_()
    if len(x) < 3 or len({*entropy}) < 2 or len({*accuracy}) < 2:
        raise ValueError("the fit needs at least 3 steps, with changing entropy and accuracy")
    slope = pairs.cov()[0, 1] / x.var()
    return -float(slope), float(y.mean() - slope * x.mean()), float(pairs.corrcoef()[0, 1] ** 2)


def main(argv=None) -> int:
    from infra import entropy_fit  # not at the top: entropy_fit imports this file
    return entropy_fit.main(argv)


if __name__ == "__main__":
    sys.exit(main())
