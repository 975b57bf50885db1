"""Reads the rows of a set without stopping at the first malformed one."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from llmopt.data.documents import (
    Document,
    find_kind,
    parse_row,
    read_documents,
    read_table,
    read_utf8,
)
from llmopt.data.lint.finding import Place
from llmopt.data.table_files import decode_json
from llmopt.errors import InputError


@dataclass(frozen=True)
class Row:
    """One document of a set.

    Attributes:
        document: The document.
        lang: The language that the row claims; None where it claims none.
    """

    document: Document
    lang: str | None = None

    @cached_property
    def text(self) -> str:
        """Its text, or its turns' contents joined by line breaks."""
        return self.document.join_text()

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
    """Reads a data set file; malformed rows are kept apart.

    Raises:
        InputError: The file can't be read at all, or holds no row.
    """
    kind = find_kind(path)
    if kind == ".txt":
        return ReadRows(tuple(Row(document) for document in read_documents(path, field)))
    rows: list[Row] = []
    malformed: list[Place] = []
    for origin, decode in _list_sources(path, kind):
        try:
            value = decode()
            rows.append(Row(parse_row(origin, value, field), _find_lang(value)))
        except InputError as error:
            malformed.append(Place(origin, error.message.removeprefix(f"{origin}: ")))
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


def _list_sources(path: Path, kind: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Lists origins, each with what gives its row or raises."""
    if not kind.startswith(".jsonl"):
        for number, row in enumerate(read_table(path, kind), start=1):
            yield f"{path}#{number}", partial(_return, row)
        return
    for number, line in enumerate(read_utf8(path, kind).split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", partial(decode_json, line, f"{path}:{number}")


def _return(row: Any) -> Any:
    return row


def _find_lang(row: Any) -> str | None:
    lang = row.get("lang")
    return lang if isinstance(lang, str) else None
