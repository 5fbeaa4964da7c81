"""Right solutions of part 5, written in other ways. They run with the names of the true modules."""

import torch


def gae_loop(rewards, values, mask, gamma=1.0, gae_lambda=0.95):
    out = torch.zeros_like(values)
    for i in range(len(rewards)):
        lam = float(gae_lambda[i]) if isinstance(gae_lambda, torch.Tensor) else gae_lambda
        advantage = following = 0.0
        for t in reversed(mask[i].nonzero().flatten().tolist()):
            delta = rewards[i, t] + gamma * following - values[i, t]
            advantage = delta + gamma * lam * advantage
            following = values[i, t]
            out[i, t] = advantage
    return out


def gae_as_a_sum(rewards, values, mask, gamma=1.0, gae_lambda=0.95):
    """The paper's sum over l of (gamma lambda)^l delta[t + l], in float64."""
    out = torch.zeros(rewards.shape, dtype=torch.float64)
    for i, inside in enumerate(mask > 0):
        decay = gamma * float(torch.as_tensor(gae_lambda).expand(len(rewards))[i])
        r, v = rewards[i, inside].double(), values[i, inside].double()
        delta = r + gamma * torch.cat((v[1:], v.new_zeros(1))) - v
        out[i, inside] = torch.stack([sum(decay**k * delta[t + k] for k in range(len(r) - t))
                                      for t in range(len(r))])
    return out.to(rewards.dtype)


def whiten_inside(x, mask, eps=1e-6):
    inside, out = x[mask > 0], torch.zeros_like(x)
    if len(inside) > 1:
        out[mask > 0] = (inside - inside.mean()) / (inside.std() + eps)
    return out


def value_loss_where(values, old_values, returns, clip=0.0):
    errors = 0.5 * (returns - values).pow(2)
    if clip > 0:
        near = torch.max(torch.min(values, old_values + clip), old_values - clip)
        errors = torch.max(errors, 0.5 * (returns - near).pow(2))
    return errors


def explained_variance_by_means(values, returns, mask):
    target, error = returns[mask > 0], (returns - values)[mask > 0]
    total = ((target - target.mean()) ** 2).mean()
    if total == 0:
        return 0.0
    return 1 - (((error - error.mean()) ** 2).mean() / total).item()


SOLUTIONS = {"gae": [gae_loop, gae_as_a_sum], "whiten": [whiten_inside],
             "value_loss": [value_loss_where],
             "explained_variance": [explained_variance_by_means]}
