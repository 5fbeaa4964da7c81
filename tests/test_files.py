"""infra/files.py: files are replaced whole, leftovers go, one process has a folder, and what is
read has its type."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra import files

ROOT = Path(__file__).parents[1]


def python(code: str, *arguments, **more):
    """A process that runs code, and its output."""
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more)


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = python("")
    process.communicate()
    return process.pid


def test_what_killed_processes_left_is_swept(tmp_path, dead):
    names = [f"checkpoint.pt.{dead}.partial", f"base-a-1.pt.{dead}.partial",
             f"a.{10**30}.partial", f"a.{os.getpid()}.partial", f"a.{os.getppid()}.partial",
             "mine.partial", f"a.{dead}.txt"]
    for name in names:
        (tmp_path / name).write_text("half")
    files.sweep(tmp_path, "base-")
    assert sorted(os.listdir(tmp_path)) == sorted({*names} - {names[1]})
    files.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names[3:])


def test_a_write_removes_what_an_earlier_one_left(tmp_path, dead):
    (tmp_path / f"prm.pt.{dead}.partial").write_text("half")
    files.write_json(tmp_path / "prm.pt", 1)
    assert os.listdir(tmp_path) == ["prm.pt"]


@pytest.mark.skipif(files.fcntl is None, reason="no locks on Windows")
def test_one_process_has_a_folder_until_it_ends_however_it_ends(tmp_path):
    take = ("import sys; from infra import files; files.lock(sys.argv[1]); "
            "print('taken', flush=True)")
    holder = python(f"{take}; input()", tmp_path)
    assert holder.stdout.readline() == "taken\n"
    with pytest.raises(files.UserError, match=f"in use by another process, number {holder.pid};"):
        files.lock(tmp_path)
    holder.kill()
    holder.communicate()
    files.lock(tmp_path)
    files.lock(tmp_path)  # again by the same process
    second = python(take, tmp_path, stderr=subprocess.PIPE)
    out, error = second.communicate()
    assert not out and f"number {os.getpid()};" in error


@pytest.mark.skipif(files.fcntl is None, reason="no locks on Windows")
def test_a_child_does_not_keep_the_lock_of_its_dead_parent(tmp_path):
    code = ("import os, sys, time; from infra import files; files.lock(sys.argv[1])\n"
            "if os.fork(): os._exit(0)\n"
            "print('child', flush=True); input()")
    parent = python(code, tmp_path)
    assert parent.stdout.readline() == "child\n"
    parent.wait()
    files.lock(tmp_path)
    parent.stdin.write("\n")
    parent.stdin.close()
    parent.stdout.close()


def test_a_disk_without_locks_is_a_warning(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(files, "fcntl", SimpleNamespace(lockf=unsupported, LOCK_EX=0, LOCK_NB=0))
    files.lock(tmp_path)
    assert "without locks" in capsys.readouterr().err
    monkeypatch.setattr(files, "fcntl", None)
    files.lock(tmp_path)


def test_a_full_disk_is_said_with_bytes_needed_and_free(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1234))
    with pytest.raises(OSError, match="a.json cannot be written: no space on the disk: 5,000 bytes "
                                      "are needed and 1,234 bytes are free"):
        files.atomic_write(path, lambda file: file.write(b"x" * 5000), 5000)
    monkeypatch.undo()

    def full(file):  # while the file is written
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="no space on the disk: 5,000 bytes are needed"):
        files.atomic_write(path, full, 5000)
    assert os.listdir(tmp_path) == ["a.json"] and path.read_text() == "1"


@pytest.mark.parametrize("text, says", [
    ("[]", "a JSON object"), ("null", "a JSON object"), ("{", "not readable"),
    ("", "not readable"),
    ("[" * 100_000, "not readable"), ('{"n": 1, "n": 2}', "twice"), ('{"n": true}', "n is True"),
    ('{"n": 1.0}', "n is 1.0"), ('{"n": null}', "n is None"), ("{}", "n is 'missing'"),
    ('{"n": "1"}', "n is '1'"), ("\xff", "not readable")])
def test_json_of_another_type_is_refused(tmp_path, text, says):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(files.UserError, match=says) as error:
        files.read_json(path, n=int)
    assert "a.json" in str(error.value) and "\n" not in str(error.value)
    path.write_text(json.dumps({"n": 3, "more": None}))
    assert files.read_json(path, n=int)["n"] == 3
    with pytest.raises(files.UserError, match="holds no b.json"):
        files.read_json(tmp_path / "b.json")


def test_a_digest_changes_with_any_byte(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"one\n")
    assert len({files.digest(tmp_path / name) for name in "ab"}) == 2
    assert len(files.digest(tmp_path / "a")) == 16
