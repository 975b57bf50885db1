"""Reads the documents of a data set: plain texts or chats, each with its category."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmopt.errors import InputError

UNCATEGORISED = "uncategorised"


@dataclass(frozen=True)
class Document:
    """One document; exactly one of `text` and `messages` is set.

    Attributes:
        origin: Where it came from, for messages: `file:line`.
        category: What kind of document it is.
        text: Plain text.
        messages: Chat turns, each with `role` and `content`.
    """

    origin: str
    category: str
    text: str | None = None
    messages: tuple[dict[str, str], ...] | None = None


def read_documents(path: Path, field: str | None = None) -> list[Document]:
    """Reads every document of a .jsonl or .txt file.

    Args:
        path: The file, in UTF-8.
        field: The JSON field that holds a document; default `messages` if present, else `text`.

    Raises:
        InputError: An unknown kind of file, another encoding, a malformed row, or no document.
    """
    text = read_utf8(path)
    if path.suffix == ".jsonl":
        documents = [
            parse_row(f"{path}:{number}", line, field)
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
    elif path.suffix == ".txt":
        parts = [part.strip() for part in text.split("\n\n")]
        documents = [
            Document(f"{path}#{number}", UNCATEGORISED, text=part)
            for number, part in enumerate(parts, start=1)
            if part
        ]
    else:
        raise InputError(f"data set file {path} is neither .jsonl nor .txt")
    if not documents:
        raise InputError(f"data set file {path} holds no document")
    return documents


def order_documents(documents: Sequence[Document], seed: int) -> list[Document]:
    """Puts documents into an order that depends on the seed and their place alone.

    The order comes from SHA-256, so it is the same on every machine and Python version.
    """

    def key(index: int) -> str:
        return hashlib.sha256(f"{seed}:{index}".encode()).hexdigest()

    return [documents[index] for index in sorted(range(len(documents)), key=key)]


def read_utf8(path: Path) -> str:
    """Reads a file as text; a byte order mark and carriage returns leave no trace.

    Raises:
        InputError: There is no such file, or it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise InputError(f"data set file {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"data set file {path} is not UTF-8: byte 0x{error.object[error.start]:02x} "
            f"at offset {error.start}",
            remedy=f"convert it, for example: iconv -f SHIFT_JIS -t UTF-8 {path.name}",
        ) from None


def parse_row(origin: str, line: str, field: str | None) -> Document:
    """Reads one line of a .jsonl file.

    Raises:
        InputError: It is malformed, or holds no document.
    """
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(f"{origin}: half of a surrogate pair, which is no character") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin}: not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise InputError(f"{origin}: a row is a JSON object, this is {type(row).__name__}")
    name = field or ("messages" if "messages" in row else "text")
    if name not in row:
        raise InputError(f"{origin}: the row has no field {name!r}; it has: {', '.join(row)}")
    category = str(row.get("category", UNCATEGORISED))
    value = row[name]
    if isinstance(value, str):
        return Document(origin, category, text=value)
    return Document(origin, category, messages=_parse_messages(origin, name, value))


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
