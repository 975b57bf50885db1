"""A planted mistake, and the edits that it is made of."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Edit = Callable[[Path], None]


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        name: What is wrong, in a few words.
        base: The good repository that it is planted on.
        edits: What makes it wrong.
        message: Part of what llmopt says.
    """

    name: str
    base: str
    edits: tuple[Edit, ...]
    message: str

    def plant(self, folder: Path) -> None:
        """Makes the mistake in a good repository."""
        for edit in self.edits:
            edit(folder)


def replace(file: str, old: str, new: str) -> Edit:
    """Replaces a text that the file holds once."""

    def edit(folder: Path) -> None:
        path = folder / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} holds {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new), encoding="utf-8")

    return edit


def in_config(model: str, old: str, new: str) -> Edit:
    """Replaces a text in a model's config."""
    return replace(f"{model}/config.pbtxt", old, new)


def append(file: str, text: str) -> Edit:
    """Adds text to a file's end."""

    def edit(folder: Path) -> None:
        with (folder / file).open("a", encoding="utf-8") as opened:
            opened.write(text)

    return edit


def add_field(model: str, text: str) -> Edit:
    """Adds a field to a model's config."""
    return append(f"{model}/config.pbtxt", f"{text}\n")


def write(file: str, data: str | bytes) -> Edit:
    """Writes a whole file, and the folders above it."""

    def edit(folder: Path) -> None:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    return edit


def remove(name: str) -> Edit:
    """Removes a file or a folder."""

    def edit(folder: Path) -> None:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return edit


def rename(old: str, new: str) -> Edit:
    """Renames a file or a folder."""

    def edit(folder: Path) -> None:
        (folder / old).rename(folder / new)

    return edit


def set_json(file: str, **fields: Any) -> Edit:
    """Sets fields of a JSON file; a double underscore goes one level down."""

    def edit(folder: Path) -> None:
        path = folder / file
        data = json.loads(path.read_text(encoding="utf-8"))
        for name, value in fields.items():
            *above, last = name.split("__")
            place = data
            for key in above:
                place = place[key]
            place[last] = value
        path.write_text(json.dumps(data), encoding="utf-8")

    return edit


def drop_json(file: str, field: str) -> Edit:
    """Removes a field of a JSON file; a double underscore goes one level down."""

    def edit(folder: Path) -> None:
        path = folder / file
        data = json.loads(path.read_text(encoding="utf-8"))
        *above, last = field.split("__")
        place = data
        for key in above:
            place = place[key]
        del place[last]
        path.write_text(json.dumps(data), encoding="utf-8")

    return edit


def describe(**fields: Any) -> Edit:
    """Sets fields of triton.json."""
    return set_json("triton.json", **fields)
