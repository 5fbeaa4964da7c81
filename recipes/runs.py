"""The runs of a recipe: its base, and copies of the base after RL or SFT.

A base and a run of `reinforced` are kept on disk, so a recipe that was stopped loses at most the
run it was in. Left out on purpose: checkpoints within a run (recipes/r1.py has them, by
train.start).
"""

import copy
import random
from pathlib import Path

import torch

import model as gpt
import ppo
import sft
import train
from infra import cli, tensors
from infra.base_model import base_model
from infra.models import make_models

FLAGS = "--device cpu --eval-problems 1 --eval-every 100000"  # the recipe measures, not the run


def read(flags: str, seed: int):
    """(options, task, tokenizer) of these flags of train.py. Exits as train.py does for a bad flag.
    """
    options, _ = cli.parse([*FLAGS.split(), *flags.split(), "--seed", str(seed)])
    return options, *cli.validate(options)


def start(flags: str, seed: int, folder: Path, task=None):
    """(base, task, tokenizer, options) of these flags of train.py. The base is kept in `folder`.
    task: one that the recipe defines, in the place of --task."""
    options, named, tokenizer = read(flags, seed)
    task = task or named
    return base_model(options, task, tokenizer, folder), task, tokenizer, options


def reinforced(path: Path, base, task, tokenizer, options, on_step=lambda policy, metrics: None
               ) -> tuple[gpt.GPT, list[dict]]:
    """A copy of the base after train.reinforce with these options, and the metrics of its steps.
    Both are kept in the file `path`, and read from it the next time. on_step(policy, metrics) may
    add to the metrics of a step."""
    if not path.exists():
        policy = copy.deepcopy(base)
        history = reinforce(policy, task, tokenizer, options,
                            lambda metrics: on_step(policy, metrics))
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors.save(path, gpt.to_state(policy) | {"history": history})
    saved = tensors.load(path)
    return gpt.from_state(saved), saved["history"]


def reinforce(policy, task, tokenizer, options, on_step=lambda metrics: None) -> list[dict]:
    """RL of the policy in place. Returns the metrics of each step, which on_step gets after it."""
    models, optimizer = make_models(policy, tokenizer, options)
    return train.reinforce(task, models, optimizer, options, on_step=on_step)


def supervise(policy, pairs, tokenizer, options, on_step=lambda metrics: None) -> None:
    """SFT of the policy in place, with the optimizer, loss and learning rates of --algo raft, so
    that it can be compared with RL. Each step learns from as many answers as RL samples, --prompts
    times --group-size, drawn from the (prompt ids, response ids) pairs. on_step gets {"step": ...}
    after each step. Raises ValueError where there are no pairs."""
    if not pairs:
        raise ValueError("there are no answers to learn from: the base has no right one; give it "
                         "more --base-steps")
    models, optimizer = make_models(policy, tokenizer, options)
    rng, size = random.Random(f"pairs {options.seed}"), options.prompts * options.group_size
    for step in range(options.steps):
        tokens, mask = sft.padded(rng.choices(pairs, k=size))
        batch = ppo.Batch(tokens, mask, torch.zeros_like(mask), torch.arange(size),
                          torch.ones(size), advantages=mask)
        train.set_learning_rates(optimizer, {"step": step}, options)
        train.update(models, optimizer, batch, options, rng)
        on_step({"step": step + 1})
