"""Random damage to command lines and files, for bench/faults.py.

Every function takes a random.Random and changes one thing. Left out on purpose: valid values that
take hours (--steps 1000000), addresses to download from, and devices such as /dev/zero.
"""

import json
import os
import shutil
from pathlib import Path

NUMBERS = ("-1", "0", "-0.0", "1", "3", "0.5", "1.5", "1e-45", "1e400", "inf", "-inf", "nan",
           "2147483648", "-2147483649", "9223372036854775807", "100000000000000000000",
           "1" * 5000, "0x10", "1e3", "٣", "½", "1,2", "1/2")
TEXTS = ("", " ", "--", "-", "true", "None", "[]", "{}", "é" * 3000, "\x1b[2J\x07", "\udcff\ud800",
         "\n", "a\tb", "\u202e", "nowhere", "nowhere/at/all", "a.txt", "folder", "/dev/null",
         "/dev/null/x", "x" * 300, "*", "~", "%s", "cpu", "cuda", "cuda:99", "meta", "none")
# flags for which a large value, or any value, is valid and makes a case slow
SLOW = ("steps", "base-steps", "token-budget", "epochs", "max-attempts", "critic-warmup",
        "compile", "size", "help")
TREE_VALUES = (None, True, False, [], {}, "", "x", "\x1b[2J", "\ud800", -1, 0, 1, 1.5, 1e308,
               float("nan"), float("inf"), 2**31, 2**70, -2**70, [[1]], [None], {"a": []},
               "9" * 400, "../../x", "é" * 2000)
JSON_FILES = (".json", ".jsonl")


# --- command lines

def damage_flags(rng, argv: list[str], flags: dict) -> list[str]:
    """The command line with one flag added, repeated, removed, or given another value. flags:
    {name: its choices, or None}."""
    argv, name = list(argv), rng.choice([name for name in flags if name != "compile"])
    kind = rng.random()
    if kind < 0.65:  # another value; the last of several counts
        value = random_value(rng, name, flags[name])
        return argv + ([f"--{name}={value}"] if rng.random() < 0.4 else [f"--{name}", value])
    if kind < 0.75:  # a flag without its value, or a switch
        return argv + [f"--{name}"]
    if kind < 0.85 and argv:  # one word less
        del argv[rng.randrange(len(argv))]
        return argv
    if kind < 0.95:  # one word more
        argv.insert(rng.randrange(len(argv) + 1), rng.choice(TEXTS + ("--nonsense", "-x", "--re")))
        return argv
    rng.shuffle(argv)
    return argv


def random_value(rng, name: str, choices: list | None) -> str:
    """A value for a flag: a choice, a number, or a text."""
    if choices and rng.random() < 0.7:
        return rng.choice([c for c in choices if c not in ("small", "medium")])
    if rng.random() < 0.4:
        return rng.choice(TEXTS)
    numbers = NUMBERS
    if name in SLOW:
        numbers = [n for n in NUMBERS if len(n) < 8 and n not in ("0x10", "1e3")]
        numbers.remove("0")  # of --base-steps: the task's default
    return rng.choice(numbers)


# --- files

def damage_file(rng, path: Path) -> str:
    """Damages a file in place. Returns the kind of damage, in words."""
    content = path.read_bytes()
    try:
        if path.suffix in JSON_FILES and rng.random() < 0.6:
            return damage_json(rng, path)
        if path.suffix == ".pt" and rng.random() < 0.3:
            return damage_tensors(rng, path)
    except Exception:  # an earlier damage left no JSON and no tensors
        pass
    damage = rng.choice(DAMAGES) if content else noise
    path.unlink()  # the file may be a link to the original
    damage(rng, path, content)
    return damage.__name__


def truncated(rng, path, content):
    path.write_bytes(content[:rng.randrange(len(content) + 1)])


def emptied(rng, path, content):
    path.write_bytes(b"")


def flipped_bit(rng, path, content):
    at = rng.randrange(len(content))
    path.write_bytes(content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1:])


def flipped_bytes(rng, path, content):
    content = bytearray(content)
    for _ in range(rng.randrange(1, 50)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)


def inserted(rng, path, content):
    at = rng.randrange(len(content) + 1)
    piece = rng.choice([b"\xff\xfe", b"\x00", b"\x1b[2J", b"\xef\xbb\xbf", b"\n", b"{", b"\r\n",
                        b"[" * 100_000, b"9" * 5000, b'"', b",", "\u2028".encode()])
    path.write_bytes(content[:at] + piece + content[at:])


def byte_order_mark(rng, path, content):
    path.write_bytes(b"\xef\xbb\xbf" + content)


def utf16(rng, path, content):
    path.write_bytes(content.decode("latin1").encode("utf-16"))


def doubled(rng, path, content):
    path.write_bytes(content * 2)


def noise(rng, path, content):
    path.write_bytes(rng.randbytes(rng.choice([1, 100, 100_000])))


def removed(rng, path, content):
    pass


def a_folder(rng, path, content):
    path.mkdir()


def dangling_link(rng, path, content):
    path.symlink_to("nowhere")


DAMAGES = (truncated, emptied, flipped_bit, flipped_bytes, inserted, byte_order_mark, utf16,
           doubled, noise, removed, a_folder, dangling_link)


def damage_json(rng, path: Path) -> str:
    """Replaces, removes or wraps one value of a JSON file, or of one line of a JSONL file."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    at = rng.randrange(len(lines))
    tree, what = damage_tree(rng, json.loads(lines[at]), TREE_VALUES)
    lines[at] = json.dumps(tree, ensure_ascii=rng.random() < 0.5)
    path.unlink()
    path.write_bytes(("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"))
    return what


def damage_tensors(rng, path: Path) -> str:
    """Replaces, removes or wraps one value of a file of torch.save."""
    import torch

    values = (None, [], {}, "x", -1, 1.5, float("nan"), 2**40, torch.zeros(0), torch.ones(3),
              torch.full((2, 2), float("nan")))
    tree, what = damage_tree(rng, torch.load(path, weights_only=True), values)
    path.unlink()
    torch.save(tree, path)
    return what


def damage_tree(rng, tree, values) -> tuple:
    """The tree with one random node changed, and the change in words."""
    if not isinstance(tree, (dict, list)) or not tree or rng.random() < 0.08:
        return ([tree], "wrapped in a list") if rng.random() < 0.2 else replaced(rng, values)
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    key = rng.choice(list(keys))
    if rng.random() < 0.15:
        del tree[key]
        return tree, f"no {key}"
    if isinstance(tree[key], (dict, list)) and rng.random() < 0.7:
        tree[key], what = damage_tree(rng, tree[key], values)
    else:
        tree[key], what = replaced(rng, values)
    return tree, f"{key}: {what}"


def replaced(rng, values) -> tuple:
    """One of the values, and the change in words."""
    value = rng.choice(values)
    return value, f"= {str(value)[:20]!r}"


# --- folders

def damage_folder(rng, folder: Path) -> str:
    """Empties a folder, or puts a file in its place."""
    shutil.rmtree(folder)
    if rng.random() < 0.5:
        folder.write_text("a file")
        return "a file in place of the folder"
    if rng.random() < 0.5:
        folder.mkdir()
        return "an empty folder"
    return "no folder"


def copy_tree(source: Path, target: Path) -> None:
    """Copies a folder. Files over 100 kB are links: programs replace them and never write inside.
    """
    def link(path, to):
        (os.link if os.path.getsize(path) > 100_000 else shutil.copyfile)(path, to)
    shutil.copytree(source, target, copy_function=link)
