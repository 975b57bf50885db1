"""Reads the documents of a data set: plain texts or chats, each with its category."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmopt.data.dataset_spec import Template
from llmopt.data.table_files import decode_json, parse_csv, parse_json, read_parquet
from llmopt.errors import InputError

UNCATEGORISED = "uncategorised"
KINDS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet", ".txt")


@dataclass(frozen=True)
class Document:
    """One document; exactly one of `text` and `messages` is set.

    Attributes:
        origin: Where it came from, for messages: `file:line` or `file#row`.
        category: What kind of document it is.
        text: Plain text.
        messages: Chat turns, each with `role` and `content`.
        template: How it is rendered, where its part of a mix says so; else as the data set says.
    """

    origin: str
    category: str
    text: str | None = None
    messages: tuple[dict[str, str], ...] | None = None
    template: Template | None = None

    def join_text(self) -> str:
        """Returns the text, or the turns' contents joined by line breaks."""
        if self.messages is None:
            return self.text or ""
        return "\n".join(turn["content"] for turn in self.messages)


def find_kind(path: Path) -> str:
    """Returns which of `KINDS` a file is, by its name.

    Raises:
        InputError: None of them.
    """
    kind = next((kind for kind in KINDS if path.name.lower().endswith(kind)), None)
    if kind is None:
        raise InputError(
            f"data set file {path} is of no kind that can be read; allowed: {', '.join(KINDS)}"
        )
    return kind


def read_documents(path: Path, field: str | None = None) -> list[Document]:
    """Reads every document of a file.

    Args:
        path: The file, of one of `KINDS`.
        field: The field that holds a document; default `messages` if present, else `text`.

    Raises:
        InputError: An unknown kind of file, another encoding, a malformed row, or no document.
    """
    kind = find_kind(path)
    if kind == ".txt":
        documents = list(_parse_text(path))
    elif kind.startswith(".jsonl"):
        documents = [
            parse_row(origin, decode_json(line, origin), field)
            for number, line in enumerate(read_utf8(path, kind).split("\n"), start=1)
            if line.strip()
            for origin in [f"{path}:{number}"]
        ]
    else:
        documents = parse_rows(str(path), read_table(path, kind), field)
    if not documents:
        raise InputError(f"data set file {path} holds no document")
    return documents


def parse_rows(source: str, rows: Sequence[Any], field: str | None) -> list[Document]:
    """Reads a table's rows; their origins are `source#row`, from 1.

    Raises:
        InputError: A row is no document.
    """
    return [parse_row(f"{source}#{number}", row, field) for number, row in enumerate(rows, start=1)]


def parse_row(origin: str, row: Any, field: str | None) -> Document:
    """Reads one row.

    Raises:
        InputError: It is no object, lacks the field, or the field holds neither text nor chat.
    """
    if not isinstance(row, Mapping):
        raise InputError(f"{origin}: a row is a JSON object, this is {type(row).__name__}")
    name = field or ("messages" if row.get("messages") is not None else "text")
    if name not in row:
        raise InputError(f"{origin}: the row has no field {name!r}; it has: {', '.join(row)}")
    category = row.get("category")
    category = UNCATEGORISED if category is None else str(category)
    value = row[name]
    if isinstance(value, str):
        return Document(origin, category, text=value)
    return Document(origin, category, messages=_parse_messages(origin, name, value))


def order_documents(documents: Sequence[Document], seed: int) -> list[Document]:
    """Puts documents into an order that depends on the seed and their place alone."""
    return [documents[index] for index in order_indices(len(documents), seed)]


def order_indices(count: int, seed: int) -> list[int]:
    """Orders 0 … count-1 by SHA-256, so it is the same on every machine and Python version."""

    def key(index: int) -> str:
        return hashlib.sha256(f"{seed}:{index}".encode()).hexdigest()

    return sorted(range(count), key=key)


def read_table(path: Path, kind: str) -> list[Any]:
    """Reads the rows of a .json, .csv or .parquet file.

    Raises:
        InputError: The file can't be read as such.
    """
    if kind == ".parquet":
        return read_parquet(path)
    parse = parse_json if kind == ".json" else parse_csv
    return parse(read_utf8(path, kind), path)


def _parse_text(path: Path) -> Iterator[Document]:
    for number, part in enumerate(read_utf8(path, ".txt").split("\n\n"), start=1):
        if part.strip():
            yield Document(f"{path}#{number}", UNCATEGORISED, text=part.strip())


def read_utf8(path: Path, kind: str) -> str:
    """Reads a file as text, unpacked; a byte order mark and carriage returns leave no trace.

    Raises:
        InputError: There is no such file, it is not UTF-8, or no whole gzip file.
    """
    try:
        data = path.read_bytes()
        if kind.endswith(".gz"):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise InputError(f"data set file {path} does not exist") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"data set file {path} is no whole gzip file: {error}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"data set file {path} is not UTF-8: byte 0x{error.object[error.start]:02x} "
            f"at offset {error.start}",
            remedy=f"convert it, for example: iconv -f SHIFT_JIS -t UTF-8 {path.name}",
        ) from None


def _parse_messages(origin: str, name: str, value: Any) -> tuple[dict[str, str], ...]:
    messages = value if isinstance(value, list) else []
    parsed = tuple(
        {"role": turn["role"], "content": turn["content"]}
        for turn in messages
        if isinstance(turn, dict)
        and isinstance(turn.get("role"), str)
        and isinstance(turn.get("content"), str)
    )
    if not parsed or len(parsed) != len(messages):
        raise InputError(f"{origin}: {name} is neither a text nor a list of {{role, content}}")
    return parsed
