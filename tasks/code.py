"""Toy functions for the task code: what they do, in words; their programs; what they compute.

A specification is a list of steps. On integers each step changes x; on tuples some numbers are
kept, each kept one is changed, and the rest becomes one number. Read from left to right, so that
the program needs brackets where Python's precedence would read it otherwise:

    "f(x): plus 3, times 2"  ->  x+3, (x+3)*2  ->  def f(x): return (x+3)*2

Left out on purpose: loops, conditions, strings, programs of several lines.
"""

import verify

CHANGES = {"plus": "+", "minus": "-", "times": "*"}
KEEPS = {"above": ">", "below": "<"}
ENDS = {"total": "sum", "count": "len"}


def draw(rng, level: int):
    """A random specification: (what is kept or None, changes, end or None). Level 1 has one or two
    steps on an integer, level 2 up to three or a tuple."""
    def change():
        return rng.choice(list(CHANGES)), rng.randint(2, 9)
    if level == 1 or rng.random() < 0.5:
        return None, tuple(change() for _ in range(rng.randint(1, level + 1))), None
    keep = rng.choice([("above", rng.randint(0, 9)), ("below", rng.randint(0, 9)), None])
    return keep, tuple(change() for _ in range(rng.randint(1, 2))), rng.choice(list(ENDS))


def question(spec) -> str:
    keep, changes, end = spec
    words = [f"{name} {k}" for name, k in ([keep] if keep else []) + list(changes)]
    return f"f({'a' if end else 'x'}): " + ", ".join(words + ([end] if end else []))


def working(spec, brackets: bool = True) -> list[str]:
    """The expression as it grows, a line a step; the last is the function's. Without brackets it is
    what a hasty reader writes."""
    keep, changes, end = spec
    lines, loose = ["x"], False  # loose: ends in a sum, which a product would pull apart
    for name, k in changes:
        before = f"({lines[-1]})" if brackets and loose and name == "times" else lines[-1]
        loose = name != "times"
        lines.append(f"{before}{CHANGES[name]}{k}")
    if end:
        condition = f" if x{KEEPS[keep[0]]}{keep[1]}" if keep else ""
        lines.append(f"[{lines[-1]} for x in a{condition}]")
        lines.append(f"{ENDS[end]}({lines[-1]})")
    return lines[1:]


def program(spec, brackets: bool = True) -> str:
    return f"def f({'a' if spec[2] else 'x'}): return {working(spec, brackets)[-1]}"


def compute(spec, argument):
    """What the function gives for an integer, or for a tuple of them."""
    keep, changes, end = spec

    def changed(x):
        for name, k in changes:
            x = verify.apply(x, CHANGES[name], k)
        return x
    if not end:
        return changed(argument)
    kept = [x for x in argument if not keep or (x > keep[1] if keep[0] == "above" else x < keep[1])]
    return {"total": sum, "count": len}[end]([changed(x) for x in kept])


def tests(spec, rng) -> tuple:
    """Six calls and their values: ((arguments), expected)."""
    def argument():
        if spec[2]:
            return tuple(rng.randint(-9, 20) for _ in range(rng.randint(0, 6)))
        return rng.randint(-9, 20)
    arguments = [argument() for _ in range(6)]
    return tuple(((x,), compute(spec, x)) for x in arguments)
