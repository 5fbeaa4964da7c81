"""Tensors in files: checkpoints, of which at any moment a whole one is there, and safetensors.

A safetensors file is a header and bytes:

    8 bytes: the length of the header | the header, JSON | the data, tensor after tensor, no gaps
    header: {name: {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}}

The file is mapped and its tensors are views of the map, so that what is not used is never read.
A header can lie, and then every place in it is checked before a byte is touched: nothing outside of
the file is ever read. Left out on purpose: integer and 8-bit types.
"""

import json
import mmap
import os
import pickle
from math import prod
from pathlib import Path

import torch

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MAX_HEADER = 100_000_000  # bytes, as in the format's own library


def replace_file(path, write) -> None:
    """Replaces a file so that at any moment either the old or the new one is whole: write(file) on
    a neighbouring file, to the disk, then renamed over the old. Raises OSError when there is no
    space, and then leaves no scraps."""
    partial = f"{path}.{os.getpid()}.partial"  # two runs may make the same base
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into the latter
        if os.path.exists(partial):
            os.remove(partial)
        raise OSError(f"{path} cannot be written: {error}") from error


def save(path, state: dict) -> None:
    """Writes a checkpoint, by `replace_file`."""
    replace_file(path, lambda file: torch.save(state, file))


def load(path, device="cpu") -> dict:
    """Reads a checkpoint; `weights_only` means that nothing in it can run as code. Raises OSError
    where it cannot be read."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise OSError(f"{path} is no checkpoint, or a damaged one "
                      f"({type(error).__name__})") from None


def json_object(text: bytes, path: Path) -> dict:
    def once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)
    try:
        made = json.loads(text.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:  # the latter from brackets, thousands deep
        raise ValueError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(made, dict):
        raise ValueError(f"{path}: JSON, but no object")
    return made


def read_safetensors(path) -> dict:
    """{name: tensor} of a file, views of a private map of it: what is not used is not read. Raises
    ValueError for whatever is not as the format says."""
    path = Path(path)
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if size < 8:
            raise ValueError(f"{path}: {size} bytes are too few for a safetensors file")
        data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    start = 8 + int.from_bytes(data[:8], "little")
    if start > min(size, 8 + MAX_HEADER):
        raise ValueError(f"{path}: a header of {start - 8} bytes, where the file has {size} and "
                         f"{MAX_HEADER} is the most")
    header = json_object(data[8:start], path)
    header.pop("__metadata__", None)
    end = 0
    entries = [(name, *place(entry, f"{path}: {name!r}")) for name, entry in header.items()]
    for name, _, _, begin, after in sorted(entries, key=lambda entry: entry[3]):
        if begin != end:
            raise ValueError(f"{path}: {name!r} begins at byte {begin} of the data, but what comes "
                             f"before it ends at {end}")
        end = after
    if start + end != size:
        raise ValueError(f"{path}: {size} bytes long, where its header makes it {start + end}")
    tensors = {}
    for name, dtype, shape, begin, after in entries:
        raw = torch.frombuffer(data, dtype=torch.uint8, count=after - begin, offset=start + begin)
        raw = raw if (start + begin) % dtype.itemsize == 0 else raw.clone()  # for its alignment
        tensors[name] = raw.view(dtype).view(shape)
    return tensors


def place(entry, what: str) -> tuple:
    """dtype, shape, begin and end of a tensor from its entry in the header. Tensors without
    elements are refused: no model has one, and their shapes could be of any size."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"{what} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{what} is of type {dtype!r}, not one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or any(type(n) is not int or n < 1 for n in shape):
        raise ValueError(f"{what} has the shape {shape!r}, not a list of positive whole numbers")
    if (not isinstance(offsets, list) or [type(n) for n in offsets] != [int, int]
            or not 0 <= offsets[0] <= offsets[1]):
        raise ValueError(f"{what} has the data_offsets {offsets!r}, not a beginning and an end")
    if prod(shape) * DTYPES[dtype].itemsize != offsets[1] - offsets[0]:
        raise ValueError(f"{what} has {offsets[1] - offsets[0]} bytes, which {dtype} in the shape "
                         f"{shape} does not")
    return DTYPES[dtype], shape, *offsets


def write_safetensors(named: dict, file) -> None:
    """Writes {name: tensor} to an open file, one tensor after the other."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in named.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in named.values():
        file.write(tensor.contiguous().cpu().flatten().view(torch.uint8).numpy())
