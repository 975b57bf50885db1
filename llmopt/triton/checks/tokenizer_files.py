"""Tokenizers beside a model, loaded as the copied code loads them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from llmopt.triton.runtime.ensemble.tokenization import open_tokenizer

Loaded = TypeVar("Loaded")
# What transformers raises on a folder's files that it can make nothing of.
FOLDER_ERRORS = (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError)


def read_tokenizer(path: Path) -> Tokenizer | str:
    """Returns the tokenizer of a tokenizer.json; where there is none, what it is instead."""
    if not path.exists():
        return "missing"
    return _try(lambda: Tokenizer.from_file(str(path)))


def find_why_not_open(path: Path) -> str | None:
    """Tells why an ensemble's tokenizer, a file or a folder, does not load; None where it does.

    Raises:
        ImportError: It needs a package that is not installed here.
    """
    opened = _try(lambda: open_tokenizer(path))
    return opened if isinstance(opened, str) else None


def _try(load: Callable[[], Loaded]) -> Loaded | str:
    try:
        return load()
    except Exception as error:
        # The tokenizers library raises Exception itself.
        if type(error) is not Exception and not isinstance(error, FOLDER_ERRORS):
            raise
        return f"no tokenizer ({' '.join(str(error).split())})"
