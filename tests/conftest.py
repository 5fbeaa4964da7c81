"""Lets the tests import the flat files of the repository root."""

import os
import sys
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bench/gpu.py has the tests that want a GPU
os.environ["TRITON_INTERPRET"] = "1"     # Triton's kernels are run on the CPU (test_kernels.py)

import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]))
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other


def pytest_xdist_auto_num_workers(config):
    """All tests run side by side, in a process a core; those of given files in this one."""
    given = any(".py" in argument for argument in config.args)
    return 0 if given else min(4, os.cpu_count() or 1)
