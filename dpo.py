"""DPO: of two responses to a problem, raise the right one above the wrong one.

The objective "reward minus beta * KL to the reference" has a known best policy. So a policy says by
itself which reward it would be best for, and a pair of responses trains this implicit reward:

    reward = beta * (log-prob of the response - its log-prob under the reference)
    loss = mean over pairs of -log sigmoid(reward of chosen - reward of rejected)
           + nll_coef * -logp of chosen, mean over its tokens                   (iterative RPO)

beta is --kl-coef. The verifier makes the pairs: in each group the first right response with the
first wrong one, the second with the second, and so on until one kind runs out. What is left over is
dropped, so a group without both kinds is dropped whole; the metric `groups` counts the others.

    iterated on policy   the policy samples; after --ref-update-interval steps it is the reference
    iterative RPO        --sample-from reference: the sampler too stays the same for a round
    offline              --sample-from reference --ref-update-interval 0: the base samples all

Differences from grpo.py: a loss of pairs in place of advantages (+1 and -1 here mark the two kinds)
and of the ratio to the policy that sampled. `minibatches` makes the pairs. The two rows of a pair
stay together in a micro-batch, so gradients do not depend on the micro-batches.
Papers: DPO 2305.18290, iterative RPO 2404.19733 (beta 0.1, nll_coef 1). Left out on purpose: pairs
of two right responses, label smoothing, other losses of the margin (IPO, hinge).
Shapes: N sequences, P pairs, T tokens.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F

import ppo
from ppo import Batch, kl, token_weights

needs_critic = False
dpo_options = nll_options = True
SAMPLE_FROM = ("policy", "reference")  # the choices of --sample-from


def pairs(correct, group):
    """The rows of the chosen and of the rejected response of each pair, (P,) and (P,). correct is
    (N,), 1.0 or 0.0; group (N,) is the index of each response's prompt."""
    chosen, rejected = [group.new_zeros(0)], [group.new_zeros(0)]
    for prompt in group.unique():
        right, wrong = (((group == prompt) & (correct == x)).nonzero()[:, 0] for x in (1, 0))
        count = min(len(right), len(wrong))
        chosen.append(right[:count])
        rejected.append(wrong[:count])
    return torch.cat(chosen), torch.cat(rejected)


def implicit_rewards(logp, ref_logp, mask, beta: float):
    """beta * log(policy / reference) of each response, (N,): a sum over its tokens. logp, ref_logp
    and mask are (N, T)."""
    return beta * ((logp - ref_logp) * mask).sum(1)


def mean_nll(logp, mask):
    """-log-prob of each response, (N,), mean over its tokens. logp and mask are (N, T)."""
    return -(logp * mask).sum(1) / mask.sum(1).clamp(min=1)


def prepare(batch: Batch, options) -> Batch:
    """The responses that are in a pair. The advantage of a right one is 1, of a wrong one -1.
    `loss` does not read it."""
    rows = torch.cat(pairs(batch.correct, batch.group)).sort().values  # in the rollout's order
    batch = batch.rows(rows)
    return replace(batch, advantages=(2 * batch.correct - 1)[:, None] * batch.mask)


def minibatches(batch: Batch, options, rng):
    """Yields the Batch of each optimizer step: row 2i is the chosen and row 2i + 1 the rejected
    response of pair i. The weights of a row add up to 1 / P. The order is that of ppo.minibatches,
    with pairs in place of responses."""
    chosen, rejected = pairs(batch.correct, batch.group)
    numbered = replace(batch.rows(chosen), pair=torch.arange(len(chosen), device=chosen.device))
    for part in ppo.minibatches(numbered, options, rng):
        rows = batch.rows(torch.stack([chosen[part.pair], rejected[part.pair]], 1).flatten())
        yield replace(rows, pair=part.pair.repeat_interleave(2),
                      weights=2 * token_weights(rows.mask, "sequence"))


def loss(policy, critic, batch: Batch, options):
    """Returns the loss of a micro-batch of whole pairs, and its metrics. `critic` is not used."""
    # 1. the implicit rewards of both responses of each pair
    logp, _ = policy.logprobs(batch.tokens, batch.mask, options.temperature)
    rewards = implicit_rewards(logp, batch.ref_logp, batch.mask, options.kl_coef)         # (2P,)
    chosen, rejected = rewards[0::2], rewards[1::2]
    # 2. the loss of each pair, and their weighted sum
    per_pair = -F.logsigmoid(chosen - rejected)
    if options.nll_coef:
        per_pair = per_pair + options.nll_coef * mean_nll(logp, batch.mask)[0::2]
    weights = batch.weights[0::2].sum(1)                         # (P,) 1 / pairs of the minibatch
    # 3. metrics: per token, and with a slash, as in TRL, means over the pairs of the minibatch
    with torch.no_grad():
        metrics = {"approx_kl": kl(batch.old_logp, logp)}
        if options.sample_from == "policy":
            metrics["logp_diff"] = (logp - batch.old_logp).abs()
        for name, x in (("chosen", chosen), ("rejected", rejected), ("margins", chosen - rejected),
                        ("accuracies", (chosen > rejected).float())):
            metrics[f"rewards/{name}"] = (weights * x).sum()
    return (weights * per_pair).sum(), metrics
