import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from llmopt.checkpoint.safetensors_header import read_header
from llmopt.errors import InputError

RECORD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write_file(path: Path, header: Any, data: bytes = bytes(24), length: int | None = None) -> Path:
    """Writes a safetensors file of any header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = struct.pack("<Q", len(text) if length is None else length)
    path.write_bytes(prefix + text + data)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's file goes."""
    return tmp_path / "weights.safetensors"


def test_tells_where_each_tensor_lies(path: Path) -> None:
    write_file(path, {"__metadata__": {"a": "b"}, "x": RECORD}, bytes(24))
    (entry,) = read_header(path).values()
    assert (entry.dtype, entry.shape, entry.num_bytes) == ("F32", (2, 3), 24)
    assert entry.offset == path.stat().st_size - 24
    assert entry.file == path


def test_empty_file_of_no_tensors(path: Path) -> None:
    safetensors.torch.save_file({}, path)
    assert read_header(path) == {}


def test_missing_file(path: Path) -> None:
    with pytest.raises(InputError, match=r"weights\.safetensors does not exist"):
        read_header(path)


def test_truncated_at_every_place(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(5), "b": torch.ones(2, 2)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"weights\.safetensors is truncated or no safet"):
            read_header(path)


BAD_HEADERS = {
    "not JSON": b"{'a': 1}",
    "not UTF-8": b'{"\xff\xfe": 1}',
    "a list": [1, 2, 3],
    "a number": 17,
    "nested without end": b"[" * 200_000,
    "entry is a number": {"x": 3},
    "entry is null": {"x": None},
    "no dtype": {"x": {"shape": [2, 3], "data_offsets": [0, 24]}},
    "no shape": {"x": {"dtype": "F32", "data_offsets": [0, 24]}},
    "no offsets": {"x": {"dtype": "F32", "shape": [2, 3]}},
    "one offset": {"x": {**RECORD, "data_offsets": [0]}},
    "three offsets": {"x": {**RECORD, "data_offsets": [0, 24, 24]}},
    "offsets that are words": {"x": {**RECORD, "data_offsets": ["a", "b"]}},
    "infinite shape": b'{"x": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 24]}}',
    "NaN shape": b'{"x": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 24]}}',
    "shape too large": {"x": {**RECORD, "shape": [2, 4]}},
    "shape too small": {"x": {**RECORD, "shape": [2, 2]}},
    "negative shape": {"x": {**RECORD, "shape": [-2, -3]}},
    "negative begin": {"x": {**RECORD, "data_offsets": [-24, 0]}},
    "ends before it begins": {"x": {**RECORD, "data_offsets": [24, 0]}},
    "past the end": {"x": {**RECORD, "data_offsets": [8, 32]}},
    "wrong dtype for the bytes": {"x": {**RECORD, "dtype": "F16"}},
    "overlapping": {
        "x": {**RECORD, "shape": [4], "data_offsets": [0, 16]},
        "y": {**RECORD, "shape": [4], "data_offsets": [8, 24]},
    },
    "a hole": {
        "x": {**RECORD, "shape": [2], "data_offsets": [0, 8]},
        "y": {**RECORD, "shape": [2], "data_offsets": [16, 24]},
    },
    "bytes left over": {"x": {**RECORD, "shape": [2], "data_offsets": [0, 8]}},
}


@pytest.mark.parametrize("fault", BAD_HEADERS)
def test_corrupt_headers_are_refused(path: Path, fault: str) -> None:
    write_file(path, BAD_HEADERS[fault])
    with pytest.raises(InputError, match=r"weights\.safetensors is truncated or no safet"):
        read_header(path)
    with pytest.raises(safetensors.SafetensorError):  # the library agrees
        safetensors.torch.load_file(path)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**63, 2**64 - 1])
def test_impossible_header_lengths_are_refused(path: Path, length: int) -> None:
    write_file(path, {"x": RECORD}, length=length)
    with pytest.raises(InputError, match=rf"a header of {length} bytes in a file of \d+"):
        read_header(path)


def test_unknown_dtype_is_named(path: Path) -> None:
    write_file(path, {"x": {**RECORD, "dtype": "F5_E3M1"}})
    with pytest.raises(InputError, match="tensor x has the unknown dtype F5_E3M1"):
        read_header(path)
