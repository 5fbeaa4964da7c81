"""Kills runs, resumes them, and compares them with runs that were not killed, to the last bit.

    python bench/kills.py [--kills 50] [--seed 0] [--sampler fast] [--algo grpo dapo]

Each algorithm trains a small run and its base model. Then runs with the same settings are killed by
SIGKILL at random moments and resumed until they end. Every second kill comes while a file is being
written. Weights, Adam moments, states, and logs without seconds must be equal, and no temporary
file may be left. The exit code is 1 if a run differs.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from config import PRESETS, SAMPLERS  # noqa: E402
from infra import tensors  # noqa: E402

FLAGS = ("--base-steps 3 --steps 6 --prompts 4 --group-size 4 --eval-every 2 --eval-problems 8 "
         "--eval-samples 4 --max-new-tokens 24 --minibatches 2 --reward random --device cpu "
         "--level 1").split()
MAX_KILLS = 4  # of one run


def start(out: Path, *flags: str) -> subprocess.Popen:
    """The process of a run. It has one thread, because the last bits depend on the number of
    threads."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    resume = ["--resume"] * (out / "config.json").exists()
    return subprocess.Popen([sys.executable, ROOT / "train.py", "--out", out, *flags, *resume],
                            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen, out: Path, delay: float, writing: bool) -> bool:
    """Kills the process after `delay` seconds. writing: it waits until a file is half written.
    Returns whether the process was still running."""
    end = time.monotonic() + delay
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    while writing and process.poll() is None and not (
            any(out.glob("*.partial")) or any(out.parent.glob("*.partial"))):
        pass
    process.kill()
    process.communicate()
    return process.returncode == -9


def finish(process: subprocess.Popen) -> None:
    """Waits for the end of a run. Raises RuntimeError with its message if it failed."""
    error = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"train.py ended with {process.returncode}: {error}")


def content(out: Path) -> dict:
    """The content of a run's files, without seconds: {name: tensor or text}."""
    def timeless(values):
        if not isinstance(values, dict):
            return values
        return {k: timeless(v) for k, v in values.items() if not k.startswith("seconds")}
    saved = tensors.load(out / "checkpoint.pt")
    found = dict(tensors.named_tensors(saved)) | {"state": repr(timeless(saved["state"]))}
    for name in ("metrics.jsonl", "samples.jsonl"):
        lines = (out / name).read_text().splitlines()
        found[name] = repr([timeless(json.loads(line)) for line in lines])
    return found | {"partial files": repr([*out.glob("*.partial"), *out.parent.glob("*.partial")])}


def different(one: dict, other: dict) -> list[str]:
    """The names whose values differ."""
    def equal(a, b):
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return sorted(name for name in one.keys() | other.keys()
                  if name not in one or name not in other or not equal(one[name], other[name]))


def killed_run(out: Path, flags: list[str], rng: random.Random, seconds: float, kills: int):
    """Trains a run with at most `kills` kills. Returns a text for each kill before the end of the
    process: the seconds since its start, and "writing" if a file was half written."""
    moments = []
    for i in range(kills):
        delay = rng.uniform(0.3, 1.0) * seconds
        process, writing = start(out, *flags), i % 2 == 1
        if kill(process, out, delay, writing):
            moments.append(f"{delay:.1f} s" + ", writing" * writing)
    finish(start(out, *flags))
    return moments


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="kills in all (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--sampler", default="fast", choices=list(SAMPLERS))
    parser.add_argument("--algo", nargs="*", default=list(PRESETS), choices=list(PRESETS))
    args = parser.parse_args(argv)
    rng, done, failed, whole = random.Random(args.seed), 0, 0, {}
    with tempfile.TemporaryDirectory() as folder:
        while done < args.kills:  # rounds over the algorithms
            for algo in args.algo:
                flags = ["--algo", algo, "--sampler", args.sampler, *FLAGS]
                if algo not in whole:  # the run to compare with
                    out, began = Path(folder, f"{algo}-whole", "run"), time.monotonic()
                    finish(start(out, *flags))
                    whole[algo] = content(out), time.monotonic() - began
                out = Path(folder, f"{algo}-{done}", "run")
                # a run that is killed and resumed
                moments = killed_run(out, flags, rng, whole[algo][1],
                                     min(rng.randint(1, MAX_KILLS), args.kills - done))
                wrong = different(whole[algo][0], content(out))
                done, failed = done + len(moments), failed + bool(wrong)
                print(f"{algo}: killed after {'; '.join(moments) or 'nothing'}: "
                      f"{'DIFFERENT: ' + ', '.join(wrong[:5]) if wrong else 'identical'}",
                      flush=True)
                if done >= args.kills:
                    break
    print(f"{done} kills, {failed} runs that differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
