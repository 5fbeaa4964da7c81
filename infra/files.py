"""Files are complete or refused. They are written in one step, and read with a check of types.

A process can die at any time, a disk can be full and a file can be changed. So a file is written
beside its place and then renamed. `sweep` removes the files that a killed process left, `lock`
keeps a second process out of a folder, and `digest` shows whether a file has changed. Left out on
purpose: locks on Windows and on disks without locks, where two processes can use one folder.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import sys
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCKS = {}  # path -> descriptor of a lock file, which stays open: closing it releases the lock


class UserError(ValueError):
    """A mistake in the command line or its files: one sentence, exit code 2, no traceback."""


# --- writing

def atomic_write(path, write, size: int) -> None:
    """Replaces a file in one step. A reader finds the old file or the new one, always complete.
    write(file) writes `size` bytes to a temporary file beside it, which is then renamed. Raises
    OSError where the disk is full, and removes the temporary file."""
    partial = f"{path}.{os.getpid()}.partial"  # two processes may write the same file
    sweep(Path(path).parent, Path(path).name)
    try:
        if free_bytes(path) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        if os.path.exists(partial):
            os.remove(partial)
        if isinstance(error, OSError | RuntimeError):  # torch.save raises RuntimeError
            raise write_error(path, error, size) from error
        raise


def write_error(path, error: Exception, size: int) -> OSError:
    """The OSError that says in one sentence why a file of `size` bytes was not written."""
    reason = getattr(error, "strerror", None) or error
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    kind = type(error) if isinstance(error, OSError) else OSError
    return kind(f"{path} cannot be written: "
                f"{no_space(path, size) if full or free_bytes(path) < size else reason}")


def no_space(path, size: int) -> str:
    """The message for a disk that has no room for the `size` bytes of the file `path`."""
    return (f"no space on the disk: {size:,} bytes are needed and {free_bytes(path):,} bytes are "
            "free")


def free_bytes(path) -> float:
    """The free bytes on the disk of the file `path`. Infinite if its folder does not exist."""
    try:
        return shutil.disk_usage(Path(path).parent).free
    except OSError:
        return math.inf


def write_json(path, content) -> None:
    """Replaces a JSON file."""
    text = json.dumps(content, indent=1).encode()
    atomic_write(path, lambda file: file.write(text), len(text))


def sweep(folder, begins: str = "") -> None:
    """Removes the temporary files of `atomic_write` whose process is dead. A file's name holds the
    number of its process. begins: only files whose names begin so."""
    for path in Path(folder).glob("*.partial"):
        pid = path.name.split(".")[-2]
        if path.name.startswith(begins) and pid.isdecimal() and not is_alive(int(pid)):
            path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has this number. Always True on Windows, where no signal
    can be sent."""
    try:
        if os.name == "posix":
            os.kill(pid, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def lock(folder) -> None:
    """Takes a folder for this process until it ends. Raises UserError if another process has it.

    The lock is one of fcntl's: the system releases it however the process ends, and children of the
    process do not inherit it. The file `lock` stays, and holds the number of the process."""
    path = Path(folder, "lock").resolve()
    if fcntl is None or path in LOCKS:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        pid = os.read(descriptor, 20).decode(errors="replace")
        os.close(descriptor)
        raise UserError(f"{folder} is in use by another process, number {pid}; wait for its end, "
                        "or name another folder by --out") from None
    except OSError as error:
        os.close(descriptor)
        print(f"warning: {folder} is on a disk without locks ({error.strerror}); run one process "
              "at a time in it", file=sys.stderr)
        return
    LOCKS[path] = descriptor
    os.truncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())


# --- reading

def parse_json_object(text: bytes, path) -> dict:
    """The JSON object in the text of the file `path`. Raises UserError for anything else."""
    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("an object has the same key twice")
        return dict(pairs)
    try:
        content = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of brackets
        raise UserError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object")
    return content


def read_json(path, **types: type) -> dict:
    """The JSON object in a file. types: entries that it must have, and their types. Raises
    UserError."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {path.name}")
    try:
        content = parse_json_object(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    for name, kind in types.items():
        if type(content.get(name)) is not kind:  # not isinstance: True is an int
            raise UserError(f"{path} is damaged: {name} is {content.get(name, 'missing')!r}, not "
                            f"of type {kind.__name__}")
    return content


def digest(path) -> str:
    """A digest of a file's bytes, 16 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
