"""Digests of an exported model's files, by which an engine or a deferred build knows its model."""

from collections.abc import Iterator
from pathlib import Path

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.manifest import MANIFEST_NAME, read_manifest
from llmopt.artifacts.onnx_description import DATA_NAME, EXPORT_REMEDY, MODEL_NAME
from llmopt.errors import InputError

SHOWN_DIGITS = 12


def require_unchanged(folder: Path) -> tuple[str, str | None]:
    """Holds an exported model's graph and weights against the manifest, where there is one.

    Returns:
        SHA-256 of the graph's file and of the weights beside it, None for no file.

    Raises:
        InputError: There is no graph, or a file is not the one that was exported.
    """
    found = _digest_files(folder)
    if found[0] is None:
        raise InputError(f"{folder} holds no {MODEL_NAME}", remedy=EXPORT_REMEDY)
    if (folder / MANIFEST_NAME).exists():
        listed = {entry.path: entry.sha256 for entry in read_manifest(folder).files}
        exported = (listed.get(MODEL_NAME), listed.get(DATA_NAME))
        for difference in _compare(folder, found, exported, "that was exported"):
            raise InputError(difference, remedy=EXPORT_REMEDY)
    return found[0], found[1]


def find_other_files(
    folder: Path, digests: tuple[str | None, str | None], meaning: str
) -> Iterator[str]:
    """Yields the files of an exported model that are not those of the digests.

    Args:
        folder: Of the exported model.
        digests: Of the graph and of the weights, as `require_unchanged` gives them.
        meaning: What the digests are of, such as "that the engine was built from".
    """
    yield from _compare(folder, _digest_files(folder), digests, meaning)


def _digest_files(folder: Path) -> tuple[str | None, str | None]:
    graph, weights = folder / MODEL_NAME, folder / DATA_NAME
    return (
        digest_file(graph) if graph.is_file() else None,
        digest_file(weights) if weights.is_file() else None,
    )


def _compare(
    folder: Path,
    found: tuple[str | None, str | None],
    meant: tuple[str | None, str | None],
    meaning: str,
) -> Iterator[str]:
    for name, there, sha in zip((MODEL_NAME, DATA_NAME), found, meant, strict=True):
        if there != sha:
            yield (
                f"{folder / name} is not the file {meaning} (sha256 {_shorten(there)}, meant "
                f"{_shorten(sha)})"
            )


def _shorten(sha: str | None) -> str:
    return "none" if sha is None else f"{sha[:SHOWN_DIGITS]}…"
