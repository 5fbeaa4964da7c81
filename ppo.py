"""PPO's policy loss, from which the whole family descends (the critic comes in a later chapter).

A response was sampled by an older policy, so each token's gain is weighted by the ratio of the
policies, and clipped where the ratio has already moved as far as one trusts:

    ratio = exp(logp - old_logp)
    surrogate = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)      per token
    loss = sum over tokens of weight * (surrogate + kl_coef * KL)

Averaging is a choice that papers differ in, so it is made once, for the whole update, as a weight
per token; a micro-batch then just sums, and no cut of the batch can change the gradient. Paper:
1707.06347; KL estimators: joschu.net/blog/kl-approx.html. Left out on purpose: critic, GAE. Shapes:
N sequences, T tokens; all tensors are (N, T) and mean nothing where mask is 0.
"""

from dataclasses import dataclass, fields, replace

import torch


@dataclass
class Batch:
    """What one rollout gives to training. `weights` says how tokens are averaged."""

    tokens: torch.Tensor                   # (N, T)
    mask: torch.Tensor                     # (N, T) 1.0 where the policy chose the token
    old_logp: torch.Tensor                 # (N, T) as recorded by the sampler
    advantages: torch.Tensor               # (N, T)
    weights: torch.Tensor | None = None    # (N, T), made per update
    ref_logp: torch.Tensor | None = None   # (N, T) under the reference policy

    def rows(self, index: torch.Tensor) -> "Batch":
        """The rows of index, cut to the longest of them."""
        width = int(self.mask[index].amax(0).nonzero().max()) + 1
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{k: None if x is None else x[index, :width] for k, x in values.items()})

    def lengths(self) -> list[int]:
        """Of prompt and response together."""
        columns = torch.arange(1, self.mask.shape[1] + 1, device=self.mask.device)
        return (self.mask * columns).amax(1).long().tolist()


def surrogate(logp, old_logp, advantages, clip_low: float = 0.2, clip_high: float = 0.2):
    """The clipped loss per token, to be minimised: (N, T)."""
    ratio = (logp - old_logp).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def clipped(logp, old_logp, advantages, clip_low: float = 0.2, clip_high: float = 0.2):
    """Which tokens the clip has cut off from the gradient: two bool (N, T). It binds below only
    where the advantage is negative and above only where it is positive."""
    ratio = (logp - old_logp).exp()
    return (ratio < 1 - clip_low) & (advantages < 0), (ratio > 1 + clip_high) & (advantages > 0)


def kl(logp, ref_logp, kind: str = "k3"):
    """Estimates per token of KL(policy || reference) from tokens of the policy: (N, T), nats.

    k1 = -r, unbiased and noisy; k2 = r^2 / 2, biased, its gradient is that of the KL; k3 = e^r - 1
    - r, unbiased and never negative; with r = ref_logp - logp. Raises KeyError for another kind.
    """
    r = ref_logp - logp
    return {"k1": -r, "k2": r * r / 2, "k3": torch.expm1(r) - r}[kind]


def token_weights(mask, how: str, max_tokens: int = 0):
    """The weight (N, T) of each token in the loss of one update, rows of `mask` being all of it.

    "token": 1 / all tokens (DAPO). "sequence": 1 / (N * tokens of the row), a mean of means (GRPO).
    "constant": 1 / (N * max_tokens), so that length is neither rewarded nor punished (Dr. GRPO).
    """
    if how == "token":
        return mask / mask.sum().clamp(min=1)
    if how == "sequence":
        return mask / (len(mask) * mask.sum(1, keepdim=True).clamp(min=1))
    if how == "constant":
        return mask / (len(mask) * max_tokens)
    raise ValueError(f"unknown aggregation {how!r}: token, sequence or constant")


METRICS = ("tokens", "clipfrac_low", "clipfrac_high", "approx_kl", "logp_diff")


def policy_loss(logp, batch: Batch, options):
    """The loss of a micro-batch, and its share of the update's metrics: summed over the
    micro-batches of an update they are its loss and its means over tokens. logp (N, T) is the
    policy's."""
    ratio_terms = (logp, batch.old_logp, batch.advantages, options.clip_low, options.clip_high)
    per_token = surrogate(*ratio_terms)
    if options.kl_coef:
        per_token = per_token + options.kl_coef * kl(logp, batch.ref_logp, options.kl)
    loss = (batch.weights * per_token).sum()
    with torch.no_grad():
        low, high = clipped(*ratio_terms)
        values = (batch.mask, low, high, kl(batch.old_logp, logp), (logp - batch.old_logp).abs())
        return loss, {name: (x * batch.mask).sum()
                      for name, x in zip(METRICS, values, strict=True)}


def minibatches(batch: Batch, options, rng):
    """The updates that one rollout gives: for each epoch, `minibatches` random parts of the rows,
    each with the weights of its own tokens. rng is a random.Random."""
    for _ in range(options.epochs):
        order = list(range(len(batch.tokens)))
        if options.minibatches > 1:
            rng.shuffle(order)
        for part in torch.tensor(order, device=batch.mask.device).tensor_split(options.minibatches):
            rows = batch.rows(part)
            yield replace(rows, weights=token_weights(rows.mask, options.aggregate,
                                                      options.max_new_tokens))
