"""The code that goes into repositories, known by its digest."""

import hashlib
from importlib import resources

from llmopt.artifacts.triton_description import RepositoryShape


def digest_runtime(shape: RepositoryShape) -> dict[str, str]:
    """Returns the SHA-256 of each module that repositories of a shape hold, by its name."""
    folder = resources.files("llmopt.triton.runtime").joinpath(shape)
    if not folder.is_dir():
        return {}
    return {
        module.name: hashlib.sha256(module.read_bytes()).hexdigest()
        for module in folder.iterdir()
        if module.name.endswith(".py")
    }
