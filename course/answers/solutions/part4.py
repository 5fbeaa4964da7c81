"""Right solutions of part 4, written in other ways. They run with the names of the true modules."""

import math

import torch


def group_std_loop(rewards, group):
    out = []
    for g in group.tolist():
        mine = [r for r, h in zip(rewards.tolist(), group.tolist(), strict=True) if h == g]
        mean = sum(mine) / len(mine)
        out.append(math.sqrt(sum((r - mean) ** 2 for r in mine) / max(1, len(mine) - 1)))
    return torch.tensor(out, dtype=rewards.dtype)


def group_std_by_torch(rewards, group):
    out = torch.zeros_like(rewards)
    for g in group.unique():
        if (group == g).sum() > 1:
            out[group == g] = rewards[group == g].std()
    return out


def group_advantages_by_group(rewards, group, scale_by_std=True, baseline="mean", divisor="std"):
    out = torch.zeros_like(rewards)
    for g in group.unique():
        mine = rewards[group == g]
        if len(mine) > 1:
            others = (mine.sum() - mine) / (len(mine) - 1)
            centred = mine - (mine.mean() if baseline == "mean" else others)
            unit = {"std": mine.std(), "mean": mine.mean(), "batch-std": rewards.std()}[divisor]
            out[group == g] = centred / (unit + 1e-6) if scale_by_std else centred
    return out


def surrogate_as_losses(logp, old_logp, advantages, clip_low=0.2, clip_high=0.2, dual_clip=0.0):
    ratio = torch.exp(torch.clamp(logp - old_logp, -20.0, 20.0))
    clipped_ratio = torch.clamp(ratio, 1.0 - clip_low, 1.0 + clip_high)
    losses = torch.max(-advantages * ratio, -advantages * clipped_ratio)
    if dual_clip > 0:
        bounded = torch.min(losses, -dual_clip * advantages)
        losses = torch.where(advantages < 0, bounded, losses)
    return losses


def surrogate_by_sign(logp, old_logp, advantages, clip_low=0.2, clip_high=0.2, dual_clip=0.0):
    """A > 0: the ratio counts up to 1 + clip_high; A < 0: down to 1 - clip_low."""
    ratio = (logp - old_logp).clamp(-20, 20).exp()
    up, down = ratio.clamp(max=1 + clip_high), ratio.clamp(min=1 - clip_low)
    if dual_clip:
        down = down.clamp(max=dual_clip)
    return -advantages * torch.where(advantages >= 0, up, down)


def clipped_logical(logp, old_logp, advantages, clip_low=0.2, clip_high=0.2):
    gap = logp - old_logp
    lowest = math.log(1 - clip_low) if clip_low < 1 else -math.inf
    below = torch.logical_and(advantages < 0, gap < lowest)
    return below, torch.logical_and(advantages > 0, gap > math.log1p(clip_high))


def kl_of_dict(logp, ref_logp, estimator="k3"):
    d = torch.clamp(ref_logp - logp, -20.0, 20.0)
    return {"k1": -d, "k2": 0.5 * d**2, "k3": torch.exp(d) - 1 - d}[estimator]


def token_weights_by_rows(mask, aggregation, max_tokens=0):
    n = mask.shape[0]
    if aggregation == "token":
        return mask / max(float(mask.sum()), 1.0)
    if aggregation == "sequence":
        return torch.stack([row / max(1.0, float(row.sum())) for row in mask]) / n
    if aggregation == "sum":
        return mask / n
    if aggregation == "constant" and max_tokens > 0:
        return mask / max_tokens / n
    raise ValueError(f"{aggregation} with {max_tokens} tokens is no average")


def sequence_log_ratio_where(logp, old_logp, mask):
    gaps = torch.where(mask > 0, logp - old_logp, torch.zeros_like(logp))
    return gaps.sum(-1, keepdim=True) / torch.clamp(mask.sum(-1, keepdim=True), min=1)


def token_rewards_loop(batch, options):
    out = torch.zeros(batch.mask.shape)
    for i, row in enumerate(batch.mask):
        marked = row.nonzero()[:, 0].tolist()
        if batch.step_rewards is not None:
            out[i] = batch.step_rewards[i]
        elif marked:
            out[i, marked[-1]] = batch.rewards[i]
        if options.kl_in == "reward" and options.kl_coef > 0:
            for t in marked:
                out[i, t] -= options.kl_coef * (batch.old_logp[i, t] - batch.ref_logp[i, t])
    return out


SOLUTIONS = {
    "group_std": [group_std_loop, group_std_by_torch],
    "group_advantages": [group_advantages_by_group],
    "surrogate": [surrogate_as_losses, surrogate_by_sign], "clipped": [clipped_logical],
    "kl": [kl_of_dict], "token_weights": [token_weights_by_rows],
    "sequence_log_ratio": [sequence_log_ratio_where], "token_rewards": [token_rewards_loop]}
