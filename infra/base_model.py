"""The base model that reinforcement learning starts from, and the file that keeps it.

A base is trained once and then loaded by every run with the same settings. The file's name holds a
digest of the training data and the settings. So a changed corpus makes a new base, and a comment,
a new task or a new reward does not. The digest does not see a change of the training code: raise
sft.RECIPE after such a change.
"""

import hashlib
import random
from dataclasses import asdict
from pathlib import Path

import torch

import model as gpt
import sft
from config import SAMPLERS
from infra import checkpoint, distributed, run_dir, tensors
from infra.cli import config_of
from infra.progress import Progress

DOCUMENTS = 200  # documents in the digest, of each phase of the training
BASE_LINE_SECONDS = 20  # between two lines of progress, where the output is no terminal
MAX_ROUNDS = 3   # of training, until the base is good enough to start from


def base_name(options, task, tokenizer) -> str:
    """The file name of the base model with these options, for a task."""
    settings = (sft.RECIPE, sft.BATCH_TOKENS, sft.DRILL_FRACTION, sft.WARMUP_STEPS,
                sft.DECAY_FRACTION, task.min_base_pass16, options.base_steps,
                sorted(item for item in asdict(config_of(options)).items()
                       if item != ("image", False)))  # as before there were images
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=4)
    for drill in (True, False):
        digest.update(repr(first_documents(task, tokenizer, drill)).encode())
    for problem in task.all_problems():  # of a file
        digest.update(repr((problem.question, problem.answer, problem.solution)).encode())
    return (f"base-{options.task}-{options.level}-{options.size}-{options.base_seed}-"
            f"{digest.hexdigest()}.pt")


def first_documents(task, tokenizer, drill: bool) -> list:
    """The first documents of a phase of the training, as (prompt ids, response ids)."""
    rng, easier, found = random.Random("digest"), task.easier_task(), []
    while len(found) < DOCUMENTS:
        found += sft.documents(tokenizer, task, easier, rng, drill)
    return found[:DOCUMENTS]


def base_model(options, task, tokenizer, folder: Path) -> gpt.GPT:
    """The base model: that of --init, or the one in `folder`, or a new one that is saved there.

    Of several processes each trains the same base, and all continue with the first one's.
    """
    if options.init:
        return checkpoint.load_pretrained(options.init, options.device, torch.float32)
    path = folder / base_name(options, task, tokenizer)
    if distributed.on_rank0(path.exists):  # asked once: another process may be about to write it
        distributed.print_rank0(f"base model: {path}")
        return load_base(path, options.device)
    policy = train_base(options, task, tokenizer)
    distributed.on_rank0(lambda: tensors.save(path, gpt.to_state(policy)))
    if distributed.world_size() == 1:
        return policy
    return load_base(path, options.device)


def load_base(path: Path, device: str) -> gpt.GPT:
    """The base model in a file. Raises UserError for a damaged file."""
    mend = "; delete it, and the next run trains this base again"
    content = tensors.load(path, mend=mend)
    if not run_dir.is_policy(content):
        raise run_dir.UserError(f"{path} holds no base model of this version{mend}")
    return gpt.from_state(content, device)


def accepts_corpus(task) -> bool:
    """Whether the verifier accepts any of DOCUMENTS correct documents of the task's corpus."""
    rng = random.Random("accepts")
    return any(task.correct(problem, task.document(rng, problem, drill=True))
               for problem in task.sample(rng, DOCUMENTS))


def train_base(options, task, tokenizer) -> gpt.GPT:
    """Trains a model from random weights, until it solves enough problems in 16 samples."""
    torch.manual_seed(options.base_seed)
    policy = gpt.GPT(config_of(options))
    policy.to(options.device)
    rounds = MAX_ROUNDS
    if not accepts_corpus(task):
        rounds = 1
        distributed.print_rank0(f"warning: the verifier of --task {options.task} refuses all of "
                                f"{DOCUMENTS} correct documents of the task's corpus; no response "
                                "can be right until its function `correct` is mended")
    with Progress("base model", options.base_steps, every=BASE_LINE_SECONDS) as bar:
        def show_loss(loss):
            bar.step({"loss": f"{loss:.3f}"})
        for round in range(1, rounds + 1):
            documents = sft.corpus_batches(tokenizer, task, options.base_seed + 1000 * (round - 1))
            sft.train(policy, documents, options.base_steps, progress=show_loss)
            if options.base_steps != task.base_steps:  # --base-steps asks for exactly that many
                break
            solved = sft.solved_in_16(policy, tokenizer, task,
                                      generate=SAMPLERS[options.sampler])
            if solved >= task.min_base_pass16:
                break
            found = (f"the base model solves {solved:.0%} of its problems in 16 samples, and "
                     f"should solve {task.min_base_pass16:.0%}")
            if round == rounds:
                bar.write(f"{found}; its training ends here, and reinforcement learning starts "
                          "from it as it is")
            else:
                bar.write(f"{found}; it is trained again (round {round + 1} of {rounds})")
                bar.extend(options.base_steps)
    return policy
