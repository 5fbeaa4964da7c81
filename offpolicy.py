"""Off-policy corrections: GRPO when the policy that sampled is not the policy that is trained.

The two policies differ for three reasons. A batch has several updates, the sampler may have older
weights (--sampler-lag), and the sampler may compute in another precision (--sampler-dtype).
recipes/stale_sampler.py compares the corrections. The ratio is r = policy / old policy. --surrogate
is the loss of a token, where sg() stops the gradient:

    clip        -min(r * A, clip(r, 1 - low, 1 + high) * A)     no gradient beyond a bound (PPO)
    likelihood  -A * logp                                       no correction at all (REINFORCE)
    cispo       -sg(clip(r, 1 - low, 1 + high)) * A * logp      every token keeps a gradient
    sapo        -4 / tau * sigmoid(tau * (r - 1)) * A           tau_pos for A > 0, else tau_neg
    gmpo        -exp(mean over tokens of min(log r * A, clip(log r) * A) / A) * A   geometric mean

Two weights multiply the loss. --sampler-correction: r' = old policy in the trainer / in the sampler

    tis         sg(min(r', 2))                  truncated importance sampling
    icepop      sg(r') if 0.5 <= r' <= 5, else 0
    --sequence-mask d: 0 at all tokens of a response with A < 0 and mean log(sampler / policy) > d

With tis and icepop, old_logp is computed by the trainer at the beginning of the step (decoupled PPO
2505.24298). With none, old_logp is the sampler's.
Differences from grpo.py: the surrogate and the two weights. clip_low and clip_high bound the ratio,
not its log: GMPO's exp(-0.4) and exp(0.4) are 1 - 0.33 and 1 + 0.49. CISPO's lower bound is 0.
Papers: CISPO 2506.13585, SAPO 2511.20347, GMPO 2507.20673, IcePop 2510.18855, sequence mask
DeepSeek-V3.2 2512.02556, truncated importance sampling fengyao.notion.site/off-policy-rl. Dual
clip and the unbiased KL are in ppo.py. Left out on purpose: tis per sequence, routing replay.
Shapes: N sequences, T tokens. Log-ratios are clamped to +-20 before exp.
"""

import math

import torch

from grpo import prepare, sequence_log_ratio  # noqa: F401
from ppo import clamp, policy_loss, policy_ratio, surrogate

needs_critic = False
offpolicy_options = True


# --- surrogates: losses (N, T) of logp, old_logp, advantages and mask, each (N, T)

def clip(logp, old_logp, advantages, mask, options):
    """PPO's surrogate, with its dual clip."""
    return surrogate(logp, old_logp, advantages, options.clip_low, options.clip_high,
                     options.dual_clip)


def likelihood(logp, old_logp, advantages, mask, options):
    """REINFORCE, or supervised learning where all advantages are 1."""
    return -advantages * logp


def cispo(logp, old_logp, advantages, mask, options):
    """REINFORCE with a clipped importance weight, which has no gradient of its own."""
    weight = policy_ratio(logp, old_logp).clamp(1 - options.clip_low, 1 + options.clip_high)
    return -weight.detach() * advantages * logp


def sapo(logp, old_logp, advantages, mask, options):
    """A smooth gate in place of a clip: its slope is 1 at ratio 1 and falls to 0 on both sides."""
    tau = torch.where(advantages > 0, options.tau_pos, options.tau_neg)
    return -4 / tau * torch.sigmoid(tau * (policy_ratio(logp, old_logp) - 1)) * advantages


def gmpo(logp, old_logp, advantages, mask, options):
    """The geometric mean of a response's clipped ratios times A, the same at each of its tokens."""
    log_ratio = clamp(logp - old_logp)
    low, high = math.log(max(1 - options.clip_low, 1e-9)), math.log(1 + options.clip_high)
    bounded = torch.where(advantages > 0, log_ratio.clamp(max=high), log_ratio.clamp(min=low))
    return -sequence_log_ratio(bounded, 0, mask).exp() * advantages


SURROGATES = {f.__name__: f for f in (clip, likelihood, cispo, sapo, gmpo)}  # --surrogate
UNCLIPPED = ("likelihood", "sapo")  # surrogates that do not read clip_low and clip_high


# --- weights (N, T), without gradient

CORRECTIONS = {  # the choices of --sampler-correction: the ratio r' (N, T) -> weights (N, T)
    "none": torch.ones_like,
    "tis": lambda ratio: ratio.clamp(max=2.0),
    "icepop": lambda ratio: ratio * ((ratio >= 0.5) & (ratio <= 5.0)),
}


def sequence_mask(logp, sampler_logp, advantages, mask, limit: float):
    """Weights (N, T): 0.0 where A < 0 and the response's mean of sampler_logp - logp is above the
    limit, else 1.0. It drops wrong responses that the policy has already moved away from."""
    gap = -sequence_log_ratio(logp.detach(), sampler_logp, mask)                     # (N, 1)
    return ((advantages >= 0) | (gap <= limit)).float()


def loss(policy, critic, batch, options):
    """Returns the loss of a micro-batch and the metrics per token. `critic` is not used."""
    logp, entropy = policy.logprobs(batch.tokens, batch.mask, options.temperature,
                                    entropy=bool(options.entropy_coef))
    sampler_logp = batch.old_logp if batch.sampler_logp is None else batch.sampler_logp
    mask = batch.mask * (batch.weights > 0)  # --old-segments drop: weight 0
    per_token = SURROGATES[options.surrogate](logp, batch.old_logp, batch.advantages, mask, options)
    ratio = policy_ratio(batch.old_logp, sampler_logp)
    per_token = per_token * CORRECTIONS[options.sampler_correction](ratio)
    if options.sequence_mask:
        per_token = per_token * sequence_mask(logp, sampler_logp, batch.advantages, mask,
                                              options.sequence_mask)
    total, metrics = policy_loss(logp, batch, options, entropy, per_token=per_token)
    if options.surrogate in UNCLIPPED:
        metrics |= {name: torch.zeros_like(logp) for name in ("clipfrac_low", "clipfrac_high")}
    return total, metrics
