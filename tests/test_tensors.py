"""infra/tensors.py: a file is replaced in one step, and nothing in it can run as code."""

import os

import pytest
import torch

from infra import tensors


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("bomb",)


def test_nothing_in_a_checkpoint_runs_as_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Bomb()}, "evil.pt")
    with pytest.raises(ValueError, match="UnpicklingError"):
        tensors.load("evil.pt")
    assert not (tmp_path / "bomb").exists()


def half_written(state, file):
    file.write(b"half of it")
    raise OSError(28, "No space left on device")


def interrupted(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where, name, failure, error", [
    (torch, "save", half_written, OSError), (os, "replace", interrupted, KeyboardInterrupt),
    (os, "fsync", half_written, OSError), (torch, "save", interrupted, KeyboardInterrupt)])
def test_a_save_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch, where, name, failure,
                                                     error):
    path = tmp_path / "a.pt"
    tensors.save(path, {"x": torch.ones(3)})
    if name == "fsync":
        failure = lambda fd: (_ for _ in ()).throw(OSError(5, "Input/output error"))  # noqa: E731
    monkeypatch.setattr(where, name, failure)
    with pytest.raises(error):
        tensors.save(path, {"x": torch.zeros(3)})
    monkeypatch.undo()
    assert torch.equal(tensors.load(path)["x"], torch.ones(3))
    tensors.save(path, {"x": torch.full((3,), 2.0)})  # and the next one goes well
    assert torch.equal(tensors.load(path)["x"], torch.full((3,), 2.0))


def test_a_full_disk_is_an_oserror_and_leaves_no_other_file(tmp_path):
    """torch.save turns the disk's error into a RuntimeError. A limit on file sizes simulates it."""
    resource = pytest.importorskip("resource")
    path, old = tmp_path / "a.pt", resource.getrlimit(resource.RLIMIT_FSIZE)
    tensors.save(path, {"x": torch.ones(3)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
    try:
        with pytest.raises(OSError):
            tensors.save(path, {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert torch.equal(tensors.load(path)["x"], torch.ones(3))
    assert os.listdir(tmp_path) == ["a.pt"]
