"""infra/distributed.py: several processes compute what one process computes, up to rounding."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from forked import SERVER

import train
from engine import sampler
from engine.request import concat_rollouts
from infra import distributed, run_dir

ROOT = Path(__file__).parents[1]
# train.py as one of n processes, with the environment that torchrun gives it before any import
SCRIPT = """
import os, sys
sys.stdout = sys.stderr = open(output, "w")
os.environ.update(OMP_NUM_THREADS="1", WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n), RANK=str(rank),
                  LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
sys.path.insert(0, root)
import torch, train
torch.set_num_threads(1)
train.distributed.exit_process(train.main(arguments))
"""
SMALL = ("--base-steps 3 --prompts 4 --group-size 4 --minibatches 1 --eval-problems 6 "
         "--eval-samples 4 --max-new-tokens 20 --reward random --device cpu "
         "--micro-tokens 70").split()  # eight micro-batches: each process has some


def start_processes(n, folder, *arguments):
    """Starts train.py in n processes: forks of one that has imported torch already. Each writes its
    output and its errors to a file in the folder, which is named by its rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = dict(root=str(ROOT), n=n, port=port, arguments=[*SMALL, *map(str, arguments)])
    processes = [SERVER.Process(target=exec, args=(
        SCRIPT, given | {"rank": rank, "output": str(Path(folder, str(rank)))}))
        for rank in range(n)]
    for process in processes:
        process.start()
    return processes


def run_processes(n, *arguments):
    """Trains in n processes. Returns exit code, output and errors, of all processes together."""
    with tempfile.TemporaryDirectory() as folder:
        processes = start_processes(n, folder, *arguments)
        for process in processes:
            process.join(180)
        text = "".join(Path(folder, str(rank)).read_text() for rank in range(n))
        return max(abs(process.exitcode) for process in processes), text, text


def learned(run):
    """(weights, gradients) of a run of one step. Adam's first moment is a tenth of the gradient."""
    saved = torch.load(run / "checkpoint.pt")
    return saved["model"], {k: s["exp_avg"] for k, s in saved["optimizer"]["state"].items()}


def max_difference(a, b):
    return max(float((a[k] - b[k]).abs().max()) for k in a)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one step by one process. The folder also holds the base model."""
    folder = tmp_path_factory.mktemp("runs")
    assert train.main([*SMALL, "--steps", "1", "--out", str(folder / "alone")]) == 0
    return folder


def run_with_torchrun(n, *arguments):
    """As run_processes, by the command of the README."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n),
         "--master-port", str(29500 + os.getpid() % 1000), ROOT / "train.py", *SMALL, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, cwd=ROOT, timeout=180,
        capture_output=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("start, n, how", [
    (run_with_torchrun, 2, []), (run_processes, 4, []), (run_processes, 2, ["--shard"])])
def test_several_processes_have_the_gradient_of_one(alone, start, n, how):
    run = alone / f"of-{n}{''.join(how)}"
    code, out, error = start(n, "--steps", "1", "--out", run, *how)
    assert code == 0, out + error
    assert out.count("before: greedy") == 1 and out.count("in all; see") == 1  # said once
    weights, gradients = learned(alone / "alone")
    ours, our_gradients = learned(run)
    largest = max(float(g.abs().max()) for g in gradients.values())
    assert largest > 1e-3
    assert max_difference(gradients, our_gradients) < 1e-5 * largest / 0.1
    assert max_difference(weights, ours) < 1e-5
    lines = [(path / "metrics.jsonl").read_text().splitlines() for path in (alone / "alone", run)]
    [one], [several] = ([json.loads(line) for line in some] for some in lines)
    for name in ("loss", "grad_norm", "approx_kl", "kl", "entropy", "reward", "length"):
        assert several[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6), name


def test_several_processes_have_the_critic_s_gradient_of_one(alone):
    flags = "--steps 2 --algo ppo --prompts 16 --group-size 1 --critic-warmup 1".split()
    assert train.main([*SMALL, *flags, "--out", str(alone / "ppo-1")]) == 0
    code, out, error = run_processes(2, *flags, "--out", alone / "ppo-2")
    assert code == 0, out + error
    found = [learned(alone / name)[1] for name in ("ppo-1", "ppo-2")]
    largest = max(float(g.abs().max()) for g in found[0].values())
    assert max_difference(*found) < 1e-5 * largest / 0.1


@pytest.fixture(scope="module")
def stopped(alone):
    """A run of two steps by one process, and a copy made after the first step."""
    whole, half, save = alone / "whole", alone / "half", run_dir.save_run

    def save_and_copy(run, players, optimizer, state):
        save(run, players, optimizer, state)
        if state["step"] == 1:
            shutil.copytree(run, half)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_dir, "save_run", save_and_copy)
        assert train.main([*SMALL, "--steps", "2", "--eval-every", "1", "--out", str(whole)]) == 0
    return whole, half


@pytest.mark.parametrize("how", [[], ["--shard"]])
def test_a_run_goes_on_with_another_number_of_processes(stopped, how, tmp_path):
    whole, half = stopped
    run = shutil.copytree(half, tmp_path / "run")
    code, out, error = run_processes(2, "--steps", "2", "--eval-every", "1", "--out", run,
                                     "--resume", *how)
    assert code == 0 and "resuming after step 1" in out, error
    (_, want), (_, got) = learned(whole), learned(run)
    assert max_difference(want, got) < 1e-5 * max(float(g.abs().max()) for g in want.values()) / 0.1
    lines = [path.joinpath("metrics.jsonl").read_text().splitlines() for path in (whole, run)]
    assert [json.loads(line)["tokens"] for line in lines[0]] == [
        json.loads(line)["tokens"] for line in lines[1]]


def test_an_error_is_printed_once(alone):
    code, _, error = run_processes(2, "--steps", "1", "--out", alone / "slip", "--lr", "0")
    assert code and error.count("--lr must be") == 1


def test_a_process_that_dies_ends_the_run(alone, tmp_path):
    run = alone / "dies"
    first, second = start_processes(2, tmp_path, "--steps", "400", "--eval-every", "2", "--out",
                                    run)
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text()) < 2000:
        assert first.exitcode is second.exitcode is None, (tmp_path / "0").read_text()
        time.sleep(0.05)
    second.kill()
    first.join(180)
    error = (tmp_path / "0").read_text()
    assert first.exitcode == 1 and error.count("train.py: another process has died") == 1
    saved = torch.load(run / "checkpoint.pt")
    assert saved["state"]["step"] >= 1


# --- the functions

def test_slices_and_batches_of_all_processes_make_the_whole(monkeypatch):
    for n in (0, 1, 3, 8, 9):
        for world in (1, 2, 4):
            monkeypatch.setattr(distributed, "world_size", lambda world=world: world)
            parts, turns = [], []
            for rank in range(world):
                monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
                parts += list(range(n))[distributed.local_slice(range(n))]
                turns.append(distributed.local_batches(list(range(n))))
            assert parts == list(range(n))
            assert len({len(t) for t in turns}) == 1  # as many for each
            assert sorted(x for t in turns for x, counts in t if counts) == list(range(n))


def test_rollouts_are_joined():
    def rollout(n, t, start):
        x = torch.arange(n * t).view(n, t) + start
        return sampler.Rollout(x, x * 0.1, x * 0.2, torch.ones(n, t), torch.arange(n) // 2,
                              torch.arange(n) % 2 == 0)
    both = concat_rollouts([rollout(4, 3, 0), None, rollout(2, 5, 100)], 99)
    assert both.tokens.shape == (6, 5) and both.tokens[0].tolist() == [0, 1, 2, 99, 99]
    assert both.group.tolist() == [0, 0, 1, 1, 2, 2]
    assert both.responses()[4] == [100, 101, 102, 103, 104] and both.responses()[0] == [0, 1, 2]
