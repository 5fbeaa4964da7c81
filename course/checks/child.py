"""The process in which a student's code runs: functions in, outputs out. It knows no answers.

    python child.py FOLDER PART.py       asked by grade.py, through the standard input and output

A line of the input is JSON {"module", "function"}. The file PART.py has the inputs of each function
in CHECKS. Each output is a message: its length as 8 hexadecimal digits, then JSON. What the
student's code prints goes nowhere.
"""

import copy
import importlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
from pathlib import Path

MEMORY = 4 * 2**30  # bytes
MAX_MESSAGE = 2**21  # bytes


def load(path):
    """The module in a file, whatever its name."""
    spec = importlib.util.spec_from_file_location(f"_check_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_channel():
    """Takes the standard output for messages, and points all that others write to nowhere."""
    channel, questions = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(0), "r")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)

    def send(**message):
        text = json.dumps(message).encode()
        if len(text) > MAX_MESSAGE:
            text = json.dumps({"output": {"other": "a huge output"}}).encode()
        channel.write(b"%08x" % len(text) + text)
        channel.flush()
    return questions, send


def limit_memory() -> None:
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):  # Windows; a system whose own limit is lower
        pass


def failure(error: BaseException, folder: str) -> dict:
    """The error of a student's function: type, text, and the last line of the student's files."""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(folder)]
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{os.path.relpath(error.filename, folder)} line {error.lineno}"
    else:
        place = f"{os.path.relpath(lines[-1].filename, folder)} line {lines[-1].lineno}" \
            if lines else ""
    return {"error": type(error).__name__, "text": str(error)[:300], "place": place}


def changeable(args) -> dict:
    """Encoded copies of the tensors and lists among the arguments of a call, by their number."""
    return {i: outputs.encode(x) for i, x in enumerate(args)
            if hasattr(x, "detach") or isinstance(x, list)}


def name_of(call, i: int) -> str:
    """The name of argument i of a function. `names` of the function come first: of a function of a
    part's file, whose arguments become those of the student's function."""
    try:
        names = getattr(call, "names", None) or [
            p.name for p in inspect.signature(call).parameters.values()
            if p.kind != p.VAR_POSITIONAL]
        return str(names[i])
    except (IndexError, TypeError, ValueError):
        return f"argument {i + 1}"


def run(case, folder: str = "/") -> dict:
    """The message for one input: (text, callable, arguments)."""
    text, call, *args = case
    args = [x.clone() if hasattr(x, "clone") else copy.deepcopy(x) if isinstance(x, list) else x
            for x in args]  # inputs share tensors and lists
    before = changeable(args)
    try:
        output = outputs.encode(call(*args))
    except BaseException as error:
        return {"input": text, "output": outputs.encode_error(error), **failure(error, folder)}
    changed = next((name_of(call, i) for i, x in changeable(args).items() if x != before[i]), "")
    return {"input": text, "output": output, "changed": changed}


def resolve(module: str, function: str):
    """The function or method of a module."""
    found = importlib.import_module(module)
    for name in function.split("."):
        found = getattr(found, name)
    return found


def main() -> None:
    folder, part = sys.argv[1:]
    questions, send = open_channel()
    limit_memory()
    import torch
    torch.set_num_threads(1)
    checks = load(part).CHECKS
    sys.path[0] = folder  # in place of this file's folder
    send(ready=True)
    for line in questions:
        asked = json.loads(line)
        try:
            for case in checks[asked["function"]](resolve(**asked)):
                send(begins=case[0])
                send(**run(case, folder))
        except BaseException as error:  # the student's module cannot be imported
            send(**failure(error, folder), fatal=True)
        send(done=True)


outputs = load(Path(__file__).with_name("outputs.py"))
if __name__ == "__main__":
    main()
