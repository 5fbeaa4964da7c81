"""infra/tensors.py: a file is replaced in one step, and nothing in it can run as code."""

import os
import random

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


STATE = {"a": torch.arange(3000.0), "b": {"c": [torch.ones(7, dtype=torch.bfloat16)]}, "d": 5}


def same(found) -> bool:
    """Whether the state was read as it is."""
    return (torch.equal(found["a"], STATE["a"]) and found["d"] == 5
            and torch.equal(found["b"]["c"][0], STATE["b"]["c"][0]))


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    """torch.load itself takes most of them for a checkpoint."""
    tensors.save(tmp_path / "a.pt", STATE)
    good, rng, refused = (tmp_path / "a.pt").read_bytes(), random.Random(0), 0
    assert same(tensors.load(tmp_path / "a.pt"))
    for _ in range(600):
        i = rng.randrange(len(good))
        (tmp_path / "b.pt").write_bytes(good[:i] + bytes([good[i] ^ 1 << rng.randrange(8)])
                                        + good[i + 1:])
        try:
            assert same(tensors.load(tmp_path / "b.pt", mend="; delete it"))
        except tensors.UserError as error:
            refused += 1
            assert str(error).startswith(f"{tmp_path / 'b.pt'} is no checkpoint or is damaged (")
            assert str(error).endswith("); delete it")
    assert refused > 500  # the others are in padding


def test_a_flipped_bit_of_a_safetensors_file_is_refused(tmp_path):
    named = {"a": torch.arange(64.0).view(8, 8), "b": torch.ones(3, dtype=torch.bfloat16)}
    with open(tmp_path / "a.safetensors", "wb") as file:
        tensors.write_safetensors(named, file)
    good, path = (tmp_path / "a.safetensors").read_bytes(), tmp_path / "b.safetensors"
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 1 << i % 8]) + good[i + 1:])
        try:
            found = tensors.read_safetensors(path)
        except ValueError as error:
            assert "b.safetensors" in str(error)
        else:  # white space, or a name in the metadata
            assert all(torch.equal(found[name], named[name]) for name in named)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(tensors.UserError, match="checksum"):
        tensors.read_safetensors(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_neither_written_nor_read(tmp_path, value):
    path, spoiled = tmp_path / "a.pt", torch.ones(5)
    tensors.save(path, STATE)
    spoiled[3] = value
    with pytest.raises(tensors.NotFinite, match=r"a.pt is not written: b\.c\.1 holds NaN"):
        tensors.save(path, {"a": torch.ones(2), "b": {"c": [0, spoiled]}})
    assert same(tensors.load(path))
    torch.save({"x": spoiled}, path)
    with pytest.raises(tensors.UserError, match="a.pt cannot be used: x holds NaN or infinity; go"):
        tensors.load(path, mend="; go")


def test_large_numbers_whose_sum_is_infinite_are_finite(tmp_path):
    tensors.save(tmp_path / "a.pt", {"x": torch.full((9,), 3e38), "n": torch.arange(3)})
    assert tensors.load(tmp_path / "a.pt")["x"].max() > 2e38
