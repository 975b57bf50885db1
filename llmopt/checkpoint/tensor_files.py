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
}  # fmt: skip
SAFETENSORS_DTYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
COPY_BYTES = 1 << 24
HEADER_ALIGNMENT = 8


def read_tensor(entry: TensorEntry) -> Tensor:
    """Reads one tensor into fresh memory.

    Raises:
        InputError: A dtype that torch lacks, or a file that ends too early.
    """
    if entry.dtype not in TORCH_DTYPES:
        raise InputError(f"{entry.file}: a tensor is {entry.dtype}, which llmopt does not read")
    buffer = torch.empty(entry.num_bytes, dtype=torch.uint8)
    with entry.file.open("rb", buffering=0) as file:
        file.seek(entry.offset)
        _read_exactly(file, _as_bytes(buffer), entry.file)
    return buffer.view(TORCH_DTYPES[entry.dtype]).reshape(entry.shape)


def _as_bytes(tensor: Tensor) -> memoryview:
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
            file.write(_build_header(specs))
            for name in names:
                data = tensors[name].detach().cpu().contiguous()
                file.write(_as_bytes(data))
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
        file.write(_build_header([(name, e.dtype, e.shape) for name, e in entries.items()]))
        for entry in entries.values():
            for chunk in _read_chunks(entry):
                file.write(chunk)


def _read_chunks(entry: TensorEntry) -> Iterator[bytes]:
    left = entry.num_bytes
    with entry.file.open("rb") as file:
        file.seek(entry.offset)
        while left:
            chunk = file.read(min(left, COPY_BYTES))
            if not chunk:
                raise InputError(f"{entry.file} ended {left} bytes too early while it was read")
            left -= len(chunk)
            yield chunk


def _build_header(specs: list[tuple[str, str, tuple[int, ...]]]) -> bytes:
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
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
