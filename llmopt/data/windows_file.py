"""Writes calibration windows to a safetensors file that says what they were made of."""

from pathlib import Path

from safetensors.numpy import save

from llmopt import __version__
from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.files import make_folder, write_bytes_atomically
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.errors import InputError

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
    tensors = {"ids": windows.ids_NT, "lengths": windows.lengths_N}
    make_folder(path.parent)
    try:
        write_bytes_atomically(path, save(tensors, metadata))
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(f"file {path} can't be written: {error.strerror}") from None
