"""Right solutions of exercises, written in other ways than the repository's, in plain float32.

tests/test_course.py grades them: a test that refuses one of them asks for more than the docstring.
A key is the function that the solution replaces. The code runs with the names of that function's
module.
"""

# ruff: noqa: F821
# (torch is a name of the modules, not of this file)


def surrogate(logp, old_logp, advantages, clip_low=0.2, clip_high=0.2, dual_clip=0.0):
    ratio = torch.exp(torch.clamp(logp - old_logp, -20.0, 20.0))
    clipped_ratio = torch.clamp(ratio, 1.0 - clip_low, 1.0 + clip_high)
    losses = torch.max(-advantages * ratio, -advantages * clipped_ratio)
    if dual_clip > 0:
        bounded = torch.min(losses, -dual_clip * advantages)
        losses = torch.where(advantages < 0, bounded, losses)
    return losses


def clipped(logp, old_logp, advantages, clip_low=0.2, clip_high=0.2):
    ratio = torch.exp(torch.clamp(logp - old_logp, -20.0, 20.0))
    below = torch.logical_and(advantages < 0, ratio < 1 - clip_low)
    return below, torch.logical_and(advantages > 0, ratio > 1 + clip_high)


def kl(logp, ref_logp, estimator="k3"):
    d = torch.clamp(ref_logp - logp, -20.0, 20.0)
    return {"k1": -d, "k2": 0.5 * d**2, "k3": torch.exp(d) - 1 - d}[estimator]


def token_weights(mask, aggregation, max_tokens=0):
    n = mask.shape[0]
    if aggregation == "token":
        return mask / max(float(mask.sum()), 1.0)
    if aggregation == "sequence":
        return mask / mask.sum(dim=1).clamp(min=1.0).unsqueeze(1) / n
    if aggregation == "sum":
        return mask / n
    if aggregation == "constant" and max_tokens > 0:
        return mask / max_tokens / n
    raise ValueError(f"{aggregation} with {max_tokens} tokens is no average")


def gae(rewards, values, mask, gamma=1.0, gae_lambda=0.95):
    out = torch.zeros_like(values)
    for i in range(len(rewards)):
        advantage = following = 0.0
        for t in reversed(mask[i].nonzero().flatten().tolist()):
            delta = rewards[i, t] + gamma * following - values[i, t]
            advantage = delta + gamma * gae_lambda * advantage
            following = values[i, t]
            out[i, t] = advantage
    return out


def whiten(x, mask, eps=1e-6):
    inside, out = x[mask > 0], torch.zeros_like(x)
    if len(inside) > 1:
        out[mask > 0] = (inside - inside.mean()) / (inside.std() + eps)
    return out


def value_loss(values, old_values, returns, clip=0.0):
    errors = 0.5 * (returns - values).pow(2)
    if clip > 0:
        near = torch.max(torch.min(values, old_values + clip), old_values - clip)
        errors = torch.max(errors, 0.5 * (returns - near).pow(2))
    return errors


def explained_variance(values, returns, mask):
    target, error = returns[mask > 0], (returns - values)[mask > 0]
    total = ((target - target.mean()) ** 2).mean()
    if total == 0:
        return 0.0
    return 1 - (((error - error.mean()) ** 2).mean() / total).item()


def group_advantages(rewards, group, scale_by_std=True, baseline="mean", divisor="std"):
    out = torch.zeros_like(rewards)
    for g in group.unique():
        mine = rewards[group == g]
        if len(mine) > 1:
            others = (mine.sum() - mine) / (len(mine) - 1)
            centred = mine - (mine.mean() if baseline == "mean" else others)
            unit = {"std": mine.std(), "mean": mine.mean(), "batch-std": rewards.std()}[divisor]
            out[group == g] = centred / (unit + 1e-6) if scale_by_std else centred
    return out


def sequence_log_ratio(logp, old_logp, mask):
    gaps = torch.where(mask > 0, logp - old_logp, torch.zeros_like(logp))
    return gaps.sum(-1, keepdim=True) / torch.clamp(mask.sum(-1, keepdim=True), min=1)


def informative(correct, group):
    out = torch.zeros(len(group), dtype=torch.bool)
    for g in group.unique():
        out[group == g] = bool(0 < correct[group == g].mean() < 1)
    return out


def overlong_penalty(lengths, limit, buffer):
    begin = limit - buffer
    inside = torch.where(lengths > limit, -torch.ones_like(lengths), (begin - lengths) / buffer)
    return torch.where(lengths <= begin, torch.zeros_like(lengths), inside)


def auc(scores, truths):
    pairs = [(p > n) + 0.5 * (p == n) for p, right in zip(scores, truths, strict=True) if right
             for n, wrong in zip(scores, truths, strict=True) if not wrong]
    return sum(pairs) / len(pairs) if pairs else None


def pass_at_k(n, c, k):
    if k < 1 or k > n or c < 0 or c > n:
        raise ValueError("k is not in 1..n, or c not in 0..n")
    wrong = 1.0
    for i in range(k):
        wrong *= (n - c - i) / (n - i)
    return 1.0 - max(0.0, wrong)


SOLUTIONS = {
    "ppo": (surrogate, clipped, kl, token_weights, gae, whiten, value_loss, explained_variance),
    "grpo": (group_advantages, sequence_log_ratio), "dapo": (informative, overlong_penalty),
    "tasks.oracle": (auc,), "verify": (pass_at_k,)}
