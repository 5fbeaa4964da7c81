"""Supervised fine-tuning: next-token training on (prompt, response) pairs.

    loss = -mean over the tokens of the responses of log p(token | tokens before it)

It makes the base model that reinforcement learning starts from, in place of pretraining: the pairs
are then documents of a task's corpus (tasks/corpus.py). Three quarters of the steps see the drill,
the last quarter sees the mixed corpus. Any other pairs will do too, such as a cold start or another
model's answers.

A batch is cut into micro-batches of similar length, so there is little padding. Each step is one
step of Muon (2502.16982) and of Adam for embeddings and norms. Left out on purpose: several
documents in one row, validation loss (the base model is judged by what it generates).
"""

import random

import torch

from engine.muon import muon_and_adam
from engine.packing import micro_batches
from evaluate import sample_responses
from model import GPT

RECIPE = 3  # raise it when training itself changes: the base's file name holds it
BATCH_TOKENS = 2000                          # tokens of a batch, prompts included
MICRO_TOKENS = {"cpu": 1024, "cuda": 32768}  # tokens of a micro-batch, by type of device
DRILL_FRACTION = 0.75                        # share of the steps that see the drill
WARMUP_STEPS = 20                            # steps in which the learning rates rise
DECAY_FRACTION = 0.4                         # share of the steps, at the end, in which they fall


# --- where pairs come from: a function from the share of training done to the batch of a step

def documents(tokenizer, task, easier_task, rng: random.Random, drill: bool = False):
    """A batch of a task's corpus, about BATCH_TOKENS tokens: [(prompt ids, response ids)], each
    response with the end-of-text token. Every second problem is an easier one."""
    batch, size = [], 0
    while size < BATCH_TOKENS:
        source = easier_task if len(batch) % 2 else task
        [problem] = source.sample(rng, 1)
        prompt = tokenizer.encode_prompt(problem.question)
        response = tokenizer.encode(source.document(rng, problem, drill)) + [tokenizer.eos_id]
        batch.append((prompt, response))
        size += len(prompt) + len(response)
    return batch


def corpus_batches(tokenizer, task, seed: int):
    """New documents of a task's corpus for every step; no document is used twice."""
    rng, easier_task = random.Random(f"corpus {seed}"), task.easier_task()
    return lambda done: documents(tokenizer, task, easier_task, rng, drill=done < DRILL_FRACTION)


def shuffled_batches(pairs: list, seed: int):
    """The given pairs, about BATCH_TOKENS tokens per step, in a new random order each epoch."""
    if not pairs:
        raise ValueError("there are no (prompt, response) pairs to train on")
    rng, epoch = random.Random(f"pairs {seed}"), []

    def next_batch(done):
        batch, size = [], 0
        while size < BATCH_TOKENS:
            if not epoch:
                epoch.extend(rng.sample(pairs, len(pairs)))
            batch.append(epoch.pop())
            size += len(batch[-1][0]) + len(batch[-1][1])
        return batch
    return next_batch


# --- training

def train(model: GPT, pairs, steps: int, seed: int = 0, lr: float = 0.01, adam_lr: float = 0.006,
          progress=lambda loss: None) -> None:
    """Trains the model in place, about BATCH_TOKENS tokens per step.

    pairs: a list of (prompt ids, response ids), shuffled with `seed`; or a source of batches, such
    as `corpus_batches(tokenizer, task, seed)`. The loss covers the responses, so they should end
    with the end-of-text token.
    lr, adam_lr: the highest learning rates of Muon and of Adam.
    progress(loss) is called after each step, with the loss in nats per token.
    """
    next_batch = pairs if callable(pairs) else shuffled_batches(pairs, seed)
    device, rates = model.embedding.weight.device, (lr, adam_lr)
    optimizers = muon_and_adam(model, model.blocks, *rates)
    for step in range(steps):
        # 1. the learning rates: linear warm-up, constant, linear decay to 0
        done = step / steps
        scale = min(1.0, (step + 1) / WARMUP_STEPS) * min(1.0, (1 - done) / DECAY_FRACTION)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale
        # 2. the gradient of the mean over all response tokens, micro-batch by micro-batch
        batch = next_batch(done)
        lengths = [len(prompt) + len(response) for prompt, response in batch]
        n_tokens, total = sum(len(response) for _, response in batch), 0.0
        for rows in micro_batches(lengths, MICRO_TOKENS[device.type]):
            tokens, mask = (x.to(device) for x in padded([batch[i] for i in rows]))
            logp = model.logp(tokens, mask)                                   # (N, T)
            loss = -logp.sum() / n_tokens
            loss.backward()
            total += float(loss.detach())
        # 3. the update
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        progress(total)


def padded(pairs, pad_id: int = 0):
    """The tokens (N, T) of (prompt ids, response ids) pairs, padded on the right, and the mask
    (N, T) of the responses. The model reads no token behind a row's response, so any pad_id will
    do."""
    width = max(len(prompt) + len(response) for prompt, response in pairs)
    tokens = torch.full((len(pairs), width), pad_id)
    mask = torch.zeros(len(pairs), width)
    for i, (prompt, response) in enumerate(pairs):
        end = len(prompt) + len(response)
        tokens[i, :end] = torch.tensor(prompt + response)
        mask[i, len(prompt):end] = 1.0
    return tokens, mask


def solved_in_16(model: GPT, tokenizer, task, n: int = 64, **sampling) -> float:
    """pass@16 of a base model: the share of n training problems that it solves at least once in 16
    samples."""
    problems = task.sample(random.Random("gate"), n)
    _, texts = sample_responses(model, tokenizer, problems, 16,
                                max_new_tokens=task.max_new_tokens, **sampling)
    return sum(any(task.correct(p, t) for t in texts[16 * i:16 * (i + 1)])
               for i, p in enumerate(problems)) / n
