"""Writes calibration windows to a safetensors file that says what they were made of."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmopt import __version__
from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.files import make_folder, write_bytes_atomically
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.errors import InputError

ALIGNMENT_BYTES = 8
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def describe_windows(spec: DatasetSpec, data: Path, tokenizer: Path) -> dict[str, str]:
    """Says what windows were made of: the file's metadata.

    Args:
        spec: How the data set was cut.
        data: The data set's file.
        tokenizer: The tokenizer's folder.

    Raises:
        InputError: The folder holds no tokenizer file.
    """
    files = [tokenizer / name for name in TOKENIZER_FILES if (tokenizer / name).is_file()]
    if not files:
        raise InputError(f"folder {tokenizer} has none of {', '.join(TOKENIZER_FILES)}")
    return {
        "spec": spec.model_dump_json(),
        "data_sha256": digest_file(data),
        "tokenizer_sha256": digest_file(files[0]),
        "llmopt_version": __version__,
    }


def write_windows(path: Path, windows: CalibrationWindows, metadata: dict[str, str]) -> None:
    """Writes `ids` int64 [N, T], `lengths` int64 [N] and the metadata, whole or not at all.

    Raises:
        InputError: Nothing can be written there.
    """
    data = serialize({"ids": windows.ids_NT, "lengths": windows.lengths_N}, metadata)
    make_folder(path.parent)
    try:
        write_bytes_atomically(path, data)
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(f"file {path} can't be written: {error.strerror}") from None


def serialize(tensors: dict[str, NDArray[np.int64]], metadata: dict[str, str]) -> bytes:
    """Writes int64 tensors as a safetensors file; equal contents give equal bytes.

    The library puts the metadata into another order at every call. The format:
    https://huggingface.co/docs/safetensors/index#format
    """
    header: dict[str, object] = {"__metadata__": metadata}
    chunks: list[bytes] = []
    offset = 0
    for name, tensor in tensors.items():
        chunks.append(tensor.astype("<i8").tobytes())
        end = offset + len(chunks[-1])
        header[name] = {"dtype": "I64", "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text + b"".join(chunks)
