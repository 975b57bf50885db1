"""The header of a safetensors file, read without torch and without mapping the file.

Format: an unsigned little-endian 64-bit length, that many bytes of JSON (tensor name →
dtype, shape, data_offsets), then the tensors' bytes
(https://huggingface.co/docs/safetensors, "Format").
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmopt.errors import InputError

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies: dtype as the format spells it, shape, byte offset in its file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor that will be written: dtype as the format spells it; shape None if not known yet."""

    dtype: str
    shape: tuple[int, ...] | None

    @property
    def num_bytes(self) -> int:
        """The tensor's bytes, 0 where they are not known yet."""
        return 0 if self.shape is None else math.prod(self.shape) * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Reads and checks a safetensors header.

    Raises:
        InputError: The file is missing, truncated, or not safetensors.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 2 <= header_bytes <= min(MAX_HEADER_BYTES, size - 8):
                raise _corrupt(path, f"a header of {header_bytes} bytes in a file of {size}")
            header = json.loads(file.read(header_bytes))
    except FileNotFoundError:
        raise InputError(f"weights file {path} does not exist") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise _corrupt(path, "its header is not JSON") from None
    return _parse_header(path, header, data_start=8 + header_bytes, size=size)


def _parse_header(path: Path, header: object, data_start: int, size: int) -> dict[str, TensorEntry]:
    if not isinstance(header, dict):
        raise _corrupt(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    entries = {
        str(name): _parse_entry(path, str(name), record, data_start)
        for name, record in header.items()
    }
    _check_layout(path, entries, data_start, size)
    return entries


def _check_layout(path: Path, entries: dict[str, TensorEntry], data_start: int, size: int) -> None:
    """Refuses what the format forbids: overlaps, holes, bytes that belong to no tensor."""
    position = data_start
    for name, entry in sorted(
        entries.items(), key=lambda item: (item[1].offset, item[1].num_bytes)
    ):
        end = entry.offset + entry.num_bytes
        if end > size:
            raise _corrupt(path, f"tensor {name} ends {end - size} bytes past the end of the file")
        if entry.offset != position:
            place = f"byte {entry.offset}, the one before it ends at {position}"
            raise _corrupt(path, f"tensor {name} begins at {place}")
        position = end
    if position != size:
        raise _corrupt(path, f"{size - position} bytes follow the last tensor")


def _parse_entry(path: Path, name: str, record: Any, data_start: int) -> TensorEntry:
    try:
        dtype, shape = str(record["dtype"]), tuple(int(n) for n in record["shape"])
        begin, end = (int(n) for n in record["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _corrupt(path, f"the header entry of tensor {name} is malformed") from None
    if dtype not in ITEM_BYTES:
        raise InputError(f"{path}: tensor {name} has the unknown dtype {dtype}")
    if min((begin, *shape), default=0) < 0 or end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise _corrupt(
            path, f"tensor {name} of shape {list(shape)} {dtype} spans {end - begin} bytes"
        )
    return TensorEntry(path, dtype, shape, data_start + begin, end - begin)


def _corrupt(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} is truncated or no safetensors file: {what}",
        remedy="download or copy the file again and compare its checksum with the source's",
    )
