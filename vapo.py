"""VAPO: PPO for long responses. Each response has its own GAE lambda, which grows with its length.

With the same lambda for all responses, little of the reward reaches the first tokens of a long one.
In VAPO the horizon of the GAE grows with the length. The loss also has a negative log-likelihood:

    lambda[i] = 1 - 1 / (alpha * length[i])     so 1 + lambda + lambda^2 + ... = alpha * length[i]
    loss = PPO's loss + nll_coef * mean of -logp over all tokens of right responses

The other parts are options of ppo.py, with these defaults: --critic-warmup 4 (value pretraining),
--critic-gae-lambda 1 (decoupled GAE), --clip-high 0.28, --aggregate token, --group-size 16.

Differences from ppo.py: the lambda of the advantages, and the negative log-likelihood. With
--gae-alpha 0, lambda is --gae-lambda. With --nll-coef 0 as well, this is PPO. The paper's alpha of
0.05 is meant for thousands of tokens: a response of at most 20 tokens has lambda 0. So the default
of --gae-alpha is 1. The mean of -logp is over the whole step, not over a mini-batch. So a right
response has the same weight in each mini-batch.
Paper: 2504.05118; decoupled GAE and value pretraining: VC-PPO 2503.01491. Left out on purpose: the
reward model as the first critic. Shapes: N sequences, T tokens.
"""

from dataclasses import replace

import ppo
from ppo import Batch

needs_critic = True
vapo_options = nll_options = True


def length_adaptive_lambda(lengths, alpha: float):
    """The lambda (N,) of responses with lengths (N,), in tokens: 1 - 1 / (alpha * length), but at
    least 0 (2504.05118). alpha is above 0."""
    return (1 - 1 / (alpha * lengths.clamp(min=1))).clamp(min=0)


def nll_weights(correct, mask):
    """Weights (N, T) of -logp: equal at all tokens of right responses, 0 at other tokens. Their
    mean over all tokens is 1, or 0 if no response is right. correct is (N,), 1.0 or 0.0."""
    right = mask * correct[:, None]
    return right * mask.sum() / right.sum().clamp(min=1)


def prepare(batch: Batch, options) -> Batch:
    """The batch with returns, advantages and nll, the weights (N, T) of -logp."""
    if options.gae_alpha:
        gae_lambda = length_adaptive_lambda(batch.mask.sum(1), options.gae_alpha)
        options = replace(options, gae_lambda=gae_lambda)
    nll = options.nll_coef * nll_weights(batch.correct, batch.mask)
    return replace(ppo.prepare(batch, options), nll=nll)


def policy_loss(logp, batch: Batch, options, entropy=None):
    """ppo.policy_loss, plus the weighted negative log-likelihood of right responses."""
    total, metrics = ppo.policy_loss(logp, batch, options, entropy)
    return total - (batch.weights * batch.nll * logp).sum(), metrics


def loss(policy, critic, batch: Batch, options):
    """Returns the loss of a micro-batch, policy and critic together, and the metrics per token."""
    return ppo.loss(policy, critic, batch, options, policy_loss)
