"""What several tests share: a model for training, and the tensors of some responses.

The model is --size tiny with half of the layers and of the width.
"""

import contextlib

import pytest
import torch

import model
from infra import base_model

TINY = dict(layers=2, width=64, heads=4, kv_heads=2, hidden=96, **model.TOY)

NANO = dict(layers=1, width=16, heads=2, kv_heads=1, hidden=24, **model.TOY)  # of short recipes


@contextlib.contextmanager
def tiny_model():
    """--size tiny is TINY here, and few documents name a base. A finished run keeps its size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "tiny", TINY)
        patch.setattr(base_model, "DOCUMENTS", 20)
        yield


def response_tensors(seed=0, n=6, t=7, spread=0.4):
    """Responses alone (no prompt): logp, which needs a gradient, old_logp, ref_logp and mask
    (n, t), advantages (n,), and entropy (n, t). spread: of logp around old_logp, in nats."""
    g = torch.Generator().manual_seed(seed)
    mask = (torch.arange(t) < torch.tensor([7, 1, 4, 6, 2, 5])[:n, None]).float()
    old = -torch.rand(n, t, generator=g)
    logp = (old + spread * torch.randn(n, t, generator=g)).requires_grad_()
    ref = old + 0.3 * torch.randn(n, t, generator=g)
    advantages = torch.randn(n, generator=g)
    return logp, old, ref, mask, advantages, torch.rand(n, t, generator=g) * mask
