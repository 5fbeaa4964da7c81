"""The run around the loop: files are replaced in one step, logs are cut at a checkpoint, signals
wait (infra/run_dir.py), and threads sleep when they wait for long (infra/openmp.py)."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra import openmp, run_dir


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    run_dir.write_json(path, {"a": 1})

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_dir.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_log_loses_the_lines_after_the_checkpoint_and_half_a_line(tmp_path):
    log = tmp_path / "metrics.jsonl"
    run_dir.append(log, [{"step": i} for i in range(1, 6)])
    with open(log, "a") as file:
        file.write('{"step": 6, "rew')  # killed while writing
    run_dir.truncate_log(log, 3)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3]
    run_dir.truncate_log(tmp_path / "none.jsonl", 3)


def test_the_first_signal_waits_for_the_step_and_the_second_does_not(capfd):
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it
    with run_dir.GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert capfd.readouterr().err.count("stopping after this step") == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("command", ["train", "sample", "prm", "search"])
def test_a_command_limits_the_spinning_of_threads_before_torch_is_loaded(command):
    text = (Path(__file__).parents[1] / f"{command}.py").read_text()
    assert re.search(r"^(?:import|from) (\S+)", text, re.M)[1] == "infra.openmp"


@pytest.mark.parametrize("given, want", [
    ({}, openmp.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
    ids=str)
def test_the_users_own_waiting_policy_is_kept(given, want):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    found = subprocess.check_output(
        [sys.executable, "-c", "import os, infra.openmp; print(os.environ.get('GOMP_SPINCOUNT'))"],
        cwd=Path(__file__).parents[1], env=environment, text=True)
    assert found.strip() == want
