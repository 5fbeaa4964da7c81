"""PPO: improve the policy in steps that stay close to the policy that sampled the data.

A critic V estimates the reward from the state before each token. A token's advantage is how much
better the outcome was than this estimate. The responses come from an older policy, so each token's
gain is weighted by the ratio of the two policies. The clip keeps one step from changing the policy
too much:

    delta[t] = r[t] + gamma * V[t+1] - V[t]              V[t] is of the state before token t
    A[t] = delta[t] + gamma * gae_lambda * A[t+1]        GAE, then whitened
    R[t] = V[t] + A'[t]     targets of the critic; A' uses critic_gae_lambda and is not whitened
    ratio = exp(logp - old_logp)
    surrogate = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)      per token
    value loss = 1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)         per token
    loss = sum over tokens of weight * (surrogate + kl_coef * KL - entropy_coef * H
                                        + value_coef * value loss)

An algorithm has three parts: advantages (`prepare`), the weights of the tokens (`minibatches`) and
the weighted loss (`loss`). Other algorithm files define their own `prepare` and `loss`. The weights
are computed once per optimizer step. The loss of a micro-batch is a plain weighted sum. So the size
of the micro-batches does not change the gradient.

Papers: PPO 1707.06347, GAE 1506.02438, dual clip 1912.09729, VC-PPO 2503.01491 (warm-up of the
critic, a separate lambda for it). KL estimators: joschu.net/blog/kl-approx.html. Left out on
purpose: early stopping by KL, normalisation of rewards by their history.
Shapes: N sequences, T tokens, D width. Values of an (N, T) tensor count only where mask is 1.
"""

import copy
from dataclasses import dataclass, fields, replace

import torch
from torch import nn

from engine.packing import scatter_to_mask

needs_critic = True
MAX_LOG_RATIO = 20.0  # log-ratios are clamped to +-20


@dataclass
class Batch:
    """The samples of one step, and what the algorithm computes from them."""

    tokens: torch.Tensor                     # (N, T) prompt, response, padding
    mask: torch.Tensor                       # (N, T) 1.0 where the policy chose the token
    old_logp: torch.Tensor                   # (N, T) log-prob under the policy that sampled
    group: torch.Tensor                      # (N,) index of the prompt
    rewards: torch.Tensor                    # (N,)
    correct: torch.Tensor | None = None      # (N,) 1.0 or 0.0, whatever the reward is
    truncated: torch.Tensor | None = None    # (N,) bool, True: cut off at max_new_tokens
    ref_logp: torch.Tensor | None = None     # (N, T) log-prob under the reference policy
    values: torch.Tensor | None = None       # (N, T) the critic's values before the update
    advantages: torch.Tensor | None = None   # (N, T)
    returns: torch.Tensor | None = None      # (N, T) targets of the critic
    weights: torch.Tensor | None = None      # (N, T) weight of the token in the loss
    step_rewards: torch.Tensor | None = None  # (N, T) scores of a process reward model
    group_mean_others: torch.Tensor | None = None  # (N,) an input of engine/critic_hints.py
    sampler_logp: torch.Tensor | None = None  # (N, T) of the sampler, if old_logp was recomputed
    entropy: torch.Tensor | None = None      # (N, T) of the distribution that sampled the token
    kl_cov: torch.Tensor | None = None       # (N, T) weight of |logp - old_logp|, see entropy.py
    nll: torch.Tensor | None = None          # (N, T) weight of -logp, see vapo.py
    pair: torch.Tensor | None = None         # (N,) number of the pair, in dpo.py alone
    loss_mask: torch.Tensor | None = None    # (N, T) 1.0 where a token has a weight; None: mask
    failed: torch.Tensor | None = None       # (N, T) 1.0 in turns whose tool call failed

    def rows(self, index: torch.Tensor) -> "Batch":
        """The given rows, without the columns after the last token that has mask 1."""
        ends = (self.mask[index] > 0).any(0).nonzero()
        width = int(ends.max()) + 1 if len(ends) else 1

        def select(x):
            if x is None:
                return None
            return x[index] if x.dim() == 1 else x[index, :width]
        return Batch(**{f.name: select(getattr(self, f.name)) for f in fields(self)})

    def lengths(self) -> list[int]:
        """The number of tokens in each row, prompt plus response."""
        columns = torch.arange(1, self.mask.shape[1] + 1, device=self.mask.device)
        return (self.mask * columns).amax(1).long().tolist()


# --- the policy's loss

def clamp(log_ratio):
    """Bounds a log-ratio, so that exp stays finite: infinity times an advantage of 0 is NaN."""
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def policy_ratio(logp, old_logp):
    """exp(logp - old_logp) (N, T): how much likelier a token has become since it was sampled."""
    return clamp(logp - old_logp).exp()


def surrogate(logp, old_logp, advantages, clip_low: float = 0.2, clip_high: float = 0.2,
              dual_clip: float = 0.0):
    """The clipped loss per token (N, T), to be minimised; a gradient reaches logp. dual_clip > 1:
    the loss of a token with A < 0 is at most dual_clip * |A| (1912.09729). 0: no such bound."""
    ratio = policy_ratio(logp, old_logp)
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip:
        gain = torch.where(advantages < 0, torch.maximum(gain, dual_clip * advantages), gain)
    return -gain


def clipped(logp, old_logp, advantages, clip_low: float = 0.2, clip_high: float = 0.2):
    """The tokens whose gradient the clip has removed: (below, above), each bool (N, T).

    policy_ratio is compared with 1 - clip_low, only where A < 0, and with 1 + clip_high, only where
    A > 0. A ratio that is equal to a bound is not clipped. dual_clip is ignored.
    """
    ratio = policy_ratio(logp, old_logp)
    return (ratio < 1 - clip_low) & (advantages < 0), (ratio > 1 + clip_high) & (advantages > 0)


# Estimators of KL(policy || reference) per token, for tokens sampled from the policy, as functions
# of log_ratio = ref_logp - logp. A line added here is also a choice of --kl, for the loss. The
# reward (--kl-in reward) uses k1, and the metric `kl` uses k3.
KL = {
    "k1": lambda log_ratio: -log_ratio,                 # unbiased, high variance
    "k2": lambda log_ratio: log_ratio * log_ratio / 2,  # biased, but its mean gradient is the KL's
    "k3": lambda log_ratio: torch.expm1(log_ratio) - log_ratio,  # unbiased, never negative
}


def kl(logp, ref_logp, estimator: str = "k3"):
    """Estimates of KL(policy || reference) per token (N, T), in nats, from clamped log-ratios, with
    a gradient with respect to logp. Raises KeyError for an estimator that is not in KL."""
    return KL[estimator](clamp(ref_logp - logp))


def adaptive_kl_coef(kl_coef: float, kl: float, target: float) -> float:
    """The kl_coef of the next step. It grows if the KL is above the target and shrinks if below, by
    at most 20% (1909.08593, there at most 2%)."""
    return kl_coef * (1 + min(0.2, max(-0.2, kl / target - 1)))


# How tokens are averaged: functions of (mask, max_tokens) that return the weight (N, T) of each
# token in the loss. mask (N, T) holds all rows of one optimizer step. In verl they are: token-mean,
# seq-mean-token-mean, seq-mean-token-sum, seq-mean-token-sum-norm (loss_scale_factor: max_tokens).
AGGREGATIONS = {
    # 1 / all tokens: every token counts the same (DAPO)
    "token": lambda mask, max_tokens: mask / mask.sum().clamp(min=1),
    # 1 / (N * tokens of the row): a mean over rows of the mean over tokens (GRPO)
    "sequence": lambda mask, max_tokens: mask / (len(mask) * mask.sum(1, True).clamp(min=1)),
    # 1 / N: the whole response is one action (RLOO)
    "sum": lambda mask, max_tokens: mask / len(mask),
    # 1 / (N * max_tokens): a constant, so that no length is favoured (Dr. GRPO)
    "constant": lambda mask, max_tokens: mask / (len(mask) * max_tokens),
}


def token_weights(mask, aggregation: str, max_tokens: int = 0):
    """The weights (N, T) of an aggregation, without NaN for a row or a mask without tokens. Raises
    ValueError for an unknown one, and if "constant" has no max_tokens, a response's limit."""
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation {aggregation!r}: choose {', '.join(AGGREGATIONS)}")
    if aggregation == "constant" and max_tokens <= 0:
        raise ValueError("aggregation 'constant' needs max_tokens above 0")
    return AGGREGATIONS[aggregation](mask, max_tokens)


POLICY_METRICS = ("clipfrac_low", "clipfrac_high", "approx_kl", "logp_diff")


def policy_loss(logp, batch: Batch, options, entropy=None, ratio_logp=None, per_token=None):
    """Returns the loss of a micro-batch (a scalar) and the metrics per token, {name: (N, T)}.

    logp (N, T): log-probs under the current policy. entropy (N, T): of its distribution at each
    token. ratio_logp (N, T) replaces logp in the ratio (GSPO). per_token (N, T) replaces the
    surrogate. The losses of the micro-batches of an optimizer step add up to the loss of that step.
    """
    # 1. the clipped surrogate of each token
    ratio_logp = logp if ratio_logp is None else ratio_logp
    if per_token is None:
        per_token = surrogate(ratio_logp, batch.old_logp, batch.advantages, options.clip_low,
                              options.clip_high, options.dual_clip)
    # 2. the KL penalties and the entropy bonus
    if options.kl_coef and options.kl_in == "loss":
        penalty = kl(logp, batch.ref_logp, options.kl)
        if options.unbiased_kl:  # the tokens were drawn by the old policy (2512.02556, equation 7)
            penalty = penalty * policy_ratio(logp, batch.old_logp)
        per_token = per_token + options.kl_coef * penalty
    if batch.kl_cov is not None:
        per_token = per_token + batch.kl_cov * (logp - batch.old_logp).abs()
    if options.entropy_coef:
        per_token = per_token - options.entropy_coef * entropy
    # 3. metrics
    with torch.no_grad():
        sampler_logp = batch.old_logp if batch.sampler_logp is None else batch.sampler_logp
        low, high = clipped(ratio_logp, batch.old_logp, batch.advantages, options.clip_low,
                            options.clip_high)
        approx_kl = kl(batch.old_logp, logp)  # KL(policy that sampled || policy)
        metrics = low, high, approx_kl, (logp - sampler_logp).abs()
    # 4. the weighted sum over tokens
    return (batch.weights * per_token).sum(), dict(zip(POLICY_METRICS, metrics, strict=True))


# --- the critic

def gae(rewards, values, mask, gamma: float = 1.0, gae_lambda: float = 0.95):
    """Generalised advantage estimates (N, T) of rewards and values (N, T); 0 where mask is 0.

    values[:, t] is of the state before token t. The value after a row's last token is 0. Tokens
    with mask 0 are skipped: the next token is the next one with mask 1. gae_lambda is a number, or
    one per row (N,).
    """
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        inside = mask[:, t] > 0
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(inside, delta + gamma * gae_lambda * next_advantage,
                                     next_advantage)
        next_value = torch.where(inside, values[:, t], next_value)
        advantages[:, t] = torch.where(inside, next_advantage, 0.0)
    return advantages


def whiten(x, mask, eps: float = 1e-6):
    """x (N, T) with mean 0 and standard deviation 1 (n - 1) over the mask, 0 outside of it. The
    divisor is sqrt(variance + eps^2), so equal values and a single one give 0."""
    n = mask.sum()
    centred = (x - (x * mask).sum() / n) * mask
    return centred / ((centred**2).sum() / (n - 1).clamp(min=1) + eps**2).sqrt()


def value_loss(values, old_values, returns, clip: float = 0.0):
    """Half the squared error per token (N, T), without a mean.

    If clip > 0, values are also clipped to within `clip` of old_values. The larger of the two
    errors counts.
    """
    loss = (values - returns) ** 2
    if clip:
        near = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (near - returns) ** 2)
    return loss / 2


def explained_variance(values, returns, mask) -> float:
    """1 - Var(returns - values) / Var(returns) over the mask.

    1: a perfect critic. 0: no better than a constant, or all returns are equal. Below 0: worse.
    """
    inside = mask > 0
    variance = returns[inside].var(correction=0)
    if not variance:
        return 0.0
    return float(1 - (returns[inside] - values[inside]).var(correction=0) / variance)


class Critic(nn.Module):
    """A value for the state before each token: a linear head on hidden states.

    own: the critic has its own network, which starts as a copy of the policy. Otherwise it reads
    the policy's hidden states, and the value loss also trains the policy's network.
    """

    def __init__(self, policy, own: bool = True):
        super().__init__()
        self.trunk = copy.deepcopy(policy) if own else None
        self.head = nn.Linear(policy.config.width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden, batch: Batch):
        """Values (N, T). hidden (n, D): the policy's hidden states, one for each of the n tokens
        with mask 1. A critic with its own network ignores them."""
        if self.trunk is not None:
            hidden = self.trunk.hidden_states(batch.tokens, batch.mask)
        with torch.autocast(hidden.device.type, enabled=False):  # bfloat16 is too coarse for values
            return scatter_to_mask(self.head(hidden.float()).squeeze(1), batch.mask)


# --- the algorithm, as train.py calls it

def token_rewards(batch: Batch, options):
    """Rewards per token (N, T). The reward of a response is at its last token with mask 1; a row
    without tokens has none. batch.step_rewards, if given, replace these, and stay unchanged. With
    kl_in "reward", kl_coef times k1 of the KL is subtracted from both at each token with mask 1."""
    if batch.step_rewards is None:
        tokens_left = batch.mask.flip(1).cumsum(1).flip(1)  # the token itself included
        rewards = batch.rewards[:, None] * batch.mask * (tokens_left == 1)
    else:
        rewards = batch.step_rewards
    if options.kl_coef and options.kl_in == "reward":
        rewards = rewards - options.kl_coef * kl(batch.old_logp, batch.ref_logp, "k1") * batch.mask
    return rewards


def prepare(batch: Batch, options) -> Batch:
    """The batch with returns, and with advantages that are whitened over the batch.

    While critic_warmup is above 0, only the critic learns (VC-PPO): there are no advantages, and
    lambda is 1.
    """
    rewards, warm_up = token_rewards(batch, options), options.critic_warmup > 0
    critic_lambda = 1.0 if warm_up else options.critic_gae_lambda
    returns = gae(rewards, batch.values, batch.mask, options.gamma, critic_lambda)
    returns = returns + batch.values * batch.mask
    advantages = None
    if not warm_up:
        advantages = gae(rewards, batch.values, batch.mask, options.gamma, options.gae_lambda)
        advantages = whiten(advantages, batch.mask)
    return replace(batch, advantages=advantages, returns=returns)


def loss(policy, critic, batch: Batch, options, policy_loss=policy_loss):
    """Returns the loss of a micro-batch, policy and critic together, and the metrics per token."""
    warm_up = batch.advantages is None
    # 1. the current policy's hidden states that predict each token
    with torch.set_grad_enabled(not warm_up):
        hidden = policy.hidden_states(batch.tokens, batch.mask)
    # 2. the critic's loss
    errors = value_loss(critic(hidden, batch), batch.values, batch.returns, options.value_clip)
    total = options.value_coef * (batch.weights * errors).sum()
    metrics = {"value_loss": errors.detach()}
    # 3. the policy's loss
    if not warm_up:
        logp, entropy = policy.logprobs(batch.tokens, batch.mask, options.temperature, hidden,
                                        bool(options.entropy_coef))
        policy_part, policy_metrics = policy_loss(logp, batch, options, entropy)
        total, metrics = total + policy_part, metrics | policy_metrics
    return total, metrics


def minibatches(batch: Batch, options, rng):
    """Yields the Batch of each optimizer step, with the weights of its tokens.

    Each epoch cuts the rows into options.minibatches nearly equal parts. Empty parts are left out.
    rng, a random.Random, shuffles the prompts. The responses to one prompt stay together, so most
    groups are in one step.
    """
    groups = batch.group.tolist()
    for _ in range(options.epochs):
        position = {prompt: rng.random() for prompt in sorted(set(groups))}  # a random order
        order = sorted(range(len(groups)), key=lambda i: position[groups[i]])
        order = torch.tensor(order, device=batch.mask.device)
        for index in order.tensor_split(options.minibatches):
            if len(index):
                part = batch.rows(index)
                mask = part.mask if part.loss_mask is None else part.loss_mask
                yield replace(part, weights=token_weights(mask, options.aggregate,
                                                          options.max_new_tokens))
