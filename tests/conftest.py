"""Lets the tests import the flat files of the repository root."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
