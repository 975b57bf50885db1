"""Reads the rows of a set without stopping at the first malformed one."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llmopt.data.documents import Document, parse_row, read_documents, read_utf8
from llmopt.data.lint.finding import Place
from llmopt.errors import InputError


@dataclass(frozen=True)
class Row:
    """One document of a set.

    Attributes:
        document: The document.
        text: Its text, or its turns' contents joined by line breaks.
        lang: The language that the row claims; None where it claims none.
    """

    document: Document
    text: str
    lang: str | None = None

    @property
    def origin(self) -> str:
        """Where the row came from: `file:line`."""
        return self.document.origin


@dataclass(frozen=True)
class ReadRows:
    """What a file holds: its documents, and the rows that are none."""

    rows: tuple[Row, ...]
    malformed: tuple[Place, ...] = ()


def read_rows(path: Path, field: str | None = None) -> ReadRows:
    """Reads a data set file; malformed lines of a .jsonl file are kept apart.

    Raises:
        InputError: The file can't be read at all, or holds no row.
    """
    if path.suffix != ".jsonl":
        return ReadRows(tuple(make_row(document) for document in read_documents(path, field)))
    rows: list[Row] = []
    malformed: list[Place] = []
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        origin = f"{path}:{number}"
        try:
            document = parse_row(origin, line, field)
        except InputError as error:
            malformed.append(Place(origin, error.message.removeprefix(f"{origin}: ")))
        else:
            rows.append(make_row(document, _read_lang(line)))
    if not rows and not malformed:
        raise InputError(f"data set file {path} holds no document")
    return ReadRows(tuple(rows), tuple(malformed))


def join_reads(reads: Iterable[ReadRows]) -> ReadRows:
    """Joins what several files hold."""
    reads = list(reads)
    return ReadRows(
        tuple(row for read in reads for row in read.rows),
        tuple(place for read in reads for place in read.malformed),
    )


def make_row(document: Document, lang: str | None = None) -> Row:
    """Makes a row of a document."""
    if document.messages is None:
        return Row(document, document.text or "", lang)
    return Row(document, "\n".join(turn["content"] for turn in document.messages), lang)


def _read_lang(line: str) -> str | None:
    lang = json.loads(line).get("lang")
    return lang if isinstance(lang, str) else None
