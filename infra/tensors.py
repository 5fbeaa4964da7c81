"""Files of tensors: checkpoints that are always complete, and the safetensors format.

A safetensors file is a header and bytes:

    8 bytes: length of the header | header, JSON | data of all tensors, one after the other
    header: {name: {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}}

The file is mapped into memory and each tensor is a view of the map. So only the tensors that are
used are read from the disk. A header may be wrong or hostile: every offset in it is checked before
any byte of data is read. A file written here has a CRC-32 in its header's metadata, which other
readers ignore. Format: github.com/huggingface/safetensors.
Left out on purpose: integer and 8-bit types.
"""

import json
import mmap
import zipfile
import zlib
from math import prod
from pathlib import Path

import torch

from infra.files import UserError, atomic_write, parse_json_object

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MAX_HEADER = 100_000_000  # bytes, the limit of Hugging Face's library


class NotFinite(ValueError, FloatingPointError):
    """Weights that hold NaN or infinity: the training that made them diverged."""


# --- checkpoints

def save(path, state: dict) -> None:
    """Writes a checkpoint, by `atomic_write`. Raises NotFinite, and keeps the old file, where a
    tensor holds NaN or infinity."""
    if name := not_finite(state):
        raise NotFinite(f"{path} is not written: {name} holds NaN or infinity; try a lower --lr")
    atomic_write(path, lambda file: torch.save(state, file), count_bytes(state))


def load(path, device="cpu", mend: str = "") -> dict:
    """Reads a checkpoint. weights_only: nothing in the file can run as code. Raises UserError for a
    file that cannot be read, a damaged one, and NaN or infinity. `mend` ends the message.

    The file is a zip with a CRC-32 of each tensor, which torch.load does not look at."""
    try:
        file = open(path, "rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}{mend}") from None
    with file:
        try:
            damaged = zipfile.ZipFile(file).testzip()
            content = None if damaged else torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # of many types: any byte may be wrong
            damaged = type(error).__name__
    if damaged:
        raise UserError(f"{path} is no checkpoint or is damaged ({damaged}){mend}")
    if name := not_finite(content):
        raise UserError(f"{path} cannot be used: {name} holds NaN or infinity{mend}")
    return content


def not_finite(content) -> str:
    """The name of a tensor in nested dicts and lists that holds NaN or infinity; "" for none."""
    return next((name or "the tensor" for name, x in named_tensors(content)
                 # one pass without a copy; the sum of large numbers may itself be infinite
                 if x.is_floating_point() and not x.sum().isfinite() and not x.isfinite().all()),
                "")


def named_tensors(content, name: str = "") -> list[tuple]:
    """(name, tensor) of each tensor in nested dicts and lists. A name joins the keys by dots."""
    if isinstance(content, torch.Tensor):
        return [(name, content)]
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(
        content, list | tuple) else ()
    return [found for key, value in items
            for found in named_tensors(value, f"{name}.{key}".strip("."))]


def count_bytes(state: dict) -> int:
    """About the size of a checkpoint: its tensors, and 100 kB for names and padding. Tied weights
    count once."""
    return sum({x.data_ptr(): x.nbytes for _, x in named_tensors(state)}.values()) + 100_000


# --- safetensors

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
    metadata = header.pop("__metadata__", None)
    if isinstance(metadata, dict) and "crc32" in metadata:  # written here
        with memoryview(data) as view:
            if checksum(header, [view[start:]]) != metadata["crc32"]:
                raise UserError(f"{path} is damaged: its bytes do not have the checksum in its "
                                "header")
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


def checksum(header: dict, parts) -> str:
    """The CRC-32, as 8 hexadecimal digits, of a header without metadata and of the data, which
    comes in parts."""
    crc = zlib.crc32(json.dumps(header).encode())
    for part in parts:
        crc = zlib.crc32(part, crc)
    return f"{crc:08x}"


def write_safetensors(named: dict, file) -> None:
    """Writes {name: tensor} to an open file."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, end = {}, 0
    for name, tensor in named.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [begin, end]}
    metadata = {"format": "pt", "crc32": checksum(header, data_of(named))}
    text = json.dumps({"__metadata__": metadata} | header).encode()
    text += b" " * (-len(text) % 8)  # aligns the data
    file.write(len(text).to_bytes(8, "little") + text)
    for part in data_of(named):
        file.write(part)


def data_of(named: dict):
    """The bytes of each tensor, one at a time: no second copy of the model."""
    return (x.contiguous().cpu().flatten().view(torch.uint8).numpy() for x in named.values())
