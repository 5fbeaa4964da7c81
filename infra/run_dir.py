"""A run's folder: settings, logs, checkpoints, and going on after any kind of end.

    config.json  metrics.jsonl  samples.jsonl  checkpoint.pt  summary.json

A file is replaced whole or not at all. A run that is resumed goes back to its last checkpoint,
forgets what it logged since, and does those steps again: their random numbers are functions of the
seed and the step, so they come out the same to the last bit. Left out on purpose: several runs in
one folder.
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
import tokenizer
from infra import distributed, tensors

FREE = ("micro_tokens", "gradient_checkpointing", "compile")  # may be others when a run goes on


class UserError(Exception):
    """A slip of the user's: one sentence, exit code 2, before any work."""


def open_run(options, config: gpt.Config, resume: bool) -> Path:
    """The run's folder, new or, with --resume, of the same settings."""
    run = Path(options.out)
    settings = {k: v for k, v in asdict(options).items() if k not in ("out", "device", "shard")}
    try:
        run.mkdir(parents=True, exist_ok=True)
        if (run / "config.json").exists():
            if not resume:
                raise UserError(f"{run} holds a run already: --resume goes on with it, --out names "
                                "another folder")
            there = json.loads((run / "config.json").read_text())
            other = [k for k in settings if there.get(k, settings[k]) != settings[k]
                     and k not in FREE]
            if other:
                raise UserError(f"{run} is a run of other settings: " + ", ".join(
                    f"{k} was {there[k]!r} and now is {settings[k]!r}" for k in other))
        # the old and the new, each weights, Adam, reference, and so for a critic
        need = 64 * parameters(config)
        if shutil.disk_usage(run).free < need:
            raise UserError(f"no space for checkpoints in {run}: {need / 1e6:.0f} MB are needed")
        write_json(run / "config.json", settings)
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{run} cannot be used as the run's folder: {error}") from None
    return run


def parameters(config: gpt.Config) -> int:
    """How many a model of this form has."""
    with torch.device("meta"):  # shapes alone
        return sum(p.numel() for p in gpt.GPT(config).parameters())


def keep_tokens(run: Path, folder) -> None:
    """Writes what the process speaks, the tokens of the model in `folder`, into a run's folder."""
    text = (Path(folder) / "tokenizer.json").read_bytes()
    tensors.replace_file(run / "tokenizer.json", lambda file: file.write(text))
    write_json(run / "prompt.json", dict(template=tokenizer.TEMPLATE, stops=tokenizer.STOPS,
                                         strings=tokenizer.STRINGS))


def write_json(path: Path, content) -> None:
    tensors.replace_file(path, lambda file: file.write(json.dumps(content, indent=1).encode()))


def append(path: Path, lines) -> None:
    """Adds lines to a log, on the disk; of several processes the first does."""
    if distributed.rank() > 0:
        return
    with open(path, "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def forget_after(path: Path, step: int) -> None:
    """Drops the lines of a log that a run writes again when it goes on from `step`."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        kept = [line + "\n" for line in lines if json.loads(line)["step"] <= step]
        tensors.replace_file(path, lambda file: file.write("".join(kept).encode()))


class Stop:
    """Within it, Ctrl-C and SIGTERM wait for the end of the step; a second one does not wait."""

    requested = False

    def __enter__(self):
        self.before = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def ask(self, *_):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def save_run(run: Path, players, optimizer, state) -> None:
    """Of several processes the first writes it; all must ask, since each may hold but a piece."""
    content = gpt.to_state(players.policy) | {
        "reference": players.reference.state_dict(), "optimizer": optimizer.state_dict(),
        "state": state}
    if players.critic is not None:
        content["critic"] = players.critic.state_dict()
    content = distributed.whole(content, host=True)
    distributed.first(lambda: tensors.save(run / "checkpoint.pt", content))


def peak_rss_mb() -> float | None:
    """Of this process so far; None on Windows, which cannot say."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin"
                                                                 else 2**10)


def keep_freed_memory() -> None:
    """Tells glibc to reuse large freed blocks rather than hand them back: fresh pages cost a fault
    each, which is a large share of a small model's time on a CPU. Elsewhere it does nothing."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 1 << 30)   # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError, TypeError):
        pass
