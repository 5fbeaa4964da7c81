"""DPO: of two responses to a problem, raise the right one above the wrong one.

The policy that maximises reward - beta * KL(policy || reference) satisfies, for every response y,

    reward(y) = beta * log(policy(y) / reference(y)) + beta * log Z         Z: a constant per prompt

So a policy is also an implicit reward. Z cancels in the difference of two responses to a prompt, so
a pair of a right (chosen) and a wrong (rejected) response can train the implicit reward:

    reward = beta * sum over the tokens of (logp - ref_logp)
    loss = mean over pairs of -log sigmoid(reward of chosen - reward of rejected)
           + nll_coef * -logp of chosen, mean over its tokens                   (iterative RPO)

beta is --kl-coef. The verifier makes the pairs. The first right response of a group is chosen over
the first wrong one, the second over the second, until the right or the wrong ones run out. The rest
is dropped. The metric `groups` counts the groups with a pair.

    on policy       the policy samples; every --ref-update-interval steps it is the new reference
    iterative RPO   --sample-from reference: the sampler also changes only at these steps
    offline         --sample-from reference --ref-update-interval 0: the base samples always

Differences from grpo.py: the loss compares two responses. It has no advantages, and no ratio to the
policy that sampled. `minibatches` makes the pairs. The two rows of a pair stay in one micro-batch,
so gradients do not depend on the micro-batches.
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
    """(chosen, rejected): the rows of the two responses of each pair, each (P,). correct is (N,),
    1.0 or 0.0. group (N,) is the index of each response's prompt."""
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
    """The negative log-likelihood (N,) of each response, in nats: the mean of -logp over its
    tokens. logp and mask are (N, T)."""
    return -(logp * mask).sum(1) / mask.sum(1).clamp(min=1)


def prepare(batch: Batch, options) -> Batch:
    """The batch with the responses that are in a pair. For the metrics alone, the advantage is 1
    for a right and -1 for a wrong response. `loss` does not read it."""
    rows = torch.cat(pairs(batch.correct, batch.group)).sort().values  # in the rollout's order
    batch = batch.rows(rows)
    return replace(batch, advantages=(2 * batch.correct - 1)[:, None] * batch.mask)


def minibatches(batch: Batch, options, rng):
    """Yields the Batch of each optimizer step: row 2i is the chosen and row 2i + 1 the rejected
    response of pair i of its P pairs. The weights of a row add up to 1 / P."""
    chosen, rejected = pairs(batch.correct, batch.group)
    # ppo.minibatches shuffles and cuts the chosen rows; each brings its rejected row with it
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
    weights = batch.weights[0::2].sum(1)             # (P,), each 1 / pairs of the optimizer step
    # 3. metrics per token; those with a slash are, as in TRL, means over the pairs of the step
    with torch.no_grad():
        metrics = {"approx_kl": kl(batch.old_logp, logp)}
        if options.sample_from == "policy":
            metrics["logp_diff"] = (logp - batch.old_logp).abs()
        for name, x in (("chosen", chosen), ("rejected", rejected), ("margins", chosen - rejected),
                        ("accuracies", (chosen > rejected).float())):
            metrics[f"rewards/{name}"] = (weights * x).sum()
    return (weights * per_pair).sum(), metrics
