"""The code that goes into repositories: copied as it stands, and known by its digest."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from llmopt.artifacts.triton_description import RepositoryShape

RUNTIME = "llmopt.triton.runtime"
MAX_BYTES_PER_TOKEN = 32  # of a request's text, unread beyond; Japanese and English have 3 to 6


def copy_runtime(
    shape: RepositoryShape, folder: Path, placed: Mapping[str, str] | None = None
) -> None:
    """Copies modules of a shape into a version folder.

    Args:
        shape: Of the repository.
        folder: Where they go.
        placed: Module → its name there; by default every module by its own.
    """
    modules = [each for each in _list_modules(shape) if each.name != "__init__.py"]
    names = {each.name: each.name for each in modules} if placed is None else placed
    for module in modules:
        if module.name in names:
            (folder / names[module.name]).write_bytes(module.read_bytes())


def digest_runtime(shape: RepositoryShape, copied: Sequence[Path] = ()) -> dict[str, str]:
    """Returns the SHA-256 of each module that repositories of a shape hold, by its name.

    Args:
        shape: Of the repository.
        copied: Modules from elsewhere that go with the shape's own.
    """
    return {
        module.name: hashlib.sha256(module.read_bytes()).hexdigest()
        for module in (*_list_modules(shape), *copied)
    }


def _list_modules(shape: RepositoryShape) -> list[Traversable]:
    folder = resources.files(RUNTIME).joinpath(shape)
    found = folder.iterdir() if folder.is_dir() else ()
    return [module for module in found if module.name.endswith(".py")]
