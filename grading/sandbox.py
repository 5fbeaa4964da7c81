"""A sandbox for the reward "all unit tests pass": model-written Python, run and judged safely.

The program runs in a child process that is shown arguments only and sends back answers; expected
values stay in the parent, which compares. Whatever the child prints, patches, forges or exits with
is at most an answer, never a verdict, so nothing but right answers is paid.

    reward = 1 if entry(*args) is expected, in type and value, for every test, else 0

The child gives up its own rights before it is sent the program: resource limits everywhere; on
Linux also namespaces, a small disk in memory, capabilities, Landlock, and a seccomp filter. The
parent keeps the clock, counts the bytes, and kills. Paper: Codex 2107.03374 (HumanEval).

Left out on purpose: threads, processes and sockets for the program (so asyncio too), packages
beyond the standard library, answers that are no literals, Windows, cgroups (they need root). Names
and sizes of outside files can be seen, contents cannot. All calls of a check go to one process, so
a program may remember; strings hash differently each time, so one that relies on the order of a
set is paid by chance. Timings are not hidden: a program can see how slow this machine is.
"""

import builtins
import functools
import json
import os
import random
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import types
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LAYERS = ("namespaces", "disk", "limits", "memory", "privileges", "landlock", "seccomp")
CHILD = Path(__file__).with_name("confine.py").read_text()
FAILURES = ("timeout", "memory", "exception", "crash", "output", "not a literal")
MAX_ANSWER = 1 << 20  # bytes of one answer
MAX_DEPTH = 50        # of lists within lists
MAX_TWINS = 64        # members of a set with one hash: n of them cost n^2 here
START_SECONDS = 20.0  # for Python to start on a busy machine; the program's own clock comes after


class SandboxError(Exception):
    """The sandbox cannot be had, or its caller slipped. Never the program's doing."""


@dataclass(frozen=True)
class Outcome:
    kind: str             # "value", or one of FAILURES
    value: object = None  # of plain built-in types
    detail: str = ""      # why, for logs; the child wrote it, so it may be a lie


# --- values

def canonical(value, loose: bool = False) -> str:
    """A text that two values share exactly if they are the same, type by type: True, 1 and 1.0 are
    three values, nan is nan, sets and dicts have no order. With `loose`, 1.0 is 1. No method of the
    value's is called. Raises SandboxError for what is no literal."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        parts = [canonical(item, loose) for item in value]
        return f"{kind.__name__}({','.join(parts if kind in (list, tuple) else sorted(parts))})"
    if kind is dict:
        return "dict(" + ",".join(sorted(
            f"{canonical(k, loose)}:{canonical(v, loose)}" for k, v in value.items())) + ")"
    if kind is float:
        value += 0.0  # -0.0 is 0.0
        value = int(value) if loose and value.is_integer() else value
    elif kind not in (type(None), bool, int, complex, str, bytes):
        raise SandboxError(f"arguments and expected values are literals, not {kind.__name__}")
    return repr(value)


def value_of(node, depth: int = MAX_DEPTH):
    """The value that confine.py wrote, from its parsed JSON. Raises ValueError or TypeError for
    anything else, for deeper nesting, and for sets and dicts made to be slow."""
    if isinstance(node, str):
        return bytes.fromhex(node).decode("utf-8", "surrogatepass")
    if isinstance(node, dict) or depth == 0:
        raise ValueError("no value")
    if not isinstance(node, list):
        return node
    kind, *items = node
    if kind == "bytes":
        return bytes.fromhex(*items)
    items = [value_of(item, depth - 1) for item in items]
    members = {"set": items, "frozenset": items, "dict": items[::2]}.get(kind, [])
    if max(Counter(map(hash, members)).values(), default=0) > MAX_TWINS:
        raise ValueError("equal hashes")
    if kind == "dict":
        return dict(zip(items[::2], items[1::2], strict=True))
    if kind == "complex":
        return complex(*items)
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)


def outcome_of(line: bytes) -> Outcome:
    """What a line from the child says, as far as it can be read."""
    try:
        kind, value = json.loads(line)
        if kind == "value":
            return Outcome(kind, value_of(value))
        if kind in FAILURES:
            return Outcome(kind, detail=str(value_of(value))[:200])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        pass
    return Outcome("not a literal", detail="an answer that cannot be read")


# --- the parent

class Child:
    """A confined process that holds one program. `session` makes it and ends it."""

    def __init__(self, process):
        self.process, self.received, self.unsent = process, b"", b""
        self.deadline = time.monotonic() + START_SECONDS
        self.held, self.calls, self.failures, self.over = [], 0, 0, None
        for pipe in process.stdin, process.stdout:
            os.set_blocking(pipe.fileno(), False)

    def exchange(self, message: bytes) -> bytes:
        """Sends a message and returns the line that comes back; raises EOFError with a failure's
        name where none does. Whatever the child does or leaves undone, it is over at the deadline
        and after MAX_ANSWER bytes."""
        unsent, received = memoryview(message), bytearray(self.received)
        whole = b"\n" in received
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdin, selectors.EVENT_WRITE)
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while unsent or not whole:
                left = self.deadline - time.monotonic()
                if left <= 0:
                    raise EOFError("timeout")
                for key, _ in selector.select(left):
                    if key.fileobj is self.process.stdout:
                        data = os.read(key.fd, 65536)
                        if not data:
                            raise EOFError("crash")
                        received += data
                        whole = whole or b"\n" in data
                        if len(received) > MAX_ANSWER:
                            raise EOFError("output")
                        continue
                    try:
                        unsent = unsent[os.write(key.fd, unsent[:65536]):]
                    except BrokenPipeError:  # nobody reads it: wait for an answer all the same
                        unsent = b""
                    if not unsent:
                        selector.unregister(key.fileobj)
        line, _, self.received = bytes(received).partition(b"\n")
        return line

    def call(self, *args) -> Outcome:
        """The program's answer to these arguments. Raises SandboxError if they are no literals.
        After a timeout, a crash or an overlong answer, every later call ends the same way."""
        canonical(args)
        self.calls += 1
        try:
            if self.over:
                raise self.over
            outcome = outcome_of(self.exchange(self.unsent + repr(args).encode() + b"\n"))
            self.unsent = b""
        except EOFError as failure:
            self.over, outcome = failure, Outcome(str(failure))
        self.failures += outcome.kind != "value"
        return outcome


@contextmanager
def session(program: str, entry: str, seconds: float, memory_mb: int, strict: bool):
    """A Child for the program; at the end of the block nothing of it is left. Raises SandboxError
    where it cannot start, and where a layer is missing if strict."""
    if os.name != "posix":
        raise SandboxError("the sandbox needs Linux or macOS: Windows has no limits to run under")
    folder, process = tempfile.mkdtemp(prefix="sandbox-"), None
    life, word = os.pipe()  # the supervisor waits for a word, or for the parent's end
    settings = {"layers": LAYERS, "cpu": int(seconds) + 2, "memory": memory_mb << 20, "life": life,
                **folders()}
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", CHILD], stdin=subprocess.PIPE, bufsize=0,
            stdout=subprocess.PIPE, cwd=folder, env={"LC_ALL": "C.UTF-8"}, pass_fds=(life,),
            start_new_session=True)
        child = Child(process)
        try:
            child.held = outcome_of(child.exchange(repr(settings).encode() + b"\n")).value
        except EOFError as failure:
            raise SandboxError(f"the sandbox's child did not start: {failure}") from None
        complain(tuple(layer for layer in LAYERS if layer not in child.held), strict)
        child.unsent = repr((program, entry)).encode() + b"\n"
        child.deadline = time.monotonic() + seconds
        yield child
    finally:
        with suppress(OSError):  # nobody is there to read it
            os.close(life)
            os.write(word, b"x")
        os.close(word)
        if process:
            end(process, supervised="namespaces" in child.held)
        remove(folder)


def end(process, supervised: bool) -> None:
    """Lets the supervisor kill and reap, or kills the whole group. Then reaps what was started."""
    process.stdin.close()
    process.stdout.close()
    with suppress(subprocess.TimeoutExpired):
        if supervised:
            process.wait(5)
    if process.returncode is None:  # not reaped, so the number of the group is still its own
        with suppress(ProcessLookupError, PermissionError):  # PermissionError: a zombie on macOS
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def remove(folder: str) -> None:
    """Deletes a folder that the program may have filled, where layer "disk" did not hold."""
    try:
        os.rmdir(folder)
    except OSError:  # the tools cope with forbidden folders, and with trees too deep for rmtree
        for tool in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*tool, folder], stderr=subprocess.DEVNULL, check=False)


@functools.lru_cache
def folders() -> dict[str, list[str]]:
    """Those of Python's standard library and of what it loads; within them, those of packages."""
    own = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    packages = [f"{lib}/{name}-packages" for lib in (*own, "/usr/lib/python3")
                for name in ("site", "dist")]
    return {"readable": [*own, sys.base_prefix + "/lib", "/lib", "/lib64", "/usr/lib",
                         "/usr/lib64"], "hidden": packages}


@functools.lru_cache  # so that each lack is warned of once
def complain(missing: tuple, strict: bool) -> None:
    text = f"the sandbox lacks these layers here: {', '.join(missing)}"
    if missing and strict:
        raise SandboxError(text + "; strict=False goes on without them")
    if missing:
        warnings.warn(text, stacklevel=2)


@functools.lru_cache
def layers() -> dict[str, bool]:
    """Which layers are in force here, tried once in a throwaway child."""
    with session("", "", 1.0, 256, False) as child:
        return {layer: layer in child.held for layer in LAYERS}


# --- what a reward calls

def run_calls(program: str, entry: str, calls: list[tuple], *, seconds: float = 5.0,
              memory_mb: int = 256, strict: bool = False) -> list[Outcome]:
    """An Outcome for each call `entry(*args)`, in one process that has `seconds` for them all and
    `memory_mb` of address space. Any thread may call this."""
    with session(program, entry, seconds, memory_mb, strict) as child:
        return [child.call(*args) for args in calls]


def passes(program: str, entry: str, tests: list[tuple], *, loose: bool = False,
           seconds: float = 5.0, memory_mb: int = 256, strict: bool = False) -> bool:
    """Whether `entry(*args)` is `expected` for every (args, expected): the same type and value
    all through, or with `loose` 1.0 for 1. Raises SandboxError without tests: they would all
    pass."""
    if not tests:
        raise SandboxError("a program cannot pass without tests")
    with session(program, entry, seconds, memory_mb, strict) as child:
        for args, expected in tests:
            outcome = child.call(*args)
            if (outcome.kind != "value"
                    or canonical(outcome.value, loose) != canonical(expected, loose)):
                return False
    return True


def run_asserts(program: str, entry: str, test: str, setup: str = "", *, seconds: float = 5.0,
                memory_mb: int = 256, strict: bool = False) -> bool:
    """Whether test code passes that calls `entry` and asserts, as HumanEval's and MBPP's does.

    `setup` and `test` come with the data set, so they are trusted and run here, in the parent, with
    every expected value; `entry` in them is a stand-in that asks the confined program and hands
    back plain built-in values, so that no `==` in an assert is ever the program's. It fails if an
    assert does, or anything else, and if the program failed a call or was never called. Their
    `random` is a generator of their own with a fixed seed: the caller's is left alone."""
    own = random.Random(0)
    module = types.SimpleNamespace(
        **{name: getattr(own, name) for name in dir(own) if name[0] != "_"}, Random=random.Random)
    space = {"__name__": "tests", "__builtins__": vars(builtins) | {
        "__import__": lambda name, *more: module if name == "random" else __import__(name, *more)}}

    with session(program, entry, seconds, memory_mb, strict) as child:
        def candidate(*args):
            outcome = child.call(*args)
            if outcome.kind != "value":
                raise AssertionError(outcome)
            return outcome.value

        try:
            exec(compile(setup, "setup", "exec", optimize=0), space)
            space[entry] = candidate
            exec(compile(test, "test", "exec", optimize=0), space)  # python -O would drop asserts
        except SandboxError:
            raise
        except Exception:
            return False
        return child.calls > 0 and child.failures == 0


def check_humaneval(problem: dict, completion: str, **limits) -> bool:
    """Whether a completion of a HumanEval problem (a row of its file) passes; see `run_asserts`."""
    entry = problem["entry_point"]
    return run_asserts(problem["prompt"] + completion, entry,
                       f"{problem['test']}\ncheck({entry})\n", problem["prompt"], **limits)


def check_many(jobs: list, workers: int = os.cpu_count() or 1) -> list:
    """The results, in order, of functions without arguments, such as
    `functools.partial(passes, ...)`, so many at once. Threads suffice: the work is the children's.
    """
    with ThreadPoolExecutor(workers) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]
