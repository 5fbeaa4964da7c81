"""A model for tests that train: --size tiny with half of the layers and of the width."""

import contextlib

import pytest

import model

TINY = dict(layers=2, width=64, heads=4, kv_heads=2, hidden=96, **model.TOY)


@contextlib.contextmanager
def tiny_model():
    """--size tiny is TINY here. A finished run keeps its size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "tiny", TINY)
        yield
