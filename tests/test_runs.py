"""infra/run_dir.py: files are replaced in one step, logs are cut at a checkpoint, signals wait."""

import json
import os
import signal

import pytest

from infra import run_dir


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


def test_the_first_signal_waits_for_the_step_and_the_second_does_not():
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it
    with run_dir.GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
