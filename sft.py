"""Supervised fine-tuning: next-token training on (prompt, response) pairs.

    loss = -mean over the tokens of the responses of log p(token | tokens before it)

It makes the base model that reinforcement learning starts from, in place of pretraining: the pairs
are then documents of a task's corpus (tasks/corpus.py). Three quarters of the steps see the drill,
the last quarter sees the mixed corpus. `pairs_from` and `sampled_pairs` make pairs of other texts:
curated examples, rejection samples, a teacher's answers. A trained model learns them in a few
epochs at lower rates:

    sft.train(model, pairs, epochs=3, **sft.FINE_TUNING)

A batch is cut into micro-batches of similar length, so there is little padding. Each step is one
step of Muon (2502.16982) and of Adam for embeddings and norms. Left out on purpose: several
documents in one row, validation loss (the base model is judged by what it generates).
"""

import itertools
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
FINE_TUNING = dict(lr=5e-3, adam_lr=2.5e-3, warmup=5)  # of `train`, for a model that is trained


# --- the pairs of a step: a function from the share of training done to the batch

def documents(tokenizer, task, easier_task, rng: random.Random, drill: bool = False):
    """A batch of a task's corpus, about BATCH_TOKENS tokens: [(prompt ids, response ids)], each
    response with the end-of-text token. Every second problem is an easier one."""
    batch, size = [], 0
    while size < BATCH_TOKENS:
        source = easier_task if len(batch) % 2 else task
        [problem] = source.sample(rng, 1)
        prompt = tokenizer.encode_problem(problem)
        response = tokenizer.encode(source.document(rng, problem, drill)) + [tokenizer.eos_id]
        batch.append((prompt, response))
        size += len(prompt) + len(response)
    return batch


def corpus_batches(tokenizer, task, seed: int):
    """New documents of a task's corpus for every step; no document is used twice."""
    rng, easier_task = random.Random(f"corpus {seed}"), task.easier_task()
    return lambda done: documents(tokenizer, task, easier_task, rng, drill=done < DRILL_FRACTION)


def shuffled_batches(pairs: list, seed: int, epochs: int | None = None):
    """Yields the given pairs, about BATCH_TOKENS tokens per step, in a new random order each epoch.
    A batch may begin in one epoch and end in the next. epochs None: without end."""
    rng, batch, size = random.Random(f"pairs {seed}"), [], 0
    for _ in itertools.count() if epochs is None else range(epochs):
        for pair in reversed(rng.sample(pairs, len(pairs))):
            batch.append(pair)
            size += len(pair[0]) + len(pair[1])
            if size >= BATCH_TOKENS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def batches_of(pairs, context: int, steps: int | None, epochs: int | None, seed: int):
    """The function that returns the batch of each step, and the number of steps; `train` has the
    arguments. context: the longest pair, in tokens."""
    if (steps is None) == (epochs is None) or epochs is not None and callable(pairs):
        raise ValueError("sft.train needs either steps=N, or epochs=N and a list of pairs")
    if callable(pairs):
        return pairs, steps
    if not pairs:
        raise ValueError("there are no (prompt, response) pairs to train on")
    for i, (prompt, response) in enumerate(pairs):
        if not prompt or not response or len(prompt) + len(response) > context:
            raise ValueError(f"pair {i} has a prompt of {len(prompt)} tokens and a response of "
                             f"{len(response)}; each needs at least 1, together at most {context}")
    batches = shuffled_batches(pairs, seed, epochs)
    if steps is None:
        batches = list(batches)
        steps = len(batches)
    batches = iter(batches)
    return lambda done: next(batches), steps


# --- pairs of other texts

def pairs_from(tokenizer, problems, texts) -> list:
    """(prompt ids, response ids) of each problem and the text of a response to it, with the
    end-of-text token. For texts that no model sampled; otherwise use `sampled_pairs`."""
    return [(tokenizer.encode_problem(problem), tokenizer.encode(text) + [tokenizer.eos_id])
            for problem, text in zip(problems, texts, strict=True)]


def sampled_pairs(rollout) -> list:
    """(prompt ids, response ids) of each response of a sample.Rollout, as sampled: text that is
    decoded and encoded again may have other ids. A truncated response has no end-of-text token."""
    prompts = [tokens[:start] for tokens, start in zip(
        rollout.tokens.tolist(), rollout.mask.argmax(1).tolist(), strict=True)]
    return list(zip(prompts, rollout.responses(), strict=True))


# --- training

def train(model: GPT, pairs, steps: int | None = None, seed: int = 0, lr: float = 0.01,
          adam_lr: float = 0.006, progress=lambda loss: None, epochs: int | None = None,
          warmup: int = WARMUP_STEPS) -> None:
    """Trains the model in place, about BATCH_TOKENS tokens per step, for `steps` steps or for
    `epochs` passes over the pairs. Give one of the two.

    pairs: a list of (prompt ids, response ids), shuffled with `seed`; or a source of batches, such
    as `corpus_batches(tokenizer, task, seed)`, which has no epochs. The loss covers the responses,
    so they should end with the end-of-text token.
    lr, adam_lr: the highest learning rates of Muon and of Adam, for a model with random weights;
    FINE_TUNING has those for a trained one. warmup: steps in which they rise.
    progress(loss) is called after each step, with the loss in nats per token.
    Raises ValueError for no pairs, and for a pair that is empty or longer than the context.
    """
    next_batch, steps = batches_of(pairs, model.config.context, steps, epochs, seed)
    device, rates = model.embedding.weight.device, (lr, adam_lr)
    optimizers = muon_and_adam(model, model.blocks, *rates)
    for step in range(steps):
        # 1. the learning rates: linear warm-up, constant, linear decay to 0
        done = step / steps
        scale = min(1.0, (step + 1) / warmup) * min(1.0, (1 - done) / DECAY_FRACTION)
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
    """The tokens (N, T), int64, of (prompt ids, response ids) pairs, padded on the right, and the
    mask (N, T), float32, of the responses. pad_id fills the padding. It may also occur in a
    response: the model reads no token behind a row's response, so any pad_id will do."""
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
