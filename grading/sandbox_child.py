"""The sandbox's child process: it gives up its own rights, layer by layer, then runs the program.

grading/sandbox.py runs the text of this file as `python -I -S -B -c`. The child receives settings,
confines itself, and reports which layers are active. Only then does it receive the program and the
calls.

    limits and memory on every system; on Linux namespaces, disk, privileges, Landlock, seccomp

A layer is a function that takes rights away. It raises OSError or ValueError where the system does
not support it. Sources: Linux's man pages setrlimit(2), user_namespaces(7), landlock(7),
seccomp(2). Left out on purpose: a root file system of its own (Landlock protects reading), cgroups
(they need root), a list of allowed system calls (it would differ between versions of libc).
"""

import ctypes
import os
import platform
import struct
import sys


def libc_call(function: str, *args) -> int:
    """Calls a function of libc. Raises OSError where it fails, and on systems other than Linux."""
    if sys.platform != "linux":
        raise OSError(f"{function} exists only on Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = getattr(libc, function)(*args)
    if result < 0:
        raise OSError(ctypes.get_errno(), function)
    return result


def set_limit(name: str, amount: int) -> None:
    """Sets a resource limit that cannot be raised again; a lower limit in force stays."""
    import resource  # does not exist on Windows
    which = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(which)[1]
    amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    resource.setrlimit(which, (amount, amount))


def layer_namespaces(settings, active):
    """New namespaces for users, processes, network, IPC, host name and mounts, so that the program
    sees no other process and no network."""
    user, group = os.getuid(), os.getgid()
    # CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS
    libc_call("unshare", 0x7C020000)
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"),
                       ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def layer_disk(settings, active):
    """A disk of 16 MB and 512 files in memory, mounted over the folder; it ends with the process.
    Installed packages are hidden by an empty disk, because they may hold data sets with answers."""
    if "namespaces" not in active:
        raise OSError("without namespaces other processes would see the mount")
    folder = os.getcwd()
    libc_call("mount", b"none", b"/", None, 0x4000 | 0x40000, None)  # MS_REC | MS_PRIVATE
    for place in (folder, *filter(os.path.isdir, settings["hidden"])):
        libc_call("mount", b"none", place.encode(), b"tmpfs", 2 | 4 | 8, b"size=16m,nr_inodes=512")
    os.chdir(folder)


def layer_limits(settings, active):
    """Limits of CPU time in seconds, bytes of a file, open files, processes and core dumps."""
    for name, amount in (("CPU", settings["cpu"]), ("FSIZE", 1 << 22), ("NOFILE", 64),
                         ("NPROC", 0), ("CORE", 0)):
        set_limit(name, amount)


def layer_memory(settings, active):
    """A limit of the address space in bytes."""
    set_limit("AS", settings["memory"])
    try:
        bytearray(2 * settings["memory"])
    except MemoryError:
        return
    raise OSError("the system accepts the limit but ignores it")  # macOS


def layer_privileges(settings, active):
    """No capabilities: none inside the namespace, and none from a set-uid file."""
    libc_call("prctl", 1, 9, 0, 0, 0)   # PR_SET_PDEATHSIG: dies with its parent
    libc_call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    libc_call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))


def layer_landlock(settings, active):
    """Files: Python's libraries may be read, the own folder read and written, nothing else."""
    # 1. the rights that this kernel can refuse
    version = libc_call("syscall", 444, None, 0, 1)  # landlock_create_ruleset
    known = 0x1fff | (version > 1) << 13 | (version > 2) << 14 | (version > 4) << 15
    handled = struct.pack("QQQ", known, 3 * (version > 3), 3 * (version > 5))  # files, TCP, scope
    handled = handled[:8 if version < 4 else 16 if version < 6 else 24]
    # 2. the rules: which rights stay, by folder
    rules = libc_call("syscall", 444, handled, len(handled), 0)
    for folder in [".", *settings["readable"]]:
        if os.path.isdir(folder):
            fd = os.open(folder, os.O_PATH)
            rights = known & (0x61be if folder == "." else 0xc)  # not: execute, links, devices
            libc_call("syscall", 445, rules, 1, struct.pack("=Qi", rights, fd), 0)  # ..._add_rule
            os.close(fd)
    # 3. apply them
    libc_call("syscall", 446, rules, 0)  # landlock_restrict_self
    os.close(rules)


# System calls that the filter refuses, by their numbers on (x86_64, aarch64). Calls that need a
# capability, such as reboot or settimeofday, are not listed, because the program has none.
REFUSED = (
    # fork, vfork, clone, clone3, execve, execveat; socket, socketpair
    (57, None), (58, None), (56, 220), (435, 435), (59, 221), (322, 281), (41, 198), (53, 199),
    # kill and its variants, pidfds, ptrace, memory of other processes, kcmp, setsid, setpgid
    (62, 129), (200, 130), (234, 131), (129, 138), (297, 240), (424, 424), (434, 434), (438, 438),
    (101, 117), (310, 270), (311, 271), (440, 440), (448, 448), (312, 272), (112, 157), (109, 154),
    # limits, processors and priorities, also of other processes
    (302, 261), (203, 122), (142, 118), (144, 119), (314, 274), (141, 140), (251, 30),
    # chmod, chown, utime, extended attributes, which Landlock does not refuse
    (90, None), (91, 52), (268, 53), (452, 452), (92, None), (93, 55), (94, None), (260, 54),
    (132, None), (235, None), (261, None), (280, 88),
    (188, 5), (189, 6), (190, 7), (197, 14), (198, 15), (199, 16),
    # mount and its variants, pivot_root, chroot, unshare, setns
    (165, 40), (166, 39), (155, 41), (161, 51), (272, 97), (308, 268),
    (428, 428), (429, 429), (430, 430), (431, 431), (432, 432), (433, 433), (442, 442),
    # io_uring, aio, bpf, perf, userfaultfd, keys
    (425, 425), (426, 426), (427, 427), (206, 0), (321, 280), (298, 241), (323, 282), (248, 217),
    (249, 218), (250, 219),
    # memory outside the limits; watching files; file handles
    (319, 279), (447, 447), (29, 194), (68, 186), (64, 190), (240, 180),
    (253, None), (294, 26), (300, 262), (303, 264), (304, 265),
    # personality, modify_ldt, prctl, seccomp
    (135, 92), (154, None), (157, 167), (317, 277))
NEWEST = 462  # the last known system call (mseal, Linux 6.10); later ones are refused


def seccomp_filter() -> bytes:
    """The classic BPF program for this processor, 8 bytes per instruction; empty for a processor
    without one. A listed call fails with EPERM, an unknown call with ENOSYS. A call of another
    architecture (32 bits on 64) kills the process."""
    column, audit = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}.get(
        platform.machine(), (0, 0))
    if not audit or sys.maxsize < 2**32:
        return b""
    load, equal, above, stop = 0x20, 0x15, 0x25, 0x06
    fail, allow, kill = 0x00050000, 0x7FFF0000, 0x80000000
    # an instruction: (operation, lines to skip if true, lines to skip if false, number)
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (stop, 0, 0, kill), (load, 0, 0, 0),
            (above, 0, 1, NEWEST), (stop, 0, 0, fail | 38)]  # the numbers of x32 are higher too
    for number in {pair[column] for pair in REFUSED} - {None}:
        code += [(equal, 0, 1, number), (stop, 0, 0, fail | 1)]
    return b"".join(struct.pack("HBBI", *step) for step in [*code, (stop, 0, 0, allow)])


def layer_seccomp(settings, active):
    """The kernel refuses the system calls in REFUSED, and those after NEWEST."""
    code = seccomp_filter()
    if not code:
        raise OSError("there is no filter for this processor")
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(buffer))
    libc_call("prctl", 22, 2, program, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def supervise(watch: int) -> None:
    """Continues in a new process, the first of its namespace. When that process ends, the kernel
    kills all others in the namespace. This process stays outside as the supervisor. It waits until
    the parent writes to the pipe or is gone, then kills and reaps the first process."""
    first = os.fork()
    if first:
        os.dup2(watch, 0)
        os.closerange(1, 256)
        os.read(0, 1)
        os.kill(first, 9)
        os.waitpid(first, 0)
        os._exit(0)
    os.close(watch)


def to_json(x) -> str:
    """A value as JSON: strings as hex, containers as ["list", ...], subclasses as their built-in
    base. Only methods of built-in types are called. Raises TypeError for other values."""
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
        return f'["complex",{to_json(x.real)},{to_json(x.imag)}]'
    for base in (list, tuple, set, frozenset, dict):
        if isinstance(x, base):
            items = [i for pair in x.items() for i in pair] if base is dict else x
            return "[" + ",".join([f'"{base.__name__}"', *map(to_json, items)]) + "]"
    raise TypeError(f"{type(x).__name__} is not a literal")


def confine(settings) -> list[str]:
    """Gives up this process's rights layer by layer; returns the layers that are active."""
    active = []
    for layer in settings["layers"]:
        try:
            globals()["layer_" + layer](settings, active)
            active.append(layer)
        except (OSError, ValueError, AttributeError):
            continue  # the parent decides whether it goes on without this layer
        if layer == "namespaces":
            supervise(settings["watch"])
    return active


def serve() -> None:
    """Confines this process, reports the active layers, loads the program, answers the calls."""
    # 1. give up the rights
    calls, answers = open(os.dup(0), "rb"), open(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    active = confine(eval(calls.readline()))

    def send(kind, text):
        answers.write(f'["{kind}",{text}]\n'.encode())
        answers.flush()

    def fail(kind, error):
        send("memory" if isinstance(error, MemoryError) else kind,
             to_json(f"{type(error).__name__}: {error}"[:200]))

    for fd in 0, 1, 2:  # the program's own input and output go nowhere
        os.dup2(null, fd)
    sys.stdout.reconfigure(errors="backslashreplace")  # so that any text can be printed
    send("value", to_json(active))  # this line can be trusted: the program is not here yet
    # 2. load the program
    program, entry = eval(calls.readline())
    module = sys.modules["program"] = type(sys)("program")
    load_error = None
    try:
        exec(compile(program, "program.py", "exec"), module.__dict__)
        function = getattr(module, entry)
    except BaseException as error:  # SystemExit too: a program that exits has not answered
        load_error = error
    # 3. answer the calls
    while line := calls.readline():
        try:
            if load_error:
                raise load_error
            value = function(*eval(line, {"nan": float("nan"), "inf": float("inf")}))
        except BaseException as error:
            fail("exception", error)
            continue
        try:
            text = to_json(value)
        except BaseException as error:
            fail("not a literal", error)
        else:
            send("value", text)
    os._exit(0)


if __name__ == "__main__":
    serve()
