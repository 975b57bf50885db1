"""Where what is fetched or built once per machine lies: servers, environments of models."""

import os
from pathlib import Path

from llmopt.artifacts.files import expand_home, make_folder
from llmopt.errors import InputError

CACHE_VARIABLE = "LLMOPT_CACHE"
DEFAULT_CACHE = "~/.cache/llmopt"


def open_cache_folder() -> Path:
    """Returns the cache folder, made if need be: $LLMOPT_CACHE, else `~/.cache/llmopt`.

    Raises:
        InputError: It can't be made there.
    """
    folder = locate_cache_folder()
    try:
        make_folder(folder)
    except InputError as error:
        raise InputError(
            error.message, remedy=f"name another place: {CACHE_VARIABLE}=FOLDER"
        ) from None
    return folder


def locate_cache_folder() -> Path:
    """Returns where the cache folder is, or would be; absolute."""
    return expand_home(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE).absolute()
