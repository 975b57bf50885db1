"""Tokenizers beside a model, loaded as the copied code loads them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from llmopt.triton.runtime.ensemble.tokenization import open_tokenizer

Loaded = TypeVar("Loaded")
Errors = tuple[type[Exception], ...]


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
    opened = _open_folder(path) if path.is_dir() else _try(lambda: open_tokenizer(path))
    return opened if isinstance(opened, str) else None


def _open_folder(path: Path) -> object | str:
    """Loads a tokenizer by transformers, but none that brings code of its own."""
    # Both import transformers, which takes seconds.
    from llmopt.data.tokenization import TOKENIZER_ERRORS  # noqa: PLC0415
    from llmopt.triton.ensemble_tokenizer import find_own_code  # noqa: PLC0415

    code = find_own_code(path)
    if code is not None:
        return f"code of its own ({code}), which the server does not run"
    return _try(lambda: open_tokenizer(path), TOKENIZER_ERRORS)


def _try(load: Callable[[], Loaded], errors: Errors = ()) -> Loaded | str:
    try:
        return load()
    except ImportError:
        raise
    except Exception as error:
        # The tokenizers library raises Exception itself.
        if type(error) is not Exception and not isinstance(error, errors):
            raise
        return f"no tokenizer ({' '.join(str(error).split())})"
