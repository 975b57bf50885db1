"""Reads the JSON files beside artifacts, and says in words what is wrong with a damaged one."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from llmopt.errors import InputError

Model = TypeVar("Model", bound=BaseModel)
MAX_FAULTS = 3
MAX_VALUE_LENGTH = 40


def read_json_model(path: Path, model: type[Model], what: str, remedy: str) -> Model:
    """Reads a JSON file into a model.

    Args:
        path: Of the file.
        model: What it holds.
        what: The same in words, such as "a description of an exported model".
        remedy: The way out where it is damaged.

    Raises:
        FileNotFoundError: There is none; the caller knows what that means.
        InputError: It is truncated, of another version, or something else.
    """
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        fault = describe_faults(error)
    except UnicodeDecodeError as error:
        fault = f"byte {error.object[error.start]:#04x} at offset {error.start} is not UTF-8"
    except IsADirectoryError:
        fault = "it is a folder"
    raise InputError(f"{path} is not {what}: {fault}", remedy=remedy)


def describe_faults(error: ValidationError) -> str:
    """Says in one line what a model found wrong: the first faults, and how many more."""
    faults = error.errors(include_url=False)
    texts = [_describe(fault) for fault in faults[:MAX_FAULTS]]
    if len(faults) > MAX_FAULTS:
        texts.append(f"{len(faults) - MAX_FAULTS} more faults")
    return "; ".join(texts)


def _describe(fault: ErrorDetails) -> str:
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "json_invalid":
        return f"no valid JSON ({fault['ctx']['error']})"
    if fault["type"] == "missing":
        return f"{where} is missing"
    if fault["type"] == "extra_forbidden":
        return f"{where} is not known to this version"
    if not where:
        return f"its contents are no JSON object, but {type(fault['input']).__name__}"
    value = repr(fault["input"])
    if len(value) > MAX_VALUE_LENGTH:
        value = f"{value[:MAX_VALUE_LENGTH]}…"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where} is {value}: {message[:1].lower()}{message[1:]}"
