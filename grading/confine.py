"""Confinement: how a process gives up its own rights, one layer after the other.

This file's text is what sandbox.py runs as `python -I -S -B -c`. It is told its settings, takes its
rights away, says which layers hold, and only then is sent the program and its calls.

    limits and memory everywhere; on Linux namespaces, disk, privileges, Landlock, seccomp

A layer is a function that takes something away and raises OSError or ValueError where the system
cannot. Sources: Linux's man pages setrlimit(2), user_namespaces(7), landlock(7), seccomp(2). Left
out on purpose: a root file system of its own (Landlock does for reading), cgroups (they need root),
a list of allowed instead of refused system calls (it would differ between versions of libc).
"""

import ctypes
import os
import platform
import struct
import sys


def kernel(function: str, *args) -> int:
    """libc's function of that name; raises OSError where it fails, and on other systems."""
    if sys.platform != "linux":
        raise OSError(f"{function} is Linux's")
    libc = ctypes.CDLL(None, use_errno=True)
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = getattr(libc, function)(*args)
    if result < 0:
        raise OSError(ctypes.get_errno(), function)
    return result


def lower(name: str, amount: int) -> None:
    """A resource limit that nobody can raise again, never above the one that holds already."""
    import resource  # not on Windows
    which = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(which)[1]
    amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    resource.setrlimit(which, (amount, amount))


def layer_namespaces(settings, held):
    """User, process, network, IPC, host name, mounts: a world with nothing else in it."""
    user, group = os.getuid(), os.getgid()
    kernel("unshare", 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x00020000)
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"),
                       ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def layer_disk(settings, held):
    """16 MB and 512 files, in memory, in the place of the folder; gone with the process. Nothing in
    the place of installed packages, which may be data sets with their answers."""
    if "namespaces" not in held:
        raise OSError("without namespaces the mount would be everybody's")
    folder = os.getcwd()
    kernel("mount", b"none", b"/", None, 0x4000 | 0x40000, None)  # MS_REC | MS_PRIVATE
    for place in (folder, *filter(os.path.isdir, settings["hidden"])):
        kernel("mount", b"none", place.encode(), b"tmpfs", 2 | 4 | 8, b"size=16m,nr_inodes=512")
    os.chdir(folder)


def layer_limits(settings, held):
    for name, amount in (("CPU", settings["cpu"]), ("FSIZE", 1 << 22), ("NOFILE", 64),
                         ("NPROC", 0), ("CORE", 0)):
        lower(name, amount)


def layer_memory(settings, held):
    lower("AS", settings["memory"])
    try:
        bytearray(2 * settings["memory"])
    except MemoryError:
        return
    raise OSError("the limit is accepted and ignored")  # macOS


def layer_privileges(settings, held):
    """No capabilities, not even within the namespace, and none from a set-uid file."""
    kernel("prctl", 1, 9, 0, 0, 0)   # PR_SET_PDEATHSIG: dies with its starter
    kernel("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    kernel("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))


def layer_landlock(settings, held):
    """Files: Python's libraries to read, its own folder to read and write, nothing else."""
    version = kernel("syscall", 444, None, 0, 1)
    known = 0x1fff | (version > 1) << 13 | (version > 2) << 14 | (version > 4) << 15
    handled = struct.pack("QQQ", known, 3 * (version > 3), 3 * (version > 5))  # files, TCP, scope
    handled = handled[:8 if version < 4 else 16 if version < 6 else 24]
    rules = kernel("syscall", 444, handled, len(handled), 0)
    for folder in [".", *settings["readable"]]:
        if os.path.isdir(folder):
            fd = os.open(folder, os.O_PATH)
            rights = known & (0x61be if folder == "." else 0xc)  # all but execute, links, devices
            kernel("syscall", 445, rules, 1, struct.pack("=Qi", rights, fd), 0)
            os.close(fd)
    kernel("syscall", 446, rules, 0)
    os.close(rules)


# What the filter refuses, as numbers on (x86_64, aarch64). What needs a capability besides, such as
# reboot or settimeofday, is not listed: the program has none.
REFUSED = (
    # fork, vfork, clone, clone3, execve, execveat; socket, socketpair
    (57, None), (58, None), (56, 220), (435, 435), (59, 221), (322, 281), (41, 198), (53, 199),
    # kill, tkill, tgkill, their queueing kin, pidfds, ptrace, others' memory, kcmp, setsid, setpgid
    (62, 129), (200, 130), (234, 131), (129, 138), (297, 240), (424, 424), (434, 434), (438, 438),
    (101, 117), (310, 270), (311, 271), (440, 440), (448, 448), (312, 272), (112, 157), (109, 154),
    # limits, processors and priorities, which can be other processes'
    (302, 261), (203, 122), (142, 118), (144, 119), (314, 274), (141, 140), (251, 30),
    # chmod, chown, utime, extended attributes, all of which Landlock lets by
    (90, None), (91, 52), (268, 53), (452, 452), (92, None), (93, 55), (94, None), (260, 54),
    (132, None), (235, None), (261, None), (280, 88),
    (188, 5), (189, 6), (190, 7), (197, 14), (198, 15), (199, 16),
    # mount and its kin, pivot_root, chroot, unshare, setns
    (165, 40), (166, 39), (155, 41), (161, 51), (272, 97), (308, 268),
    (428, 428), (429, 429), (430, 430), (431, 431), (432, 432), (433, 433), (442, 442),
    # io_uring, aio, bpf, perf, userfaultfd, keys
    (425, 425), (426, 426), (427, 427), (206, 0), (321, 280), (298, 241), (323, 282), (248, 217),
    (249, 218), (250, 219),
    # memory that no limit counts; watching files; file handles
    (319, 279), (447, 447), (29, 194), (68, 186), (64, 190), (240, 180),
    (253, None), (294, 26), (300, 262), (303, 264), (304, 265),
    # personality, modify_ldt, prctl, seccomp
    (135, 92), (154, None), (157, 167), (317, 277))
NEWEST = 462  # system calls after this one (mseal, Linux 6.10) are unknown here


def seccomp_filter() -> bytes:
    """The classic BPF program for this processor, 8 bytes an instruction; empty where there is
    none. Every listed call fails with EPERM, every unknown one with ENOSYS; the calls of another
    architecture (32 bits on 64) kill the process."""
    column, audit = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}.get(
        platform.machine(), (0, 0))
    if not audit or sys.maxsize < 2**32:
        return b""
    load, equal, above, stop = 0x20, 0x15, 0x25, 0x06
    fail, allow, kill = 0x00050000, 0x7FFF0000, 0x80000000
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (stop, 0, 0, kill), (load, 0, 0, 0),
            (above, 0, 1, NEWEST), (stop, 0, 0, fail | 38)]  # x32's numbers are above it too
    for number in {pair[column] for pair in REFUSED} - {None}:
        code += [(equal, 0, 1, number), (stop, 0, 0, fail | 1)]
    return b"".join(struct.pack("HBBI", *step) for step in [*code, (stop, 0, 0, allow)])


def layer_seccomp(settings, held):
    """The kernel refuses the system calls above."""
    code = seccomp_filter()
    if not code:
        raise OSError("no filter is written for this processor")
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(buffer))
    kernel("prctl", 22, 2, program, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def supervise(life: int) -> None:
    """Goes on in a new process, the first of its namespace: all in there dies with it. This one
    stays outside, waits until the parent says the word or is gone, kills that one and reaps it."""
    first = os.fork()
    if first:
        os.dup2(life, 0)
        os.closerange(1, 256)
        os.read(0, 1)
        os.kill(first, 9)
        os.waitpid(first, 0)
        os._exit(0)
    os.close(life)


def text_of(x) -> str:
    """A value as JSON: strings as hex, containers as ["list", ...]; a subclass as its base."""
    if x is None or isinstance(x, bool):
        return {None: "null", True: "true", False: "false"}[x]
    if isinstance(x, int):
        return int.__repr__(x)
    if isinstance(x, float):
        text = float.__repr__(x)
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)
    if isinstance(x, str):
        return '"' + str.encode(x, "utf-8", "surrogatepass").hex() + '"'
    if isinstance(x, bytes):
        return '["bytes","' + bytes.hex(x) + '"]'
    if isinstance(x, complex):
        return f'["complex",{text_of(x.real)},{text_of(x.imag)}]'
    for base in (list, tuple, set, frozenset, dict):
        if isinstance(x, base):
            items = [i for pair in x.items() for i in pair] if base is dict else x
            return "[" + ",".join([f'"{base.__name__}"', *map(text_of, items)]) + "]"
    raise TypeError(f"{type(x).__name__} is no literal")


def serve() -> None:
    """Confines this process, says which layers hold, loads the program, answers call after call."""
    calls, answers = open(os.dup(0), "rb"), open(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    settings, held = eval(calls.readline()), []
    for layer in settings["layers"]:
        try:
            globals()["layer_" + layer](settings, held)
            held.append(layer)
        except (OSError, ValueError, AttributeError):
            continue  # the parent decides what a missing layer means
        if layer == "namespaces":
            supervise(settings["life"])

    def send(kind, text):
        answers.write(f'["{kind}",{text}]\n'.encode())
        answers.flush()

    def failed(kind, error):
        kind = "memory" if isinstance(error, MemoryError) else kind
        send(kind, text_of(f"{type(error).__name__}: {error}"[:200]))

    for fd in 0, 1, 2:  # what the program prints is nobody's
        os.dup2(null, fd)
    send("value", text_of(held))  # to be believed: the program is not here yet
    program, entry = eval(calls.readline())
    module = sys.modules["program"] = type(sys)("program")
    broken = None
    try:
        exec(compile(program, "program.py", "exec"), module.__dict__)
        function = getattr(module, entry)
    except BaseException as error:  # SystemExit too: who ends the program has answered nothing
        broken = error
    while line := calls.readline():
        try:
            if broken:
                raise broken
            value = function(*eval(line, {"nan": float("nan"), "inf": float("inf")}))
        except BaseException as error:
            failed("exception", error)
            continue
        try:
            text = text_of(value)
        except BaseException as error:
            failed("not a literal", error)
        else:
            send("value", text)
    os._exit(0)


if __name__ == "__main__":
    serve()
