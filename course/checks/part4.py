"""Inputs of part 4: policy gradient to GRPO. The answers are not here."""

import functools
from types import SimpleNamespace

import torch

FOUR = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.1, 0.2, 0.6, 0.7])
GROUPS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
MIXED = torch.tensor([1, 0, 2, 1, 0, 1, 2, 1])
GAPS = torch.tensor([2, 7, 7, 2, 2])


def group_std(f):
    @functools.wraps(f)
    def call(rewards, group):
        result = f(rewards, group)
        return {"result": result, "(result < 5e-7)": result < 5e-7}
    yield "two groups of four", call, FOUR, GROUPS
    yield "groups of 2 and 4, in any order", call, FOUR, MIXED
    yield "equal rewards", call, torch.tensor([0.7, 0.7, 0.7, 1.0]), torch.tensor([0, 0, 0, 1])
    ten = torch.tensor([1.1] * 10 + [0.1])
    yield "ten rewards of 1.1 and a response that is alone", call, ten, torch.arange(11) // 10
    yield "a response that is alone", call, torch.tensor([0.5, 1.0, 0.0]), torch.tensor([1, 0, 0])
    yield "groups with the numbers 2 and 7", call, FOUR[3:], GAPS


def group_advantages(f):
    yield "two groups of four", f, FOUR, GROUPS
    yield "groups of 2 and 4, in any order", f, FOUR, MIXED
    yield "groups with the numbers 2 and 7", f, FOUR[3:], GAPS
    near = torch.tensor([0.5, 0.5078125, 0.515625, 0.4921875])
    yield "a standard deviation of 0.01", f, near, torch.zeros(4).long()
    equal = torch.cat((torch.full((16,), 1.1), torch.tensor([1.0, 0.0])))
    yield "sixteen equal rewards of 1.1, and a group of two", f, equal, torch.arange(18) // 16
    alone, group = torch.tensor([0.7, 1.0, 0.0]), torch.tensor([1, 0, 0])
    yield "a response that is alone", f, alone, group
    yield "a response that is alone, baseline others", f, alone, group, True, "others"
    yield "scale_by_std False", f, FOUR, MIXED, False
    yield "scale_by_std False, divisor mean", f, FOUR, MIXED, False, "mean", "mean"
    yield "baseline others", f, FOUR, GROUPS, False, "others"
    yield "divisor mean", f, FOUR, GROUPS, True, "mean", "mean"
    yield "divisor batch-std", f, FOUR, GROUPS, True, "mean", "batch-std"


def value_and_gradient(f):
    """A call of f(logp, ...) that also gives the gradient of the weighted sum of the results."""
    @functools.wraps(f)
    def call(logp, *args):
        x = logp.clone().requires_grad_()
        result = f(x, *args)
        gradient = torch.zeros(x.shape)
        if result.requires_grad:
            total = result.flatten() @ torch.arange(1.0, 1 + result.numel())
            gradient = torch.autograd.grad(total, x)[0]
        return {"result": result, "the gradient with respect to logp": gradient}
    return call


RATIOS = torch.tensor([[0.5, 0.79, 0.9, 1.0, 1.15, 1.25, 1.6]])
OLD = torch.tensor([[-1.0, -0.3, -2.0, -0.7, -0.1, -1.5, -0.9]])
LOGP = OLD + RATIOS.log()


def surrogate(f):
    call = value_and_gradient(f)
    yield "advantages above 0, ratios from 0.5 to 1.6", call, LOGP, OLD, torch.full((1, 7), 2.0)
    yield "advantages below 0, ratios from 0.5 to 1.6", call, LOGP, OLD, torch.full((1, 7), -2.0)
    yield "advantages of 0", call, LOGP, OLD, torch.zeros(1, 7)
    yield "clip_high = 0.28 above clip_low = 0.2", call, LOGP, OLD, torch.ones(1, 7), 0.2, 0.28
    yield "clip_low = 0.3 above clip_high = 0.1", call, LOGP, OLD, -torch.ones(1, 7), 0.3, 0.1
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0]])
    yield "dual_clip = 1.1, advantages of 2 and -2", call, LOGP, OLD, 2 * signs, 0.2, 0.2, 1.1
    far = torch.tensor([[200.0, -200.0, 200.0, -200.0, 200.0]])
    some = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0]])
    yield "log-ratios of 200 and -200", call, far, torch.zeros(1, 5), some


def clipped(f):
    yield "advantages above 0", f, LOGP, OLD, torch.full((1, 7), 2.0)
    yield "advantages below 0", f, LOGP, OLD, torch.full((1, 7), -2.0)
    yield "advantages of 0", f, LOGP, OLD, torch.zeros(1, 7)
    yield "clip_low = 0.4, clip_high = 0.1, advantages above 0", \
        f, LOGP, OLD, torch.ones(1, 7), 0.4, 0.1
    yield "clip_low = 0.4, clip_high = 0.1, advantages below 0", \
        f, LOGP, OLD, -torch.ones(1, 7), 0.4, 0.1
    near = OLD[:, :4] + torch.tensor([[0.81, 0.81, 1.21, 1.21]]).log()
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    yield "ratios of 0.81 and 1.21, advantages of 1 and -1", f, near, OLD[:, :4], signs
    yield "clip_low = 1, clip_high = 4", f, LOGP, OLD, -torch.ones(1, 7), 1.0, 4.0
    yield "ratios of 1, clip_low = clip_high = 0", f, OLD[:, :4], OLD[:, :4], signs, 0.0, 0.0


def kl(f):
    call = value_and_gradient(f)
    logp = torch.tensor([[-1.0, -0.5, -2.0, -0.1]])
    ref = torch.tensor([[-1.5, -0.5, -0.8, -3.0]])
    for how in ("k1", "k2", "k3"):
        yield f"{how} (values and gradient)", call, logp, ref, how
    yield "an unknown estimator", f, logp, ref, "k9"


def token_weights(f):
    mask = torch.tensor([[0.0, 1, 1, 1, 1], [0, 1, 0, 0, 0], [1, 1, 0, 1, 0]])
    empty = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]])
    for how in ("token", "sequence", "sum", "constant"):
        yield f"{how}, rows of 4, 1 and 3 tokens", f, mask, how, 10
        yield f"{how}, rows of 4, 0 and 3 tokens", f, empty, how, 7
    yield "no tokens at all", f, torch.zeros(2, 3), "token", 4
    yield "constant without max_tokens", f, mask, "constant"


def sequence_log_ratio(f):
    logp = torch.tensor([[-1.0, -0.5, -2.0], [-0.3, -0.2, -0.9]])
    old = torch.tensor([[-1.2, -0.1, -1.0], [-0.3, -0.7, -0.8]])
    call = value_and_gradient(f)
    yield "full rows (values and gradient)", call, logp, old, torch.ones(2, 3)
    yield "rows of 2 and 1 tokens", call, logp, old, torch.tensor([[0.0, 1, 1], [0, 1, 0]])
    yield "a row without tokens", call, logp, old, torch.tensor([[1.0, 1, 0], [0, 0, 0]])
    yield "a log-ratio of 30", call, logp, torch.tensor([[-31.0, -0.5, -2], [0, 0, 0]]), \
        torch.ones(2, 3)


def token_rewards(f):
    mask = torch.tensor([[0.0, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]])
    old = torch.tensor([[-0.5, -1.0, -0.2, -0.7], [-0.4, -0.9, -0.1, -0.6], [-0.3, -2, -1, -0.8],
                        [-0.2, -0.3, -0.4, -0.5]])
    ref = torch.tensor([[-0.9, -0.8, -0.6, -1.7], [-0.5, -0.4, -0.8, -0.3], [-1, -1.5, -1, -0.2],
                        [-0.3, -0.2, -0.9, -0.1]])

    def call(rewards, old_logp, ref_logp, kl_coef, kl_in, step_rewards=None):
        from ppo import Batch
        batch = Batch(torch.ones(4, 4, dtype=torch.int64), mask.clone(), old_logp,
                      torch.tensor([0, 0, 1, 1]), rewards, ref_logp=ref_logp,
                      step_rewards=step_rewards)
        return f(batch, SimpleNamespace(kl_coef=kl_coef, kl_in=kl_in, kl="k3"))
    call.names = ["batch.rewards", "batch.old_logp", "batch.ref_logp", "", "", "batch.step_rewards"]
    rewards = torch.tensor([1.0, 0.1, 0.5, 1.0])
    steps = torch.tensor([[0.0, 0.2, 0, 0.9], [0.4, 0.3, 0, 0], [0, 0.7, 0, 0.6], [0, 0, 0, 0]])
    yield ("rows with a prompt, with padding, with a gap, without tokens; no KL",
           call, rewards, old, None, 0.0, "loss")
    yield 'kl_in "reward" with kl_coef 0', call, rewards, old, None, 0.0, "reward"
    yield "the KL in the loss", call, rewards, old, ref, 0.1, "loss"
    yield "the KL in the reward", call, rewards, old, ref, 0.1, "reward"
    yield "batch.step_rewards", call, rewards, old, None, 0.0, "loss", steps
    yield "batch.step_rewards, the KL in the reward", call, rewards, old, ref, 0.1, "reward", steps


CHECKS = {"group_std": group_std, "group_advantages": group_advantages, "surrogate": surrogate,
          "clipped": clipped, "kl": kl, "token_weights": token_weights,
          "sequence_log_ratio": sequence_log_ratio, "token_rewards": token_rewards}
