"""Inputs of part 5: PPO and its critic. The answers are not here."""

import functools

import torch

MASK = torch.tensor([[1.0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 0, 0, 1, 1]])
VALUES = torch.tensor([[0.1, 0.3, 0.2, 0.6, 0.5], [0.9, 0.4, 0.1, 0.2, 0.8],
                       [0.7, 5.0, -4.0, 0.3, 0.2]])
REWARDS = torch.tensor([[0.0, 0, 0, 0, 1], [0.7, 0, 0, 0.5, 0.3], [0.2, 0.4, -0.6, 0, 1]])


def gae(f):
    full, gap = slice(0, 1), slice(2, 3)
    yield "lambda 1, gamma 1, a full row", f, REWARDS[full], VALUES[full], MASK[full], 1.0, 1.0
    yield "lambda 0, gamma 1, a full row", f, REWARDS[full], VALUES[full], MASK[full], 1.0, 0.0
    yield "lambda 0.9, gamma 0.8, a full row", f, REWARDS[full], VALUES[full], MASK[full], 0.8, 0.9
    yield "a prompt before and padding after", f, REWARDS[1:2], VALUES[1:2], MASK[1:2], 0.9, 0.8
    yield "a gap in the mask", f, REWARDS[gap], VALUES[gap], MASK[gap], 0.9, 0.8
    yield "three rows, default values", f, REWARDS, VALUES, MASK
    yield "a lambda for each row", f, REWARDS, VALUES, MASK, 1.0, torch.tensor([0.5, 0.9, 1.0])


def whiten(f):
    yield "a full mask", f, VALUES[:2], torch.ones(2, 5)
    yield "prompts, gaps and padding", f, 10 + VALUES, MASK
    yield "one token", f, torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    yield "equal values", f, torch.full((2, 3), 0.5), torch.ones(2, 3)
    small = torch.tensor([[0.0, 1, -1, 2, -2, 0, 1, -1]]) / 64
    yield "a standard deviation of 0.02", f, 0.5 + small, torch.ones(1, 8)
    yield "values near 1000", f, 1000 + small, torch.ones(1, 8)


def value_loss(f):
    @functools.wraps(f)
    def call(values, *args):
        x = values.clone().requires_grad_()
        result = f(x, *args)
        gradient = torch.zeros(x.shape)
        if result.requires_grad:
            gradient = torch.autograd.grad(result.sum(), x)[0]
        return {"result": result, "the gradient with respect to values": gradient}
    values = torch.tensor([[0.5, 0.9, 0.2, 1.5]])
    old = torch.tensor([[0.4, 0.4, 0.9, 1.6]])
    returns = torch.tensor([[1.0, 1.0, 0.0, 0.3]])
    yield "no clip", call, values, old, returns
    yield "clip 0.2", call, values, old, returns, 0.2
    yield "clip 0.2, the returns below", call, values, old, returns - 1, 0.2


def explained_variance(student):
    @functools.wraps(student)
    def f(*args):
        result = student(*args)
        return "a tensor, no float" if hasattr(result, "detach") else result
    returns = torch.tensor([[1.0, 1.0, 0.5, 0.5, 0.0], [9.0, 0.2, 0.4, 0.3, 9.0],
                            [0.1, 9.0, 9.0, 0.8, 0.7]])
    yield "values near the returns", f, returns + 0.1 * VALUES, returns, MASK
    yield "values as they come", f, VALUES, returns, MASK
    yield "values that are too high by a constant", f, returns + 3, returns, MASK
    yield "constant values", f, torch.full((3, 5), 0.4), returns, MASK
    yield "a perfect critic", f, returns.clone(), returns, MASK
    yield "equal returns", f, VALUES, torch.full((3, 5), 0.5), MASK
    yield "one token", f, VALUES[:1], returns[:1], torch.tensor([[0.0, 0, 1, 0, 0]])


CHECKS = {"gae": gae, "whiten": whiten, "value_loss": value_loss,
          "explained_variance": explained_variance}
