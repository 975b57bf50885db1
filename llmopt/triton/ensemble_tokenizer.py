"""The tokenizer's part of an ensemble: its files, what it needs installed, its numbers."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmopt.checkpoint.sidecar_files import list_sidecars
from llmopt.data.tokenization import load_tokenizer
from llmopt.errors import IncompatibleError, InputError

FILE_NAME, FOLDER_NAME = "tokenizer.json", "tokenizer"
MECAB = "mecab"
# What BertJapaneseTokenizer loads, by the name in mecab_kwargs; unidic downloads its own words.
MECAB_DICTIONARIES = {"unidic_lite": "unidic-lite", "ipadic": "ipadic"}
DEFAULT_DICTIONARY = "unidic_lite"
TRANSFORMERS = "transformers>=4.46"


@dataclass(frozen=True)
class EnsembleTokenizer:
    """A checkpoint's tokenizer as it goes into a repository.

    Attributes:
        folder: The checkpoint's.
        tokenizer: Of transformers.
    """

    folder: Path
    tokenizer: Any

    @classmethod
    def open(cls, folder: Path) -> "EnsembleTokenizer":
        """Loads a checkpoint's tokenizer.

        Raises:
            IncompatibleError: It is code of its own, which an ensemble does not bring.
            InputError: It can't be loaded.
        """
        try:
            return cls(folder, load_tokenizer(folder))
        except InputError:
            code = find_own_code(folder)
            if code is None:
                raise
            raise IncompatibleError(
                f"the tokenizer of {folder} is code of its own ({code}, as its auto_map says), "
                "which an ensemble does not bring to the server",
                remedy="use a tokenizer with a tokenizer.json: name a checkpoint that has one with "
                "tokenizer",
            ) from None

    @property
    def is_file(self) -> bool:
        """Whether the tokenizers library runs it; else transformers does, in Python."""
        return bool(self.tokenizer.is_fast)

    @property
    def pad_id(self) -> int:
        """What stands in the padding; 0 where the model has no token for it: it is masked."""
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def mask_token(self) -> str:
        """The token that a masked language model fills.

        Raises:
            InputError: There is none.
        """
        token = self.tokenizer.mask_token
        if token is None:
            raise InputError(
                f"the tokenizer of {self.folder} has no mask token, which task: fill_mask needs",
                remedy="name the checkpoint that the model was made from with tokenizer",
            )
        return str(token)

    @property
    def mask_id(self) -> int:
        """Its number."""
        return int(self.tokenizer.convert_tokens_to_ids(self.mask_token))

    def write(self, folder: Path) -> str:
        """Writes the tokenizer into a folder; returns the name of its file or folder there.

        Raises:
            IncompatibleError: What was written can't be loaded again: it needs further files.
        """
        if self.is_file:
            self.tokenizer.backend_tokenizer.save(str(folder / FILE_NAME))
            return FILE_NAME
        target = folder / FOLDER_NAME
        target.mkdir()
        for path in (*list_sidecars(self.folder), self.folder / "config.json"):
            shutil.copyfile(path, target / path.name)
        self._check_copy(target)
        return FOLDER_NAME

    def _check_copy(self, copy: Path) -> None:
        """Loads the copied files once, so that one that lacks is missed here, not by the server."""
        try:
            load_tokenizer(copy)
        except InputError as error:
            copied = ", ".join(sorted(path.name for path in copy.iterdir()))
            said = error.message.replace(str(copy), "the copy")
            raise IncompatibleError(
                f"the tokenizer of {self.folder} needs other files than an ensemble takes along "
                f"({copied}): {said}",
                remedy="use a tokenizer with a tokenizer.json: name a checkpoint that has one with "
                "tokenizer",
            ) from None

    def list_texts(self, vocab_size: int) -> list[str]:
        """Returns each token's own text; empty for numbers that the tokenizer does not know."""
        known = min(len(self.tokenizer), vocab_size)
        texts = [
            str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))
            for token in range(known)
        ]
        return texts + [""] * (vocab_size - known)

    def list_requirements(self) -> tuple[str, ...]:
        """Lists the packages that it needs.

        Raises:
            IncompatibleError: It splits words by a program that pip does not install.
        """
        if self.is_file:
            return ("tokenizers",)
        if type(self.tokenizer).__name__ != "BertJapaneseTokenizer":
            return (TRANSFORMERS,)
        words = self._list_word_splitter()
        pieces = self.tokenizer.subword_tokenizer_type
        return (TRANSFORMERS, *words, *(("sentencepiece",) if pieces == "sentencepiece" else ()))

    def _list_word_splitter(self) -> tuple[str, ...]:
        """Lists what splits Japanese text into words: a program and its dictionary."""
        splitter = self.tokenizer.word_tokenizer_type
        if splitter == "basic":
            return ()
        given = (self.tokenizer.mecab_kwargs or {}).get("mecab_dic", DEFAULT_DICTIONARY)
        dictionary = MECAB_DICTIONARIES.get(given) if splitter == MECAB else None
        if dictionary is None:
            with_dictionary = f" and the dictionary {given}" if splitter == MECAB else ""
            raise IncompatibleError(
                f"the tokenizer of {self.folder} splits words with {splitter}{with_dictionary}; "
                f"an ensemble takes {MECAB} with {' or '.join(MECAB_DICTIONARIES)}",
                remedy="use a tokenizer with one of them, or one with a tokenizer.json",
            )
        return ("fugashi", dictionary)


def find_own_code(folder: Path) -> str | None:
    """Names the class that a checkpoint brings for its tokenizer; None where it brings none."""
    for name in ("tokenizer_config.json", "config.json"):
        try:
            config = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        auto_map = config.get("auto_map") if isinstance(config, dict) else None
        named = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else None
        code = next((str(n) for n in (named if isinstance(named, list) else [named]) if n), None)
        if code is not None:
            return code
    return None
