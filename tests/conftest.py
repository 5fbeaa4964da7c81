"""Lets the tests import the flat files of the repository root."""

import os
import sys
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bench/gpu.py has the tests that want a GPU

import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]))
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
