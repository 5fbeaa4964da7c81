"""VAPO: PPO for long answers, with a critic that is warmed up and a lambda that fits each answer.

With one lambda for all, the reward hardly reaches the first tokens of a long answer. VAPO lets the
horizon of the GAE grow with the length, and adds the likelihood of right answers to the loss:

    lambda[i] = 1 - 1 / (alpha * length[i])     so 1 + lambda + lambda^2 + ... = alpha * length[i]
    loss = PPO's loss + mu * mean over the tokens of right answers of -logp

Its other parts are options of ppo.py, with these defaults: --critic-warmup (value pretraining),
--critic-gae-lambda 1 (decoupled GAE), --clip-high 0.28, --aggregate token, and groups of 16.

Differences from ppo.py: the lambda of the advantages, and the likelihood. With --gae-alpha 0, the
lambda is --gae-lambda; with --nll-coef 0 as well, this is PPO. The paper's alpha of 0.05 is made
for thousands of tokens: an answer of 20 tokens or less has lambda 0. So alpha is 1 by default.
The mean of the likelihood counts the right tokens of the whole step, not of one mini-batch, so that
a mini-batch with few right answers does not weigh them more.
Paper: 2504.05118; decoupled GAE and value pretraining: VC-PPO 2503.01491. Left out on purpose: the
reward model as the first critic. Shapes: N sequences, T tokens.
"""

from dataclasses import replace

import ppo
from ppo import Batch

needs_critic = True
vapo_options = nll_options = True


def length_adaptive_lambda(lengths, alpha: float):
    """The lambda (N,) of answers with lengths (N,), in tokens: 1 - 1 / (alpha * length), but at
    least 0 (2504.05118). alpha is above 0."""
    return (1 - 1 / (alpha * lengths.clamp(min=1))).clamp(min=0)


def nll_weights(correct, mask):
    """Weights (N, T) of -logp: the same for each token of a right answer, and 1 on average over all
    tokens. correct is (N,), 1.0 or 0.0. Without a right answer, all weights are 0."""
    right = mask * correct[:, None]
    return right * mask.sum() / right.sum().clamp(min=1)


def prepare(batch: Batch, options) -> Batch:
    """The batch with returns, advantages and the weights of the likelihood."""
    if options.gae_alpha:
        adaptive = length_adaptive_lambda(batch.mask.sum(1), options.gae_alpha)
        options = replace(options, gae_lambda=adaptive)
    nll = options.nll_coef * nll_weights(batch.correct, batch.mask)
    return replace(ppo.prepare(batch, options), nll=nll)


def policy_loss(logp, batch: Batch, options, entropy=None):
    """ppo.policy_loss, plus the weighted likelihood of right answers."""
    total, metrics = ppo.policy_loss(logp, batch, options, entropy)
    return total - (batch.weights * batch.nll * logp).sum(), metrics


def loss(policy, critic, batch: Batch, options):
    """Returns the loss of a micro-batch, policy and critic together, and the metrics per token."""
    return ppo.loss(policy, critic, batch, options, policy_loss)
