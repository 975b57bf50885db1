"""The code that goes into repositories, known by its digest."""

import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from llmopt.artifacts.triton_description import RepositoryShape


def digest_runtime(shape: RepositoryShape, copied: Sequence[Path] = ()) -> dict[str, str]:
    """Returns the SHA-256 of each module that repositories of a shape hold, by its name.

    Args:
        shape: Of the repository.
        copied: Modules from elsewhere that go with the shape's own.
    """
    folder = resources.files("llmopt.triton.runtime").joinpath(shape)
    own = [*folder.iterdir()] if folder.is_dir() else []
    return {
        module.name: hashlib.sha256(module.read_bytes()).hexdigest()
        for module in (*own, *copied)
        if module.name.endswith(".py")
    }
