"""What a student's function returned, as JSON, and its comparison with fingerprints.

An output becomes a list of leaves: its numbers and texts. Each leaf has a fingerprint of 16 bits, a
hash of the exercise, the input, the position and the leaf, rounded to four digits. The right
fingerprints stand in fingerprints.json. They say whether a leaf is right, and many leaves share a
fingerprint. So nobody can read the answers out of the file.

A number that is near the border of two roundings has the fingerprints of both, so float32, float64
and other orders of operations pass. Left out on purpose: secrecy of outputs that are yes or no, or
a small whole number.
"""

import hashlib
import math
from fractions import Fraction

RELATIVE, ABSOLUTE = 3e-5, 5e-6  # tolerance of a number; together below the step of a rounding


# --- in the child: outputs to JSON

def encode(x):
    """A JSON value for an output: a tensor, number, text, None, or lists and dicts of these."""
    if hasattr(x, "detach"):  # a tensor
        if not x.dim():
            return x.item()
        kind = "bool" if str(x.dtype) == "torch.bool" else "int"
        kind = "float" if x.is_floating_point() else kind
        return {"tensor": kind, "shape": list(x.shape), "values": x.detach().flatten().tolist()}
    if isinstance(x, dict):
        return {"dict": {str(key): encode(x[key]) for key in x}}
    if isinstance(x, (list, tuple)):
        return {"list": [encode(item) for item in x]}
    if isinstance(x, Fraction):
        return {"fraction": str(x)}
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    if hasattr(x, "tolist"):  # numpy
        return encode(x.tolist())
    return {"other": type(x).__name__}


def encode_error(error: BaseException):
    return {"raises": type(error).__name__}


# --- in the parent: JSON to leaves

def leaves(x, where: str = "") -> tuple[str, list[tuple[str, object]]]:
    """The form of an encoded output (what kinds of tensors, of which shapes), and its leaves as
    pairs (position, number or text). Raises ValueError for JSON that `encode` does not make."""
    if not isinstance(x, dict):
        if x is not None and not isinstance(x, (bool, int, float, str)):
            raise ValueError("no output")
        return "", [(where, x)]
    [(kind, content), *_] = x.items()
    if kind == "tensor":
        shape, values = [int(n) for n in x["shape"]], x["values"]
        if math.prod(shape) != len(values):
            raise ValueError("a tensor of another size than its shape")
        return (f"{content} ({', '.join(map(str, shape))})",
                [(f"{where}[{position(i, shape)}]", value) for i, value in enumerate(values)])
    if kind == "dict":
        items = [(f"{where}.{key}", value) for key, value in content.items()]
    elif kind == "list":
        items = [(f"{where}[{i}]", value) for i, value in enumerate(content)]
    elif kind in ("fraction", "raises", "other"):
        leaf = Fraction(content) if kind == "fraction" else f"{kind} {content}"
        return "an exception" if kind == "raises" else "", [(where, leaf)]
    else:
        raise ValueError("no output")
    parts = [leaves(value, place) for place, value in items]
    forms = [f"{place} {form}" for (place, _), (form, _) in zip(items, parts, strict=True) if form]
    return ", ".join(forms), [(where, f"{kind} of {len(items)}"),
                              *(leaf for _, more in parts for leaf in more)]


def position(i: int, shape: list[int]) -> str:
    """The index in a tensor of the i-th value of the flattened tensor."""
    index = []
    for n in reversed(shape):
        index.append(i % n)
        i //= n
    return ", ".join(map(str, reversed(index)))


def roundings(leaf) -> list[str]:
    """The texts that a leaf may be rounded to; the first one is that of the leaf itself."""
    if leaf is None or isinstance(leaf, (bool, str)):
        return [repr(leaf)]
    if isinstance(leaf, float) and not math.isfinite(leaf):
        return [repr(leaf)]
    if isinstance(leaf, (int, Fraction)):
        return [str(leaf)]
    near = ABSOLUTE + RELATIVE * abs(leaf)
    return list(dict.fromkeys(rounded(x, near) for x in (leaf, leaf - near, leaf + near)))


def rounded(x: float, near: float) -> str:
    """Four digits. A float that is a whole number up to `near` is that number."""
    if abs(x) < 1000 and abs(x - round(x)) <= near:
        return str(round(x))
    return f"{x:.3e}" if abs(x) >= 0.01 else f"{x:.5f}"


def fingerprint(salt: str, leaf: str) -> str:
    return hashlib.blake2b(f"{salt} {leaf}".encode(), digest_size=2).hexdigest()


def prints(salt: str, output) -> dict:
    """What fingerprints.json stores of an output: its form, and the fingerprints of its leaves."""
    form, found = leaves(output)
    return {"form": form, "prints": "".join(fingerprint(f"{salt} {i}", roundings(leaf)[0])
                                            for i, (_, leaf) in enumerate(found))}


def hashed(salt: str, output):
    """An output, ready for `first_difference`: its form, and of each leaf the position, the value
    and the set of its fingerprints."""
    form, found = leaves(output)
    return form, [(where, leaf, {fingerprint(f"{salt} {i}", text) for text in roundings(leaf)})
                  for i, (where, leaf) in enumerate(found)]


def first_difference(output, stored: dict):
    """None if a hashed output fits the stored fingerprints. Otherwise the position of the first
    leaf that does not, "" for the output as a whole, and the leaf."""
    form, found = output
    wanted = [stored["prints"][i:i + 4] for i in range(0, len(stored["prints"]), 4)]
    if form != stored["form"]:
        return "", None
    for (where, leaf, own), right in zip(found, wanted, strict=False):
        if right not in own:
            return where, leaf
    return None if len(found) == len(wanted) else ("", None)
