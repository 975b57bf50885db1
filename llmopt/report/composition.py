"""What a data set's file holds, by category: documents, characters, tokens."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.files import expand_home
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.data.documents import Document, read_documents
from llmopt.errors import InputError

MIX = re.compile(r"mix\((.*?)\)(?= |$)")
WORD = re.compile(r"(\w+)=(.*?)(?= \w+=| mix\(|$)")
SOURCE_KEYS = ("set", "path", "split", "field")


@dataclass(frozen=True)
class CategoryShare:
    """One category of one file; `num_tokens` is None where no tokenizer was at hand."""

    category: str
    num_documents: int
    num_characters: int
    num_tokens: int | None


@dataclass(frozen=True)
class Composition:
    """One file of a data set.

    Attributes:
        source: How the recipe names it.
        file_name: The file's name.
        sha256: The file's digest as it is now.
        shares: Its categories, the largest first.
    """

    source: str
    file_name: str
    sha256: str
    shares: tuple[CategoryShare, ...]


def read_compositions(origin: str, tokenizer: Tokenizer | None) -> list[Composition]:
    """Reads the file, or the files of a mix, that a manifest's input names.

    Args:
        origin: The data set as manifests say it: `set=apparel-ja samples=64`. A relative
            `path` is not looked up, for manifests do not keep the recipe's place.
        tokenizer: Counts tokens.

    Raises:
        InputError: A file is not known from here, or can't be read.
    """
    parts = [MIX.sub("", origin).strip(), *MIX.findall(origin)]
    return [_read_composition(dict(WORD.findall(part)), tokenizer) for part in parts]


def _read_composition(words: dict[str, str], tokenizer: Tokenizer | None) -> Composition:
    given: dict[str, Any] = {key: words[key] for key in SOURCE_KEYS if key in words}
    if not given.keys() & {"set", "path"}:
        raise InputError("its file is not on this machine's disk under a name that is known here")
    if "path" in given and not expand_home(given["path"]).is_absolute():
        raise InputError("its path is relative to a recipe's folder, which is not known here")
    spec = DatasetSpec(**given)
    file = spec.locate(Path())
    documents = read_documents(file, spec.field)
    source = " ".join(f"{key}={value}" for key, value in given.items())
    return Composition(source, file.name, digest_file(file), _count(documents, tokenizer))


def _count(documents: list[Document], tokenizer: Tokenizer | None) -> tuple[CategoryShare, ...]:
    by_category: dict[str, list[str]] = {}
    for document in documents:
        by_category.setdefault(document.category, []).append(_text(document))
    shares = [
        CategoryShare(
            category,
            len(texts),
            sum(map(len, texts)),
            None if tokenizer is None else _count_tokens(texts, tokenizer),
        )
        for category, texts in by_category.items()
    ]
    return tuple(sorted(shares, key=_rank))


def _rank(share: CategoryShare) -> tuple[int, str]:
    size = share.num_characters if share.num_tokens is None else share.num_tokens
    return -size, share.category


def _count_tokens(texts: Iterable[str], tokenizer: Tokenizer) -> int:
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return sum(len(encoding.ids) for encoding in encoded)


def _text(document: Document) -> str:
    if document.messages is None:
        return document.text or ""
    return "\n\n".join(turn["content"] for turn in document.messages)
