"""A sandbox for the reward "all unit tests pass": it runs programs that a model wrote.

The program runs in a child process. The child receives arguments and sends back answers; the
expected values stay in the parent, which compares. So everything that the child prints, patches,
forges or exits with is at most an answer, never a verdict, and only correct answers are rewarded.

    reward = 1 if entry(*args) is expected, in type and value, for every test, else 0

The child gives up its rights before it receives the program (grading/sandbox_child.py): resource
limits on every system; on Linux also namespaces, a small disk in memory, capabilities, Landlock and
a seccomp filter. CPU time and memory are limits of the child (layer_limits, layer_memory). Wall
time and the size of an answer are limits of the parent (Child.exchange), which kills the child.
Paper: Codex 2107.03374 (HumanEval).

Known limits: a program sees the names and sizes of outside files, but not their contents. All calls
of a check go to one process, so a program can remember earlier calls. Strings hash differently in
each process, so a program that depends on the order of a set passes by chance. A program can
measure how fast the machine is. The folder of a parent that was killed stays until the next process
that uses the sandbox starts.

Left out on purpose: threads, processes and sockets inside the program (so asyncio too), packages
outside the standard library, answers that are not literals, Windows, cgroups (they need root).
"""

import functools
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from infra.terminal import visible

LAYERS = ("namespaces", "disk", "limits", "memory", "privileges", "landlock", "seccomp")
CHILD = Path(__file__).with_name("sandbox_child.py").read_text()
FAILURES = ("timeout", "memory", "exception", "crash", "output", "not a literal")
MAX_ANSWER = 1 << 20  # bytes of one answer
MAX_DEPTH = 50        # levels of containers inside containers
MAX_EQUAL_HASHES = 64  # members of a set with the same hash; n of them cost n^2 comparisons here
START_SECONDS = 20.0  # for Python to start on a busy machine; the program's own time starts later


class SandboxError(OSError):
    """The sandbox cannot start, or it was called wrongly. A program never causes this error. The
    message is one sentence, which command lines print like that of any OSError."""


@dataclass(frozen=True)
class Outcome:
    kind: str             # "value", or one of FAILURES
    value: object = None  # of built-in types only
    detail: str = ""      # the reason, printable; the child wrote it, so it may be false


# --- values

def canonical(value, loose: bool = False) -> str:
    """The value as a text. Two values have the same text exactly if they have the same type and
    value at every level. True, 1 and 1.0 are three values, nan equals nan, sets and dicts have no
    order. With `loose`, 1.0 equals 1. No method of the value is called. Raises SandboxError for a
    value that is not a literal."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        parts = [canonical(item, loose) for item in value]
        return f"{kind.__name__}({','.join(parts if kind in (list, tuple) else sorted(parts))})"
    if kind is dict:
        return "dict(" + ",".join(sorted(
            f"{canonical(k, loose)}:{canonical(v, loose)}" for k, v in value.items())) + ")"
    if kind is float:
        value += 0.0  # -0.0 becomes 0.0
        value = int(value) if loose and value.is_integer() else value
    elif kind not in (type(None), bool, int, complex, str, bytes):
        raise SandboxError(f"arguments and expected values are literals, not {kind.__name__}")
    return repr(value)


def from_json(node, depth: int = MAX_DEPTH):
    """The value that sandbox_child.to_json wrote, from its parsed JSON. Raises ValueError or
    TypeError for other input, for deeper nesting, and for sets and dicts that are made to be
    slow."""
    # scalars: strings are hex, so that any string passes through JSON
    if isinstance(node, str):
        return bytes.fromhex(node).decode("utf-8", "surrogatepass")
    if isinstance(node, dict) or depth == 0:
        raise ValueError("this is not a value")
    if not isinstance(node, list):
        return node
    kind, *items = node
    if kind == "bytes":
        return bytes.fromhex(*items)
    # containers
    items = [from_json(item, depth - 1) for item in items]
    members = {"set": items, "frozenset": items, "dict": items[::2]}.get(kind, [])
    if max(Counter(map(hash, members)).values(), default=0) > MAX_EQUAL_HASHES:
        raise ValueError("too many members have the same hash")
    if kind == "dict":
        return dict(zip(items[::2], items[1::2], strict=True))
    if kind == "complex":
        return complex(*items)
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)


def parse_outcome(line: bytes) -> Outcome:
    """The outcome that a line from the child reports. A line that cannot be read is one too."""
    try:
        kind, value = json.loads(line)
        if kind == "value":
            return Outcome(kind, from_json(value))
        if kind in FAILURES:
            return Outcome(kind, detail=visible(str(from_json(value))[:200]))
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        pass
    return Outcome("not a literal", detail="the answer cannot be read")


# --- the parent

class Child:
    """A confined process. `session` starts it, puts a program in it and ends it."""

    def __init__(self):
        """Starts Python, which waits for its settings. Raises OSError."""
        self.received, self.unsent = b"", b""    # bytes after the last line; bytes still to send
        self.layers = []                         # active layers
        self.end = None                          # the EOFError after which no call can succeed
        with ExitStack() as stack:  # if a line fails, the lines before it are undone
            folder, lock = make_folder()
            stack.callback(os.close, lock)
            stack.callback(remove_folder, folder)
            # the supervisor reads from this pipe: it kills the program when the parent writes or
            # is gone
            self.watch, self.release = os.pipe()
            stack.callback(os.close, self.release)
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-B", "-c", CHILD], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, bufsize=0, cwd=folder, env={"LC_ALL": "C.UTF-8"},
                    pass_fds=(self.watch,), start_new_session=True)
            finally:
                os.close(self.watch)
            stack.callback(self.kill)
            self.close = stack.pop_all().close  # kills all that was started, deletes the folder
        for pipe in self.process.stdin, self.process.stdout:
            os.set_blocking(pipe.fileno(), False)

    def confine(self, seconds: float, memory_mb: int) -> None:
        """Lets the process give up its rights. Raises EOFError where it does not answer in time."""
        settings = {"layers": LAYERS, "cpu": int(seconds) + 2, "memory": memory_mb << 20,
                    "watch": self.watch, **python_folders()}
        self.deadline = time.monotonic() + START_SECONDS
        outcome = parse_outcome(self.exchange(repr(settings).encode() + b"\n"))
        if outcome.kind != "value":
            raise EOFError("crash")
        self.layers = outcome.value

    def exchange(self, message: bytes) -> bytes:
        """Sends a message and returns the line that comes back. Raises EOFError with the name of
        the failure where no line comes. Returns by the deadline and after at most MAX_ANSWER
        bytes, whatever the child does."""
        unsent, received = memoryview(message), bytearray(self.received)
        complete = b"\n" in received
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdin, selectors.EVENT_WRITE)
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while unsent or not complete:
                seconds_left = self.deadline - time.monotonic()
                if seconds_left <= 0:
                    raise EOFError("timeout")
                for key, _ in selector.select(seconds_left):
                    # read what is there
                    if key.fileobj is self.process.stdout:
                        data = os.read(key.fd, 65536)
                        if not data:
                            raise EOFError("crash")
                        received += data
                        complete = complete or b"\n" in data
                        if len(received) > MAX_ANSWER:
                            raise EOFError("output")
                        continue
                    # or write what the pipe takes
                    try:
                        unsent = unsent[os.write(key.fd, unsent[:65536]):]
                    except BrokenPipeError:  # the child does not read; it may still answer
                        unsent = b""
                    if not unsent:
                        selector.unregister(key.fileobj)
        line, _, self.received = bytes(received).partition(b"\n")
        return line

    def call(self, *args) -> Outcome:
        """The outcome of entry(*args). Raises SandboxError for arguments that are not literals.
        After a timeout, a crash or too long an answer, every later call has the same outcome."""
        canonical(args)
        try:
            if self.end:
                raise self.end
            outcome = parse_outcome(self.exchange(self.unsent + repr(args).encode() + b"\n"))
            self.unsent = b""
        except EOFError as failure:
            self.end, outcome = failure, Outcome(str(failure))
        return outcome

    def kill(self) -> None:
        """Tells the supervisor to kill and reap the program, or kills the process group. Then reaps
        the process that was started."""
        with suppress(OSError):  # the supervisor may be gone already
            os.write(self.release, b"x")
        self.process.stdin.close()
        self.process.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            if "namespaces" in self.layers:
                self.process.wait(5)
        if self.process.returncode is None:  # not reaped, so no other group can have this number
            with suppress(ProcessLookupError, PermissionError):  # PermissionError: a zombie, macOS
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def session(program: str, entry: str, seconds: float = 5.0, memory_mb: int = 256,
            strict: bool = False):
    """A Child that holds the program; child.call(*args) is the Outcome of entry(*args). All calls
    go to one process, with `seconds` for all of them together and `memory_mb` of address space. At
    the end of the block no process and no file of it is left. Any thread may call this function.
    Raises SandboxError where it cannot start, and with `strict` where a layer is missing."""
    if os.name != "posix":
        raise SandboxError("the sandbox needs Linux or macOS; Windows lacks the resource limits")
    sweep_folders(tempfile.gettempdir())
    child = start_child(seconds, memory_mb)
    try:
        report_missing(tuple(layer for layer in LAYERS if layer not in child.layers), strict)
        child.unsent = repr((program, entry)).encode() + b"\n"  # sent with the first call
        child.deadline = time.monotonic() + seconds
        yield child
    finally:
        child.close()


def start_child(seconds: float, memory_mb: int) -> Child:
    """A confined Child. A busy machine may be slow to start it, so a second one is tried. Raises
    SandboxError."""
    for _ in range(2):
        try:
            child = Child()
        except OSError as error:
            raise SandboxError(f"the sandbox cannot start a process: {error}") from None
        try:
            child.confine(seconds, memory_mb)
            return child
        except EOFError as error:
            child.close()
            failure = f"no answer in {START_SECONDS:g} s" if str(error) == "timeout" else error
        except BaseException:  # Ctrl-C
            child.close()
            raise
    raise SandboxError(f"the sandbox's child did not start in two attempts ({failure}); the "
                       "machine may be too busy or short of memory")


def make_folder() -> tuple[str, int]:
    """A new folder for a child, and an open lock on it. The lock ends with this process, however it
    ends, so that `sweep_folders` of a later process can tell that nobody uses the folder."""
    import fcntl  # does not exist on Windows
    folder = tempfile.mkdtemp(prefix=f"sandbox-{os.getpid()}-")
    lock = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder, lock


@functools.lru_cache  # once in a process
def sweep_folders(place: str) -> None:
    """Deletes the folders that killed processes of this user left. A folder stays if a process
    holds its lock. It also stays if the process in its name is alive, because a process makes its
    folder a moment before it takes the lock."""
    import fcntl
    for path in Path(place).glob("sandbox-*-*"):
        number = path.name.split("-")[1]
        with suppress(OSError):  # somebody else's, or swept by another process
            if not re.fullmatch("[0-9]{1,9}", number) or path.lstat().st_uid != os.getuid():
                continue
            with suppress(ProcessLookupError):
                os.kill(int(number), 0)
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_folder(str(path))
            finally:
                os.close(lock)


def remove_folder(folder: str) -> None:
    """Deletes a folder that the program may have filled, where the layer "disk" is missing."""
    try:
        os.rmdir(folder)
    except OSError:  # these tools manage forbidden folders, and trees too deep for shutil.rmtree
        for tool in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*tool, folder], stderr=subprocess.DEVNULL, check=False)


@functools.lru_cache
def python_folders() -> dict[str, list[str]]:
    """"readable": the folders of Python's standard library and of the libraries that it loads.
    "hidden": the folders of installed packages inside them."""
    stdlib = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    packages = [f"{lib}/{name}-packages" for lib in (*stdlib, "/usr/lib/python3")
                for name in ("site", "dist")]
    return {"readable": [*stdlib, sys.base_prefix + "/lib", "/lib", "/lib64", "/usr/lib",
                         "/usr/lib64"], "hidden": packages}


@functools.lru_cache  # so that each missing layer is reported once
def report_missing(missing: tuple, strict: bool) -> None:
    text = f"the sandbox lacks these layers here: {', '.join(missing)}"
    if missing and strict:
        raise SandboxError(text + "; strict=False goes on without them")
    if missing:
        warnings.warn(text, stacklevel=2)


# --- the function for a reward

def passes(program: str, entry: str, tests: list[tuple], *, loose: bool = False,
           seconds: float = 5.0, memory_mb: int = 256, strict: bool = False) -> bool:
    """Whether entry(*args) equals `expected` for every test (args, expected), in type and value;
    with `loose`, 1.0 equals 1. Raises SandboxError for an empty list of tests, which every program
    would pass."""
    if not tests:
        raise SandboxError("a program cannot pass without tests")
    with session(program, entry, seconds, memory_mb, strict) as child:
        for args, expected in tests:
            outcome = child.call(*args)
            if (outcome.kind != "value"
                    or canonical(outcome.value, loose) != canonical(expected, loose)):
                return False
    return True
