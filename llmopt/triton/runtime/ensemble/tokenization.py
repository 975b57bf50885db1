"""Tokenizers: a `tokenizer.json`, or what only transformers can load, such as MeCab's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class TextTokenizer(Protocol):
    """Turns texts into tokens, the model's special ones included."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns each text's tokens."""


class FileTokenizer:
    """A `tokenizer.json`, by the tokenizers library: 0.4 s to load, against 6 s."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415 - each environment has one of the two

        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns each text's tokens."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]


class FolderTokenizer:
    """A tokenizer in Python, by transformers."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer  # noqa: PLC0415 - each environment has one

        # Rows that are too long are the caller's to refuse; a warning for each would fill the log.
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, model_max_length=10**9
        )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns each text's tokens."""
        rows: list[list[int]] = self._tokenizer(list(texts)).input_ids
        return rows


def open_tokenizer(path: Path) -> TextTokenizer:
    """Loads a tokenizer from its file or its folder, and has it encode once."""
    tokenizer: TextTokenizer = FolderTokenizer(path) if path.is_dir() else FileTokenizer(path)
    tokenizer.encode(["。"])
    return tokenizer
