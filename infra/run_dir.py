"""The folder of a run: settings, logs and checkpoints. A run can stop at any time and continue.

    config.json  metrics.jsonl  samples.jsonl  checkpoint.pt  summary.json

Files are replaced in one step, so none is ever half written. `--resume` goes back to the last
checkpoint, drops the log lines written after it, and repeats those steps. Random numbers depend on
the seed and the step alone, so the repeated steps are equal to the last bit.
Left out on purpose: several runs in one folder.
"""

import ctypes
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import torch

import model as gpt
from infra import distributed, tensors

FORMAT = 2  # of checkpoint.pt; to be raised when the names or shapes in it change
NOT_SAVED = ("out", "device", "shard")  # settings of a process, not of the run
MAY_CHANGE = ("micro_tokens", "gradient_checkpointing", "compile", "checkpoints")  # on resume


class UserError(ValueError):
    """A mistake in the command line or its files: one sentence, exit code 2, no traceback."""


# --- settings

def open_run(options, config: gpt.Config, resume: bool) -> Path:
    """Makes the folder of a new run, or checks that of the run to be resumed. Raises UserError if
    the folder cannot be used."""
    run = Path(options.out)
    settings = {k: v for k, v in asdict(options).items() if k not in NOT_SAVED}
    try:
        run.mkdir(parents=True, exist_ok=True)
        if (run / "config.json").exists():
            check_settings(run, settings, resume)
        # an old and a new checkpoint: weights, Adam moments, reference, and as much for a critic
        need = 64 * count_parameters(config)
        if shutil.disk_usage(run).free < need:
            raise UserError(f"{run}: no space for checkpoints, which need {need / 1e6:.0f} MB")
        write_json(run / "config.json", settings)
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{run} cannot be used as the folder of a run: {error}") from None
    return run


def check_settings(run: Path, settings: dict, resume: bool) -> None:
    """Raises UserError unless the run in the folder can be resumed with these settings."""
    if not resume:
        raise UserError(f"{run} already holds a run: --resume continues it, --out names another "
                        "folder")
    saved = json.loads((run / "config.json").read_text())
    if unknown := sorted(saved.keys() - settings.keys()):
        raise UserError(f"{run} was made by another version of this program, which had the setting "
                        f"{unknown[0]}; start a new run with another --out")
    changed = [k for k in settings if saved.get(k, settings[k]) != settings[k]
               and k not in MAY_CHANGE]
    if changed:
        raise UserError(f"{run} is a run with other settings: " + ", ".join(
            f"{k} was {saved[k]!r} and is now {settings[k]!r}" for k in changed))


def count_parameters(config: gpt.Config) -> int:
    """The number of parameters of a model with this Config."""
    with torch.device("meta"):  # shapes without memory
        return sum(p.numel() for p in gpt.GPT(config).parameters())


def save_tokenizer(run: Path, folder, tokenizer) -> None:
    """Copies the tokenizer of the model in `folder` into a run's folder, with the prompt's template
    and the ends of a response."""
    text = (Path(folder) / "tokenizer.json").read_bytes()
    tensors.atomic_write(run / "tokenizer.json", lambda file: file.write(text))
    write_json(run / "prompt.json", dict(template=tokenizer.template, stops=tokenizer.stop_ids,
                                         strings=tokenizer.stop_strings))


# --- logs

def write_json(path: Path, content) -> None:
    """Replaces a JSON file."""
    tensors.atomic_write(path, lambda file: file.write(json.dumps(content, indent=1).encode()))


def append(path: Path, lines) -> None:
    """Appends dicts to a JSONL log, a line each, and waits for the disk. Rank 0 alone writes."""
    if distributed.rank() > 0:
        return
    with open(path, "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def truncate_log(path: Path, step: int) -> None:
    """Drops the lines of a log after `step`, and a line that is half written."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        kept = [line + "\n" for line in lines if json.loads(line)["step"] <= step]
        tensors.atomic_write(path, lambda file: file.write("".join(kept).encode()))


# --- checkpoints

def save_run(run: Path, models, optimizer, state: dict) -> None:
    """Writes checkpoint.pt: policy, reference, critic if there is one, optimizer, and the state of
    the loop. Rank 0 writes, but every process must call it: each may hold a shard."""
    content = gpt.to_state(models.policy) | {
        "format": FORMAT, "reference": models.reference.state_dict(),
        "optimizer": optimizer.state_dict(), "state": state}
    if models.critic is not None:
        content["critic"] = models.critic.state_dict()
    content = distributed.full_tensor(content, host=True)
    distributed.on_rank0(lambda: tensors.save(run / "checkpoint.pt", content))


def load_checkpoint(run) -> dict:
    """The content of a run's checkpoint.pt, on the CPU. Raises UserError where there is none or
    another version wrote it, and OSError where it is damaged."""
    path = Path(run) / "checkpoint.pt"
    if not path.exists():
        raise UserError(f"{run} has no checkpoint.pt; train.py makes one")
    content = tensors.load(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} was made by another version of this program and cannot be read by "
                        "this one; train a new run with another --out")
    return content


class GracefulStop:
    """A context in which Ctrl-C and SIGTERM set `requested`, so that the step can end first. A
    second signal raises KeyboardInterrupt at once."""

    requested = False

    def __enter__(self):
        self.previous = {s: signal.signal(s, self.request)
                         for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def request(self, *_):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


# --- memory of the process

def peak_rss_mb() -> float | None:
    """The largest resident set of this process so far, in MB; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux kB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def tune_malloc() -> None:
    """Tells glibc to keep freed memory instead of returning it to the system. Each fresh page costs
    a page fault, which is much of a small model's time on a CPU. No effect on other systems."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 1 << 30)   # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError, TypeError):
        pass
