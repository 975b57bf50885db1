"""Digests of an exported model's files, by which an engine or a deferred build knows its model."""

from collections.abc import Iterator
from pathlib import Path

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.onnx_description import DATA_NAME, MODEL_NAME

SHOWN_DIGITS = 12


def digest_onnx(folder: Path) -> tuple[str, str | None]:
    """Returns the SHA-256 of the graph's file and of the weights beside it, None for no file."""
    weights = folder / DATA_NAME
    return digest_file(folder / MODEL_NAME), digest_file(weights) if weights.exists() else None


def find_other_files(folder: Path, digests: tuple[str, str | None], meaning: str) -> Iterator[str]:
    """Yields the files of an exported model that are not those of the digests.

    Args:
        folder: Of the exported model.
        digests: Of the graph and of the weights, as `digest_onnx` gives them.
        meaning: What the digests are of, such as "that the engine was built from".
    """
    for name, sha in zip((MODEL_NAME, DATA_NAME), digests, strict=True):
        path = folder / name
        found = digest_file(path) if path.is_file() else None
        if found != sha:
            yield (
                f"{path} is not the file {meaning} (sha256 {_shorten(found)}, meant "
                f"{_shorten(sha)})"
            )


def _shorten(sha: str | None) -> str:
    return "none" if sha is None else f"{sha[:SHOWN_DIGITS]}…"
