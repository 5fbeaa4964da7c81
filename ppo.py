"""PPO: a policy moved only as far as it can be trusted, and a critic that says what to expect.

The critic V guesses the reward from the state before each token; what came better than guessed is
that token's advantage. A response was sampled by an older policy, so its gain is weighted by the
ratio of the policies, and clipped where the ratio has already moved as far as one trusts:

    delta[t] = r[t] + gamma * V[t+1] - V[t]              V[t]: of the state before token t
    A[t] = delta[t] + gamma * lam * A[t+1]               GAE, then whitened
    R[t] = V[t] + such a sum with critic_lam for lam     returns
    ratio = exp(logp - old_logp)
    surrogate = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)      per token
    value loss = 1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)         per token
    loss = sum over tokens of weight * (surrogate + kl_coef * KL - entropy_coef * H
                                        + value_coef * value loss)

Averaging is a choice that papers differ in, so it is made once, for the whole update, as a weight
per token; a micro-batch then just sums, and no cut of the batch can change the gradient. Papers:
PPO 1707.06347, GAE 1506.02438, dual clip 1912.09729, VC-PPO 2503.01491 (warm-up of the critic, and
a lambda of its own); KL estimators: joschu.net/blog/kl-approx.html. Left out on purpose: early
stopping by KL, rewards normalised by their history.
Shapes: N sequences, T tokens; (N, T) means nothing where mask is 0.
"""

import copy
from dataclasses import dataclass, fields, replace
from hashlib import blake2b

import torch
import torch.nn.functional as F
from torch import nn

from engine.packing import scatter_to_mask

needs_critic = True


@dataclass
class Batch:
    """What sampling gives to training, and what an algorithm adds to it."""

    tokens: torch.Tensor                     # (N, T)
    mask: torch.Tensor                       # (N, T) 1.0 where the policy chose the token
    old_logp: torch.Tensor                   # (N, T) as recorded by the sampler, or the trainer's
    group: torch.Tensor                      # (N,) which question was answered
    rewards: torch.Tensor                    # (N,)
    correct: torch.Tensor | None = None      # (N,) 1.0 or 0.0, whatever was paid for
    truncated: torch.Tensor | None = None    # (N,) bool, cut off by the limit
    ref_logp: torch.Tensor | None = None     # (N, T) under the reference policy
    values: torch.Tensor | None = None       # (N, T) the critic's, when sampled
    advantages: torch.Tensor | None = None   # (N, T)
    returns: torch.Tensor | None = None      # (N, T) what the critic is to learn
    weights: torch.Tensor | None = None      # (N, T) how tokens are averaged, made per update
    step_rewards: torch.Tensor | None = None  # (N, T) of a process reward model, at step ends
    others: torch.Tensor | None = None       # (N,) mean reward of the other answers to the question
    copies: torch.Tensor | None = None       # (N,) how many equal rows this one stands for
    sampler_logp: torch.Tensor | None = None  # (N, T) the sampler's, where old_logp is another

    def rows(self, index: torch.Tensor) -> "Batch":
        """The rows of index, cut to the longest of them."""
        ends = self.mask[index].amax(0).nonzero() if len(index) else index
        width = int(ends.max()) + 1 if len(ends) else 1
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{k: x if x is None else x[index] if x.dim() == 1 else x[index, :width]
                        for k, x in values.items()})

    def lengths(self) -> list[int]:
        """Of prompt and response together."""
        columns = torch.arange(1, self.mask.shape[1] + 1, device=self.mask.device)
        return (self.mask * columns).amax(1).long().tolist()

    def kinds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows that are equal in everything are of one kind, as samples of a sure policy often are.
        Returns the first row of each kind (K,), and the kind of each row (N,)."""
        values = [getattr(self, f.name) for f in fields(self)]
        rows = torch.cat([(x if x.dim() == 2 else x[:, None]).cpu().double()
                          for x in values if x is not None], 1)
        first, kind = {}, []
        for i, row in enumerate(rows.numpy()):
            kind.append(first.setdefault(blake2b(row).digest(), (len(first), i))[0])
        device = self.mask.device
        return (torch.tensor([i for _, i in first.values()], device=device, dtype=torch.int64),
                torch.tensor(kind, device=device, dtype=torch.int64))

    def merged(self) -> "Batch":
        """A row of each kind, with the weight of all of it: their loss and its gradient."""
        first, kind = self.kinds()
        copies = torch.bincount(kind, self.copies, len(first))
        one = self.rows(first)
        return replace(one, copies=copies, weights=one.weights * copies[:, None])

    def total(self, x):
        """The sum of x (N, T) over the tokens of all rows, copies and all."""
        x = x * self.mask
        return x.sum() if self.copies is None else (x * self.copies[:, None]).sum()


def join(batches: list[Batch]) -> Batch:
    """One batch of the rows of several, padded to the widest."""
    width = max(b.tokens.shape[1] for b in batches)

    def joined(parts):
        return None if parts[0] is None else torch.cat(
            [F.pad(x, (0, width - x.shape[1])) if x.dim() == 2 else x for x in parts])
    return Batch(**{f.name: joined([getattr(b, f.name) for b in batches]) for f in fields(Batch)})


# --- the policy's loss

def surrogate(logp, old_logp, advantages, clip_low: float = 0.2, clip_high: float = 0.2,
              dual_clip: float = 0.0):
    """The clipped loss per token, to be minimised: (N, T). dual_clip > 1 also bounds the loss of a
    bad token that has become likelier, at dual_clip * |A|; 0 leaves it unbounded."""
    ratio = (logp - old_logp).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip:
        gain = torch.where(advantages < 0, torch.maximum(gain, dual_clip * advantages), gain)
    return -gain


def clipped(logp, old_logp, advantages, clip_low: float = 0.2, clip_high: float = 0.2):
    """Which tokens the clip has cut off from the gradient: two bool (N, T). It binds below only
    where the advantage is negative and above only where it is positive."""
    ratio = (logp - old_logp).exp()
    return (ratio < 1 - clip_low) & (advantages < 0), (ratio > 1 + clip_high) & (advantages > 0)


KL = {"k1": lambda r: -r, "k2": lambda r: r * r / 2, "k3": lambda r: torch.expm1(r) - r}


def kl(logp, ref_logp, kind: str = "k3"):
    """Estimates per token of KL(policy || reference) from tokens of the policy: (N, T), nats.

    k1 = -r, unbiased and noisy; k2 = r^2 / 2, biased, its gradient is that of the KL; k3 = e^r - 1
    - r, unbiased and never negative; with r = ref_logp - logp. Raises KeyError for another kind.
    """
    return KL[kind](ref_logp - logp)


def adapted(kl_coef: float, kl: float, target: float) -> float:
    """The KL's weight for the next step, at most a fifth larger or smaller, so that the KL tends to
    its target (1909.08593, which moves a tenth as fast)."""
    return kl_coef * (1 + min(0.2, max(-0.2, kl / target - 1)))


AGGREGATIONS = ("sequence", "token", "sum", "constant")


def token_weights(mask, how: str, max_tokens: int = 0):
    """The weight (N, T) of each token in the loss of one update, rows of `mask` being all of it.

    "token": 1 / all tokens (DAPO). "sequence": 1 / (N * tokens of the row), a mean of means (GRPO).
    "sum": 1 / N, the response is one action (RLOO). "constant": 1 / (N * max_tokens), the same to a
    constant, so that length is neither rewarded nor punished (Dr. GRPO). Raises ValueError for
    another, or without max_tokens where it is needed.
    """
    if how == "token":
        return mask / mask.sum().clamp(min=1)
    if how == "sequence":
        return mask / (len(mask) * mask.sum(1, keepdim=True).clamp(min=1))
    if how == "sum":
        return mask / len(mask)
    if how == "constant" and max_tokens > 0:
        return mask / (len(mask) * max_tokens)
    raise ValueError(f"unknown aggregation {how!r}: token, sequence, sum, or constant, which wants "
                     "the most tokens of a response")


METRICS = ("clipfrac_low", "clipfrac_high", "approx_kl", "logp_diff")


def policy_loss(logp, batch: Batch, options, entropy=None, ratio_logp=None):
    """The loss of a micro-batch, and its share of the update's metrics: summed over the
    micro-batches of an update they are its loss and its sums over tokens. logp (N, T) is the
    policy's, entropy (N, T) that of what it was drawn from; ratio_logp (N, T) replaces logp in the
    ratio, where that is not the token's own."""
    terms = (logp if ratio_logp is None else ratio_logp, batch.old_logp, batch.advantages,
             options.clip_low, options.clip_high)
    per_token = surrogate(*terms, options.dual_clip)
    if options.kl_coef and options.kl_in == "loss":
        per_token = per_token + options.kl_coef * kl(logp, batch.ref_logp, options.kl)
    if options.entropy_coef:
        per_token = per_token - options.entropy_coef * entropy
    with torch.no_grad():
        low, high = clipped(*terms)
        sampled = batch.old_logp if batch.sampler_logp is None else batch.sampler_logp
        values = (low, high, kl(batch.old_logp, logp), (logp - sampled).abs())
        sums = {name: batch.total(x) for name, x in zip(METRICS, values, strict=True)}
    return (batch.weights * per_token).sum(), sums | {"tokens": batch.total(batch.mask)}


# --- the critic

def gae(rewards, values, mask, gamma: float = 1.0, lam: float = 0.95):
    """Generalised advantages (N, T) of rewards and values (N, T), 0 where mask is 0. values[:, t]
    is of the state before token t; after a row's last token there is nothing more to come. What
    follows a token is the next one of the mask: gaps in it are passed over."""
    advantages = torch.zeros_like(rewards)
    following = running = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        here = mask[:, t] > 0
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(here, delta + gamma * lam * running, running)
        following = torch.where(here, values[:, t], following)
        advantages[:, t] = torch.where(here, running, 0.0)
    return advantages


def whiten(x, mask, eps: float = 1e-6):
    """x (N, T) with mean 0 and unbiased standard deviation 1 over the mask, 0 outside of it."""
    n = mask.sum()
    centred = (x - (x * mask).sum() / n) * mask
    return centred / ((centred**2).sum() / (n - 1).clamp(min=1) + eps**2).sqrt()


def value_loss(values, old_values, returns, clip: float = 0.0):
    """Half the squared error per token (N, T), of the value or of the value clipped to within
    `clip` of what it was when sampled, whichever is larger. clip 0 does not clip."""
    loss = (values - returns) ** 2
    if clip:
        near = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (near - returns) ** 2)
    return loss / 2


def explained_variance(values, returns, mask) -> float:
    """1 - Var(returns - values) / Var(returns) over the mask: 1 for a critic that knows, 0 for one
    that says the same everywhere, below 0 for one that misleads. 0 where the returns are all
    equal."""
    where = mask > 0
    spread = returns[where].var(correction=0)
    if not spread:
        return 0.0
    return float(1 - (returns[where] - values[where]).var(correction=0) / spread)


HINT_SCALE = 30.0  # so that the head learns what they mean in a few steps


def likelihood(old_logp, mask):
    """Of what stands before each token (N, T, 2): the probability of its least likely token, and of
    all of it, to the policy that wrote it."""
    before = F.pad(old_logp * mask, (1, 0))[:, :-1]
    return torch.stack((before.cummin(1)[0], before.cumsum(1)), dim=-1).exp()


def mean_of_others(rewards, group):
    """How the other answers to the same question did, (N,), of rewards (N,) and `group` (N,); 0 for
    an answer without others. No answer's own reward is in its value, so the gradient stays
    unbiased."""
    total, count = torch.bincount(group, rewards)[group], torch.bincount(group)[group]
    return (total - rewards) / (count - 1).clamp(min=1)


class Critic(nn.Module):
    """A number for every state. own: from a network of its own, at first a copy of the policy; else
    from the policy's states, which it then shapes as well. hints: it is also told what a small
    network takes long to find out by itself: `likelihood`, since most errors are unlikely tokens,
    and `mean_of_others`, since some questions are hard."""

    def __init__(self, policy, own: bool = True, hints: bool = True):
        super().__init__()
        width = policy.config.width
        self.trunk = copy.deepcopy(policy) if own else None
        self.hints = hints
        self.head = nn.Linear(width + 3 * hints, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, states, batch: Batch):
        """Values (N, T); states (marked, D) are the policy's and may be None for an own network."""
        if self.trunk is not None:
            states = self.trunk.hidden_states(batch.tokens, batch.mask)
        if self.hints:
            others = batch.others[:, None, None].expand(*batch.mask.shape, 1)
            told = torch.cat((likelihood(batch.old_logp, batch.mask), others), dim=-1)
            told = told[:, 1:][batch.mask[:, 1:].bool()]
            states = torch.cat((states, HINT_SCALE * told), dim=1)
        with torch.autocast(states.device.type, enabled=False):  # bfloat16 has three digits
            return scatter_to_mask(self.head(states.float()).squeeze(1), batch.mask)


# --- what train.py calls

def token_rewards(batch: Batch, options):
    """Rewards per token (N, T): the response's at its last token, or those of its steps at their
    ends, and the KL's price on each where it is paid with the reward."""
    last = batch.mask * (batch.mask.flip(1).cumsum(1).flip(1) == 1)
    rewards = batch.rewards[:, None] * last if batch.step_rewards is None else batch.step_rewards
    if options.kl_coef and options.kl_in == "reward":
        rewards = rewards - options.kl_coef * kl(batch.old_logp, batch.ref_logp, "k1") * batch.mask
    return rewards


def prepare(batch: Batch, options, warm_up: bool = False) -> Batch:
    """The batch with advantages (whitened over all of it) and returns. In the critic's warm-up
    there are no advantages, and the policy stands still."""
    rewards = token_rewards(batch, options)
    parts = rewards, batch.values, batch.mask, options.gamma
    returns = gae(*parts, 1.0 if warm_up else options.critic_gae_lambda) + batch.values * batch.mask
    advantages = None if warm_up else whiten(gae(*parts, options.gae_lambda), batch.mask)
    return replace(batch, advantages=advantages, returns=returns)


def loss(policy, critic, batch: Batch, options):
    """The loss of a micro-batch of policy and critic, and its share of the metrics."""
    warm_up = batch.advantages is None
    with torch.set_grad_enabled(not warm_up):
        states = policy.hidden_states(batch.tokens, batch.mask)
    values = critic(states, batch)
    errors = value_loss(values, batch.values, batch.returns, options.value_clip)
    total = options.value_coef * (batch.weights * errors).sum()
    sums = {"tokens": batch.total(batch.mask), "value_loss": batch.total(errors.detach())}
    if not warm_up:
        logp, entropy = policy.logprobs(batch.tokens, batch.mask, options.temperature, states,
                                     bool(options.entropy_coef))
        policy_part, policy_sums = policy_loss(logp, batch, options, entropy)
        total, sums = total + policy_part, sums | policy_sums
    return total, sums


def minibatches(batch: Batch, options, rng):
    """The updates that one rollout gives: for each epoch, `minibatches` nearly equal parts of the
    rows (empty ones left out), each with the weights of its own tokens, equal rows merged. Before
    they are cut, through a question if need be, questions are put in random order and the answers
    to each together, so that an update weighs good ones against bad ones of the same question (and
    has more equal rows to merge). rng is a random.Random."""
    groups = batch.group.tolist()
    for _ in range(options.epochs):
        turn = {question: rng.random() for question in sorted(set(groups))}
        order = sorted(range(len(groups)), key=lambda i: turn[groups[i]])
        for part in torch.tensor(order, device=batch.mask.device).tensor_split(options.minibatches):
            if len(part):
                rows = batch.rows(part)
                yield replace(rows, weights=token_weights(
                    rows.mask, options.aggregate, options.max_new_tokens)).merged()
