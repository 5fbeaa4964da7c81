"""The run around the loop: files are replaced in one step, logs are cut at a checkpoint, signals
wait (infra/run_dir.py), and threads sleep when they wait for long (infra/openmp.py)."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import evaluate
import model as gpt
import prm
import sample
import search
import train
from infra import checkpoint, files, openmp, run_dir, tensors

ROOT = Path(__file__).parents[1]
TINY = dict(layers=1, width=32, heads=2, kv_heads=1, hidden=32, **gpt.TOY)
FLAGS = ("--base-steps 2 --steps 4 --prompts 2 --group-size 4 --eval-every 2 --eval-problems 4 "
         "--eval-samples 4 --max-new-tokens 8 --device cpu --reward random").split()


def run(out, *flags):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gpt.SIZES, "tiny", TINY)
        return train.main([*FLAGS, "--out", str(out), *flags])


def refused(capsys, code: int, words: str, expected: int = 2) -> None:
    """A command ended with one sentence that has these words."""
    said = capsys.readouterr().err.strip().splitlines()
    assert code == expected and words in said[-1] and "Traceback" not in "".join(said), said


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run(out) == 0
    return out


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, and its base, to be spoiled."""
    for base in finished.parent.glob("base-*.pt"):
        shutil.copy(base, tmp_path)
    return shutil.copytree(finished, tmp_path / "run")


def flip(path: Path) -> None:
    """Flips a bit in the middle of the largest tensor of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def readers(out) -> dict:
    """Every command that reads the weights of a run."""
    return {"sample": lambda: sample.main(["--run", str(out), "1+1=?"]),
            "search": lambda: search.main(["--run", str(out), "--n", "2", "--count", "2"]),
            "prm": lambda: prm.main(["--run", str(out), "--problems", "2"]),
            "export": lambda: checkpoint.main(["--run", str(out), "--out", str(out / "hf")]),
            "resume": lambda: run(out, "--resume")}


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


@pytest.mark.parametrize("line", ['{"step": 2, "rew}', "[]", "null", '{"step": "2"}', "{}", "\xff",
                                  '{"step": null}', ""])
def test_a_broken_line_within_a_log_is_named(copied, line, capsys):
    lines = (copied / "metrics.jsonl").read_bytes().split(b"\n")
    lines[1] = line.encode("latin1")
    (copied / "metrics.jsonl").write_bytes(b"\n".join(lines))
    refused(capsys, run(copied, "--resume"), "metrics.jsonl, line 2 is damaged")


def test_the_first_signal_waits_for_the_step_and_the_second_does_not(capfd):
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it
    with run_dir.GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert capfd.readouterr().err.count("stopping after this step") == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# --- damaged files

def test_a_damaged_checkpoint_names_the_one_before_it_everywhere(copied, capsys):
    flip(copied / "checkpoint.pt")
    for read in readers(copied).values():
        refused(capsys, read(), f"mv {copied}/checkpoint.previous.pt {copied}/checkpoint.pt")
    os.remove(copied / "checkpoint.pt")
    refused(capsys, run(copied, "--resume"), "has lost its checkpoint.pt; the checkpoint before")
    os.rename(copied / "checkpoint.previous.pt", copied / "checkpoint.pt")
    assert all(read() == 0 for name, read in readers(copied).items() if name != "prm")
    flip(copied / "checkpoint.pt")
    os.remove(copied / "checkpoint.previous.pt")
    refused(capsys, run(copied, "--resume"), "train a new run with another --out")


@pytest.mark.parametrize("path, value", [
    ("format", torch.zeros(0)), ("format", True), ("format", "2"), ("config", []), ("model", []),
    ("config tied", []), ("config layers", 0), ("config layers", 1.0), ("config heads", 3),
    ("config norm_eps", float("nan")), ("config rope_theta", -1.0), ("config context", None),
    ("model norm", 1), ("model norm", torch.ones(5)), ("state", []), ("state step", None),
    ("state before", 1), ("optimizer", {}), ("reference", {}), ("optimizer state", 3)])
def test_a_checkpoint_of_other_types_is_refused(copied, path, value, capsys):
    """The checksums are right here: another program wrote it."""
    content = tensors.load(copied / "checkpoint.pt")
    *parents, last = path.split()
    part = content
    for name in parents:
        part = part[name]
    part[last] = value
    tensors.save(copied / "checkpoint.pt", content)
    for name, read in readers(copied).items():
        if name == "resume" or not path.startswith(("state", "optimizer", "reference")) and (
                name != "prm"):
            refused(capsys, read(), "checkpoint.pt")


def test_a_damaged_base_is_refused_and_trained_again(finished, copied, capsys):
    [base] = copied.parent.glob("base-*.pt")
    good = tensors.load(base)
    flip(base)
    refused(capsys, run(copied.parent / "next"), f"{base} is no checkpoint or is damaged")
    tensors.save(base, {"prm": {}})
    refused(capsys, run(copied.parent / "other"), "holds no base model of this version")
    base.unlink()
    assert run(copied.parent / "third") == 0
    assert torch.equal(tensors.load(base)["model"]["norm"], good["model"]["norm"])


def test_damaged_reward_models_are_refused(copied, capsys):
    policy = evaluate.load_policy(str(copied), "cpu")
    tensors.save(copied / "prm.pt", {"prm": prm.StepScorer(policy).state_dict()})
    flip(copied / "prm.pt")
    refused(capsys, readers(copied)["search"](), f"python prm.py --run {copied} makes it again")


def test_an_exported_model_is_checked(copied, capsys):
    assert readers(copied)["export"]() == 0
    flip(copied / "hf" / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        checkpoint.load_pretrained(copied / "hf")


def test_weights_that_are_not_finite_are_refused_everywhere(copied, capsys):
    content = torch.load(copied / "checkpoint.pt")
    content["model"]["norm"][0] = float("nan")
    torch.save(content, copied / "checkpoint.pt")
    for read in readers(copied).values():
        refused(capsys, read(), "model.norm holds NaN or infinity")


@pytest.mark.parametrize("rate", ["1e6", "1e18", "1e30", "1e38"])
def test_training_to_nan_keeps_a_checkpoint_that_goes_on(rate, tmp_path, capsys):
    """With finite weights too large for their products the run ends as well."""
    out = tmp_path / "run"
    code = run(out, "--lr", rate, "--eval-every", "1", "--steps", "3", "--minibatches", "1")
    if code:
        refused(capsys, code, "ry a lower --lr", expected=1)
    policy = evaluate.load_policy(str(out), "cpu")
    assert run_dir.has_finite_logits(policy)


def test_a_reward_model_that_diverged_does_not_replace_a_good_one(copied, capsys, monkeypatch):
    (copied / "prm.pt").write_text("good")
    made = lambda *a, **k: tensors.save(  # noqa: E731
        copied / "prm.pt", {"prm": {"w": torch.full((2,), float("nan"))}})
    monkeypatch.setattr(prm, "make_reward_models", made)
    refused(capsys, readers(copied)["prm"](), "prm.pt is not written: prm.w holds NaN")
    assert (copied / "prm.pt").read_text() == "good"


@pytest.mark.parametrize("name", [*run_dir.FILES, "base"])
def test_a_folder_in_the_place_of_a_file_is_refused(copied, name, capsys):
    [base] = copied.parent.glob("base-*.pt")
    path = base if name == "base" else copied / name
    path.unlink(missing_ok=True)
    path.mkdir()
    code = run(copied.parent / "next") if name == "base" else run(copied, "--resume")
    refused(capsys, code, path.name)


# --- one run, one process

def test_a_second_process_in_the_folder_is_refused(copied, capsys):
    code = ("import sys; from infra import files; files.lock(sys.argv[1]); print(1, flush=True); "
            "input()")
    other = subprocess.Popen([sys.executable, "-c", code, copied], cwd=ROOT, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    other.stdout.readline()
    files.LOCKS.clear()  # of this process, by the copy's path
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    refused(capsys, run(copied, "--resume"), f"is in use by another process, number {other.pid};")
    assert before == {path.name: path.read_bytes() for path in copied.iterdir()}
    other.communicate(b"\n")
    assert run(copied, "--resume") == 0


def test_partial_files_of_killed_processes_go_when_a_run_starts(copied):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    for folder in (copied, copied.parent):
        for name in ("base-x.pt", "x"):
            for pid in (done.pid, os.getppid()):
                (folder / f"{name}.{pid}.partial").write_text("half")
    assert run(copied, "--resume") == 0
    living = {f"base-x.pt.{os.getppid()}.partial", f"x.{os.getppid()}.partial"}
    assert {path.name for path in copied.glob("*.partial")} == living
    assert {path.name for path in copied.parent.glob("*.partial")} == living | {
        f"x.{done.pid}.partial"}  # not of this program


def test_resume_needs_a_run(tmp_path, copied, capsys):
    refused(capsys, run(tmp_path / "none", "--resume"), "holds no run")
    assert not (tmp_path / "none").exists()
    (copied / "config.json").unlink()
    refused(capsys, run(copied, "--resume"), "holds no run")
    refused(capsys, run(copied), "holds a checkpoint.pt without the config.json of its run")


# --- the same run

DATA = [{"question": f"{i}+1=?", "answer": str(i + 1)} for i in range(40)]


def test_a_changed_file_is_refused_when_a_run_goes_on(tmp_path, capsys):
    data, held_out = tmp_path / "data.jsonl", tmp_path / "test.jsonl"
    for path in (data, held_out):
        path.write_text("".join(json.dumps(row) + "\n" for row in DATA))
    flags = ["--task", "file", "--data", str(data), "--eval-data", str(held_out)]
    held_out.write_text(held_out.read_text().replace("+1=?", "+1=!"))
    assert run(tmp_path / "run", *flags) == 0
    assert run(tmp_path / "run", *flags, "--resume") == 0
    for path in (data, held_out):
        text = path.read_text()
        path.write_text(text.replace('"5+1', '"6+1', 1))
        for name in ("resume", "search", "prm"):
            code = (run(tmp_path / "run", *flags, "--resume") if name == "resume"
                    else readers(tmp_path / "run")[name]())
            refused(capsys, code, f"{path} has changed since the run began")
        path.write_text(text)
    assert run(tmp_path / "run", *flags, "--resume") == 0


@pytest.mark.parametrize("text", ["[]", "{}", "null", "", "{", '"x"', '{"task": "arithmetic"}'])
def test_settings_of_another_type_are_refused(copied, text, capsys):
    (copied / "config.json").write_text(text)
    for name, read in readers(copied).items():
        if name != "export":
            refused(capsys, read(), "config.json")


@pytest.mark.parametrize("key, value", [
    ("task", "none"), ("task", None), ("task", ["file"]), ("level", None), ("level", True),
    ("level", 2.0), ("level", "2"), ("data", 5), ("eval_data", None), ("max_new_tokens", 0),
    ("max_new_tokens", "8"), ("max_new_tokens", 1e3), ("digests", 3)])
def test_a_setting_of_another_type_is_refused(copied, key, value, capsys):
    settings = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(settings | {key: value}))
    for name, read in readers(copied).items():
        if name != "export" and (key != "digests" or name == "resume"):
            refused(capsys, read(), "")


# --- a full disk

def test_a_full_disk_ends_the_run_with_a_sentence(copied, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    refused(capsys, run(copied.parent / "new"), "bytes are needed and 10 bytes are free")
    monkeypatch.undo()
    save = run_dir.save_run

    def full(*arguments):
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
        save(*arguments)
    monkeypatch.setattr(run_dir, "save_run", full)
    refused(capsys, run(copied.parent / "late"), "checkpoint.pt cannot be written: no space on the "
            "disk: ", expected=1)
    assert not list((copied.parent / "late").glob("*.partial"))


def test_a_resumed_run_needs_no_space_for_what_is_there(copied, monkeypatch):
    there = (copied / "checkpoint.pt").stat().st_size
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=there))
    assert run(copied, "--resume") == 0


def test_without_hard_links_the_checkpoint_before_is_a_copy(copied, monkeypatch):
    def unsupported(*_):
        raise OSError("no links here")
    monkeypatch.setattr(os, "link", unsupported)
    now = (copied / "checkpoint.pt").read_bytes()
    run_dir.keep_previous(copied)
    assert (copied / "checkpoint.previous.pt").read_bytes() == now
    monkeypatch.undo()
    run_dir.keep_previous(copied)
    run_dir.keep_previous(copied)  # already the same file
    assert (copied / "checkpoint.previous.pt").samefile(copied / "checkpoint.pt")
    assert not list(copied.glob("*.partial"))


# --- threads

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
