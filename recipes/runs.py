"""The runs of a recipe: its base, and copies of the base after reinforcement learning.

Both are kept on disk, so a recipe that was stopped loses at most the run it was in. Left out on
purpose: checkpoints within a run (recipes/r1.py has them, by train.start).
"""

import copy
from pathlib import Path

import model as gpt
import train
from infra import cli, tensors
from infra.base_model import base_model
from infra.models import make_models

FLAGS = "--device cpu --eval-problems 1 --eval-every 100000"  # the recipe measures, not the run


def start(flags: str, seed: int, folder: Path, task=None):
    """(base, task, tokenizer, options) of these flags of train.py. The base is kept in `folder`.
    task: one that the recipe defines, in the place of --task. Exits as train.py does for a bad
    flag."""
    options, _ = cli.parse([*FLAGS.split(), *flags.split(), "--seed", str(seed)])
    named, tokenizer = cli.validate(options)
    task = task or named
    return base_model(options, task, tokenizer, folder), task, tokenizer, options


def reinforced(path: Path, base, task, tokenizer, options, on_step=lambda policy, metrics: None
               ) -> tuple[gpt.GPT, list[dict]]:
    """A copy of the base after train.reinforce with these options, and the metrics of its steps.
    Both are kept in the file `path`, and read from it the next time. on_step(policy, metrics) may
    add to the metrics of a step."""
    if not path.exists():
        models, optimizer = make_models(copy.deepcopy(base), tokenizer, options)
        history = train.reinforce(task, models, optimizer, options,
                                  on_step=lambda metrics: on_step(models.sampler, metrics))
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors.save(path, gpt.to_state(models.policy) | {"history": history})
    saved = tensors.load(path)
    return gpt.from_state(saved), saved["history"]
