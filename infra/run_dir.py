"""The folder of a run: settings, logs and checkpoints. A run can stop at any time and continue.

    config.json  metrics.jsonl  samples.jsonl  checkpoint.pt  checkpoint.previous.pt  summary.json

Files are replaced in one step, so none is ever half written (files.py). `--resume` goes back to the
last checkpoint, drops the log lines written after it, and repeats those steps. Random numbers
depend on the seed and the step alone, so the repeated steps are equal to the last bit. The
checkpoint before the last one is kept, for the day on which the last one is damaged.
Left out on purpose: several runs in one folder.
"""

import ctypes
import json
import math
import os
import shlex
import shutil
import signal
import sys
from dataclasses import asdict, fields
from pathlib import Path

import torch

import model as gpt
import tasks
from infra import distributed, files, tensors
from infra.files import UserError, write_json

FORMAT = 2  # of checkpoint.pt; to be raised when the names or shapes in it change
NOT_SAVED = ("out", "device", "shard")  # settings of a process, not of the run
MAY_CHANGE = ("micro_tokens", "gradient_checkpointing", "compile", "checkpoints", "report",
              "record_mb")  # on resume
SETTINGS = dict(task=str, level=int, data=str, eval_data=str, max_new_tokens=int)
MAX_CONTEXT = 2**20  # tokens of a model in a checkpoint
CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
FILES = ("config.json", "metrics.jsonl", "samples.jsonl", CHECKPOINT, PREVIOUS, "summary.json",
         "prompt.json", "tokenizer.json")
JUDGES = {"process": "prm", "preference": "reward_model"}  # --reward -> name of --judge's file


# --- settings

def open_run(options, checkpoint_bytes: int, resume: bool) -> Path:
    """Makes the folder of a new run, or checks that of the run to be resumed, and locks it for this
    process. checkpoint_bytes: the size of a checkpoint. Raises UserError if the folder cannot be
    used."""
    run = Path(options.out)
    if resume and not (run / "config.json").exists():
        raise UserError(f"{run} holds no run that --resume could continue; start one without "
                        "--resume, or name another folder by --out")
    try:
        settings = {k: v for k, v in asdict(options).items() if k not in NOT_SAVED}
        settings["digests"] = digests(files_read(options))
        # one process alone; what killed ones left goes
        run.mkdir(parents=True, exist_ok=True)
        files.lock(run)
        files.sweep(run)
        files.sweep(run.parent, "base-")
        for path in (run / name for name in FILES):
            if path.is_dir():
                raise UserError(f"{path} is a folder where a file of the run belongs; remove it")
        # the same settings and data
        if (run / "config.json").exists():
            check_settings(run, settings, resume)
            check_digests(read_settings(run), files_read(options))
        elif (run / CHECKPOINT).exists():
            raise UserError(f"{run} holds a checkpoint.pt without the config.json of its run; name "
                            "another folder by --out")
        if (run / PREVIOUS).exists() and not (run / CHECKPOINT).exists():
            raise UserError(f"{run} has lost its checkpoint.pt{way_back(run)}")
        # the disk
        there = sum(p.stat().st_size for p in (run / CHECKPOINT, run / PREVIOUS) if p.exists())
        need = 2 * checkpoint_bytes - there
        if files.free_bytes(run / CHECKPOINT) < need:
            raise UserError(f"{run}: checkpoints have {files.no_space(run / CHECKPOINT, need)}")
        write_json(run / "config.json", settings)
    except OSError as error:
        raise UserError(f"{run} cannot be used as the folder of a run: {error}") from None
    return run


def files_read(options) -> list:
    """The files that a run reads again when it is resumed. The weights of --init are not among
    them: a checkpoint holds them."""
    paths = [options.data, options.eval_data]
    if options.init:
        paths += [Path(options.init, name) for name in (
            "config.json", "generation_config.json", "tokenizer.json")]
    if options.judge:
        paths.append(Path(options.judge, f"{JUDGES[options.reward]}.pt"))
    return paths


def digests(paths) -> dict[str, str]:
    """{path: digest} of those of the files that exist."""
    return {str(path): files.digest(path) for path in paths if Path(path).is_file()}


def read_settings(run) -> dict:
    """The content of a run's config.json. Raises UserError where an entry that is read later has
    another type."""
    path = Path(run) / "config.json"
    settings = files.read_json(path, **SETTINGS)
    if settings["task"] not in tasks.TASKS or settings["max_new_tokens"] < 1 or not isinstance(
            settings.get("digests", {}), dict):
        raise UserError(f"{path} is damaged: task is {settings['task']!r}, max_new_tokens "
                        f"{settings['max_new_tokens']}, digests {settings.get('digests')!r}")
    return settings


def check_settings(run: Path, settings: dict, resume: bool) -> None:
    """Raises UserError unless the run in the folder can be resumed with these settings."""
    if not resume:
        raise UserError(f"{run} already holds a run: --resume continues it, --out names another "
                        "folder")
    saved = read_settings(run)
    if unknown := sorted(saved.keys() - settings.keys()):
        raise UserError(f"{run} was made by another version of this program, which had the setting "
                        f"{unknown[0]}; start a new run with another --out")
    changed = [k for k in settings if saved.get(k, settings[k]) != settings[k]
               and k not in (*MAY_CHANGE, "digests")]
    if changed:
        raise UserError(f"{run} is a run with other settings: " + ", ".join(
            f"--{k.replace('_', '-')} was {saved[k]!r} and is now {settings[k]!r}"
            for k in changed))


def check_digests(saved: dict, paths) -> None:
    """Raises UserError if one of the files is not as it was when the run with the config.json
    `saved` began. Runs of earlier versions have no digests."""
    found = digests(paths)
    for path in map(str, paths):
        if "digests" in saved and saved["digests"].get(path) != found.get(path):
            raise UserError(f"{path} has changed since the run began; put the old file back, or "
                            "start a new run with another --out")


def count_parameters(config: gpt.Config) -> int:
    """The number of parameters of a model with this Config."""
    with torch.device("meta"):  # shapes without memory
        return sum(p.numel() for p in gpt.GPT(config).parameters())


def save_tokenizer(run: Path, folder, tokenizer) -> None:
    """Copies the tokenizer of the model in `folder` into a run's folder, with the prompt's template
    and the ends of a response."""
    text = (Path(folder) / "tokenizer.json").read_bytes()
    files.atomic_write(run / "tokenizer.json", lambda file: file.write(text), len(text))
    write_json(run / "prompt.json", dict(
        template=tokenizer.template, stops=tokenizer.stop_ids, strings=tokenizer.stop_strings,
        digest=files.digest(run / "tokenizer.json")))


# --- logs

def append(path: Path, lines) -> None:
    """Appends dicts, or objects that are JSON already, to a JSONL log, a line each, and waits for
    the disk. Rank 0 alone writes. Raises OSError where the disk is full."""
    if distributed.rank() > 0:
        return
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n"
                   for line in lines)
    try:
        with open(path, "a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise files.write_error(path, error, len(text)) from None


def truncate_logs(run: Path, step: int) -> None:
    """`truncate_log` of each log in a run's folder."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        truncate_log(run / name, step)


def truncate_log(path: Path, step: int) -> None:
    """Drops the lines of a log after `step`, and a last line that is half written. Raises UserError
    that names any other line which is no object with a step."""
    if not path.exists():
        return
    kept, lines = [], path.read_bytes().splitlines(keepends=True)
    for i, line in enumerate(lines, 1):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            if i < len(lines) or line.endswith(b"\n"):
                raise UserError(f"{path}, line {i} is damaged: it is no JSON object with a step; "
                                "delete the line") from None
    text = b"".join(kept)
    files.atomic_write(path, lambda file: file.write(text), len(text))


# --- checkpoints

def save_run(run: Path, models, optimizer, state: dict) -> None:
    """Writes checkpoint.pt: policy, reference, critic if there is one, optimizer, the state of the
    loop, and with --sampler-lag the weights that will yet sample. Rank 0 writes, but every process
    must call it: each may hold a shard. Raises NotFinite and keeps the old one where the run could
    not go on from the new one."""
    content = gpt.to_state(models.policy) | {
        "format": FORMAT, "reference": models.reference.state_dict(),
        "optimizer": optimizer.state_dict(), "state": state}
    if models.critic is not None:
        content["critic"] = models.critic.state_dict()
    if models.versions is not None:
        content["versions"] = list(models.versions)
    content = distributed.full_tensor(content, host=True)

    def write():
        critics = models.critic.modules() if models.critic is not None else ()
        for network in (models.sampler, *(m for m in critics if isinstance(m, gpt.GPT))):
            if not has_finite_logits(network):
                raise tensors.NotFinite(f"{run / CHECKPOINT} is not written: the logits of the "
                                        "policy or critic are NaN or infinite; try a lower --lr")
        keep_previous(run)
        tensors.save(run / CHECKPOINT, content)
    distributed.on_rank0(write)


@torch.no_grad()
def has_finite_logits(policy) -> bool:
    """Whether the logits of a few tokens are finite. Weights may be finite and so large that their
    products are not."""
    tokens = torch.arange(min(8, policy.config.vocab_size), device=policy.embedding.weight.device)
    return bool(policy.logits(policy(tokens[None])[0]).isfinite().all())


def keep_previous(run: Path) -> None:
    """Gives checkpoint.pt the second name checkpoint.previous.pt, under which it stays when
    checkpoint.pt is replaced. So a run has two checkpoints at most, one of them half written."""
    path, partial = run / CHECKPOINT, run / f"{PREVIOUS}.{os.getpid()}.partial"
    if not path.exists():
        return
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:  # a disk without hard links
        shutil.copyfile(path, partial)
    os.replace(partial, run / PREVIOUS)
    partial.unlink(missing_ok=True)  # where both were names of one file, replace does nothing


def load_checkpoint(run) -> dict:
    """The content of a run's checkpoint.pt, on the CPU. Raises UserError where there is none, where
    it is damaged and where another version wrote it."""
    path = Path(run) / CHECKPOINT
    if not path.exists():
        raise UserError(f"{run} has no checkpoint.pt; train.py makes one")
    content = tensors.load(path, mend=way_back(run))
    saved_format = content.get("format") if isinstance(content, dict) else None
    if type(saved_format) is not int or saved_format != FORMAT or not is_policy(content):
        raise UserError(f"{path} was made by another version of this program and cannot be read by "
                        "this one; train a new run with another --out")
    return content


def way_back(run) -> str:
    """The end of the message about a checkpoint that is damaged or gone."""
    path, previous = Path(run) / CHECKPOINT, Path(run) / PREVIOUS
    if not previous.exists() or path.exists() and previous.samefile(path):
        return "; train a new run with another --out"
    return ("; the checkpoint before it is kept, and --resume goes on from there after: "
            f"mv {shlex.quote(str(previous))} {shlex.quote(str(path))}")


def is_policy(content) -> bool:
    """Whether `model.from_state` can make a GPT of the content of a file: a Config of the right
    types, and weights of its names and shapes."""
    try:
        config, found = content["config"], content["model"]
        if type(config) is not dict:
            return False
        for field in fields(gpt.Config):
            value = config[field.name]
            if type(value) is not field.type and (type(value), field.type) != (int, float):
                return False
            if type(value) in (int, float) and not 0 < value < math.inf:
                return False
        if config["layers"] > len(found) or config["context"] > MAX_CONTEXT:
            return False  # it would take long, or much memory
        with torch.device("meta"):
            wanted = gpt.GPT(gpt.Config(**config)).state_dict()
        return {k: x.shape for k, x in wanted.items()} == {k: x.shape for k, x in found.items()}
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError):
        return False


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
        if distributed.rank() == 0:  # os.write: a handler may interrupt a print
            os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")

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
