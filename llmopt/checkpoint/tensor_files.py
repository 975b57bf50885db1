"""Reads and writes tensors of safetensors files by plain reads, never by memory maps.

A mapped page counts as resident until the kernel takes it back, so a mapped checkpoint lets
memory grow with the model; a read buffer is freed with its tensor (docs/adr/0002).
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from llmopt.checkpoint.safetensors_header import TensorEntry
from llmopt.errors import InputError

TORCH_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
SAFETENSORS_DTYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
COPY_BYTES = 1 << 24
HEADER_ALIGNMENT = 8
LENGTH_BYTES = 8  # of the length in front of the header


def read_tensor(entry: TensorEntry) -> Tensor:
    """Reads one tensor into fresh memory.

    Raises:
        InputError: A dtype that torch lacks, or a file that ends too early.
    """
    return read_elements(entry, 0, math.prod(entry.shape)).reshape(entry.shape)


def read_elements(entry: TensorEntry, start: int, stop: int) -> Tensor:
    """Reads the elements `start`..`stop` of a tensor, flat, into fresh memory.

    Raises:
        InputError: A dtype that torch lacks, or a file that ends too early.
    """
    if entry.dtype not in TORCH_DTYPES:
        raise InputError(f"{entry.file}: a tensor is {entry.dtype}, which llmopt does not read")
    dtype = TORCH_DTYPES[entry.dtype]
    buffer = torch.empty((stop - start) * dtype.itemsize, dtype=torch.uint8)
    with entry.file.open("rb", buffering=0) as file:
        file.seek(entry.offset + start * dtype.itemsize)
        _read_exactly(file, as_bytes(buffer), entry.file)
    return buffer.view(dtype)


def holds_equal_bytes(one: TensorEntry, other: TensorEntry) -> bool:
    """Compares two tensors byte for byte, in constant memory."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(a == b for a, b in zip(read_chunks(one), read_chunks(other), strict=True))


def as_bytes(tensor: Tensor) -> memoryview:
    """Views a contiguous CPU tensor's memory as bytes, without a copy."""
    flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)


def _read_exactly(file: BinaryIO, view: memoryview, path: Path) -> None:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise InputError(f"{path} ended {len(view) - done} bytes too early while it was read")
        done += count


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file by way of a temporary neighbour; names in sorted order.

    `tensors` may make them when asked: each is asked for twice, and let go at once.
    """
    names = sorted(tensors)
    specs = [_describe(name, tensors[name]) for name in names]
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(build_header(specs))
            for name in names:
                data = tensors[name].detach().cpu().contiguous()
                file.write(as_bytes(data))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk a half file only takes more room
        raise


def _describe(name: str, tensor: Tensor) -> tuple[str, str, tuple[int, ...]]:
    return name, SAFETENSORS_DTYPES[tensor.dtype], tuple(tensor.shape)


def copy_tensors(entries: Mapping[str, TensorEntry], target: Path) -> None:
    """Writes a safetensors file of tensors that lie in other files, byte for byte.

    Memory stays constant; the tensors stand in the order of `entries`.
    """
    with target.open("wb") as file:
        file.write(build_header([(name, e.dtype, e.shape) for name, e in entries.items()]))
        for entry in entries.values():
            for chunk in read_chunks(entry):
                file.write(chunk)


def read_chunks(entry: TensorEntry) -> Iterator[bytes]:
    """Yields a tensor's bytes in pieces of `COPY_BYTES`, the last one shorter.

    Raises:
        InputError: The file ends too early.
    """
    left = entry.num_bytes
    with entry.file.open("rb") as file:
        file.seek(entry.offset)
        while left:
            chunk = file.read(min(left, COPY_BYTES))
            if not chunk:
                raise InputError(f"{entry.file} ended {left} bytes too early while it was read")
            left -= len(chunk)
            yield chunk


def build_header(specs: list[tuple[str, str, tuple[int, ...]]], min_bytes: int = 0) -> bytes:
    """Returns the bytes in front of the tensors, which lie in the order of `specs`.

    Args:
        specs: Name, dtype as the format spells it, and shape of each tensor.
        min_bytes: Length of all at least; what is missing is spaces, as the format allows.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in specs:
        num_bytes = math.prod(shape) * TORCH_DTYPES[dtype].itemsize
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offset, offset + num_bytes],
        }
        offset += num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(min_bytes - LENGTH_BYTES)
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
