"""Files of tensors: checkpoints that are always complete, and the safetensors format.

A safetensors file is a header and bytes:

    8 bytes: length of the header | header, JSON | data of all tensors, one after the other
    header: {name: {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}}

The file is mapped into memory and each tensor is a view of the map. So only the tensors that are
used are read from the disk. A header may be wrong or hostile: every offset in it is checked before
any byte of data is read. Format: github.com/huggingface/safetensors.
Left out on purpose: integer and 8-bit types.
"""

import json
import mmap
import os
import pickle
from math import prod
from pathlib import Path

import torch

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MAX_HEADER = 100_000_000  # bytes, the limit of Hugging Face's library


def atomic_write(path, write) -> None:
    """Replaces a file in one step, so that a reader finds the old file or the new one, complete.
    write(file) writes to a temporary file beside it, which is then renamed. Raises OSError where
    the disk is full, and removes the temporary file."""
    partial = f"{path}.{os.getpid()}.partial"  # two processes may write the same file
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        if os.path.exists(partial):
            os.remove(partial)
        raise OSError(f"{path} cannot be written: {error}") from error


def save(path, state: dict) -> None:
    """Writes a checkpoint, by `atomic_write`."""
    atomic_write(path, lambda file: torch.save(state, file))


def load(path, device="cpu") -> dict:
    """Reads a checkpoint. weights_only: nothing in the file can run as code. Raises OSError where
    the file is missing or damaged."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise OSError(f"{path} is no checkpoint or is damaged "
                      f"({type(error).__name__})") from None


# --- safetensors

def parse_json_object(text: bytes, path: Path) -> dict:
    """The JSON object in the text of the file `path`. Raises ValueError for anything else."""
    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)
    try:
        content = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of brackets
        raise ValueError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds JSON, but no object")
    return content


def read_safetensors(path) -> dict:
    """The tensors of a file: {name: tensor}, each a view of a private memory map. Raises ValueError
    where the file breaks the format."""
    path = Path(path)
    # map the file
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if size < 8:
            raise ValueError(f"{path} has {size} bytes, too few for a safetensors file")
        data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    # read the header
    start = 8 + int.from_bytes(data[:8], "little")  # of the data
    if start > min(size, 8 + MAX_HEADER):
        raise ValueError(f"{path} says that its header has {start - 8} bytes; the file has {size} "
                         f"bytes and the limit is {MAX_HEADER}")
    header = parse_json_object(data[8:start], path)
    header.pop("__metadata__", None)
    entries = [(name, *parse_entry(entry, f"{path}: {name!r}")) for name, entry in header.items()]
    # check that the tensors fill the data without gap or overlap
    previous_end = 0
    for name, _, _, begin, end in sorted(entries, key=lambda entry: entry[3]):
        if begin != previous_end:
            raise ValueError(f"{path}: {name!r} begins at byte {begin} of the data, but the tensor "
                             f"before it ends at byte {previous_end}")
        previous_end = end
    if start + previous_end != size:
        raise ValueError(f"{path} is {size} bytes long, but its header describes "
                         f"{start + previous_end} bytes")
    # make the views
    tensors = {}
    for name, dtype, shape, begin, end in entries:
        raw = torch.frombuffer(data, dtype=torch.uint8, count=end - begin, offset=start + begin)
        if (start + begin) % dtype.itemsize:  # a view needs aligned bytes
            raw = raw.clone()
        tensors[name] = raw.view(dtype).view(shape)
    return tensors


def parse_entry(entry, what: str) -> tuple:
    """(dtype, shape, begin, end) of a tensor from its entry in the header. `what` names the tensor
    in errors. Raises ValueError for a wrong entry. A tensor without elements is refused: no model
    has one, and its shape could be of any size."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"{what} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{what} is of type {dtype!r}, which is none of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or any(type(n) is not int or n < 1 for n in shape):
        raise ValueError(f"{what} has the shape {shape!r}, which is no list of positive integers")
    if (not isinstance(offsets, list) or [type(n) for n in offsets] != [int, int]
            or not 0 <= offsets[0] <= offsets[1]):
        raise ValueError(f"{what} has the data_offsets {offsets!r}, which are no begin and end")
    if prod(shape) * DTYPES[dtype].itemsize != offsets[1] - offsets[0]:
        raise ValueError(f"{what} has {offsets[1] - offsets[0]} bytes, but {dtype} in the shape "
                         f"{shape} takes {prod(shape) * DTYPES[dtype].itemsize}")
    return DTYPES[dtype], shape, *offsets


def write_safetensors(named: dict, file) -> None:
    """Writes {name: tensor} to an open file."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in named.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligns the data
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in named.values():  # one at a time: no second copy of the model
        file.write(tensor.contiguous().cpu().flatten().view(torch.uint8).numpy())
