"""JSON files beside a model."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from llmopt.triton.checks.report import Fault
from llmopt.triton.checks.repository import ServedModel

Contents = TypeVar("Contents", bound=BaseModel)
MAX_VALUE_LENGTH = 60
ANEW = "make the repository anew"


def read_json(path: Path) -> dict[str, Any] | list[Any] | str:
    """Returns a file's object or list; where there is none, what it is instead."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "missing"
    except IsADirectoryError:
        return "a folder"
    except (ValueError, RecursionError) as error:
        return f"no JSON ({error})"
    return data if isinstance(data, dict | list) else f"JSON of {type(data).__name__}"


def read_contents(
    model: ServedModel, version: int, name: str, contents: type[Contents]
) -> Contents | list[Fault]:
    """Returns what a file of llmopt's own code holds, or each field of it that is wrong.

    Args:
        model: Whose file it is.
        version: Its folder.
        name: Of the file.
        contents: What it has to hold.
    """
    file, path = f"{version}/{name}", model.versions[version] / name
    read = read_json(path)
    if not isinstance(read, dict):
        found = "JSON of list" if isinstance(read, list) else read
        return [model.fault("", f"is {found}", "a JSON object is needed", ANEW, file)]
    try:
        return contents.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        known = ", ".join(contents.model_fields)
        return [
            model.fault(*_describe(each, known), ANEW, file)
            for each in error.errors(include_url=False)
        ]


def _describe(error: ErrorDetails, known: str) -> tuple[str, str, str]:
    """Returns field, what was found there and what is allowed."""
    place = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return place, "is missing", "the model's code reads it"
    if error["type"] == "extra_forbidden":
        return place, "is not known", f"{known} are allowed"
    if error["type"] == "json_invalid":
        return place, f"is no JSON ({error['ctx']['error']})", "a JSON object is needed"
    allowed = error["msg"].removeprefix("Input should be ")
    return place, f"is {shorten(error['input'])}", f"{allowed[:1].lower()}{allowed[1:]} is allowed"


def shorten(value: Any) -> str:
    """Writes a value as JSON does, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}…"
