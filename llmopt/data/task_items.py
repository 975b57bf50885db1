"""Reads a task set: prompts whose answers can be checked (docs/techpack-tasks.md)."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from llmopt.data.dataset_spec import SHIPPED_FOLDERS
from llmopt.errors import InputError

SHIPPED_NAME = "techpack-tasks/tasks.jsonl"
CHECK_KINDS = ("json", "copy", "grading", "choice")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class JsonCheck(_Frozen):
    """The answer is JSON that validates against a schema and carries given values.

    `values` maps JSON Pointers (RFC 6901) to what must stand there.
    """

    kind: Literal["json"]
    json_schema: dict[str, JsonValue]
    values: dict[str, JsonValue] = Field(min_length=1)


class CopyCheck(_Frozen):
    """The answer lists exactly these (number, unit), in this order."""

    kind: Literal["copy"]
    quantities: tuple[tuple[str, str], ...] = Field(min_length=1)


class GradingCheck(_Frozen):
    """The answer is exactly these rows of cells, such as ("M", "68.5", "51")."""

    kind: Literal["grading"]
    rows: tuple[tuple[str, ...], ...] = Field(min_length=1)


class ChoiceCheck(_Frozen):
    """The answer is exactly `label`, one of `labels`."""

    kind: Literal["choice"]
    label: str
    labels: tuple[str, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _check_label(self) -> "ChoiceCheck":
        if self.label not in self.labels:
            raise ValueError(f"label {self.label!r} is not among labels {list(self.labels)}")
        return self


Check = Annotated[JsonCheck | CopyCheck | GradingCheck | ChoiceCheck, Field(discriminator="kind")]


class Turn(_Frozen):
    """One turn of the prompt."""

    role: str
    content: str


class TaskItem(_Frozen):
    """One task: a prompt, how its answer is checked, a right answer and planted wrong ones.

    Attributes:
        id: Unique in its set.
        topic: What it is about.
        lang: "ja", "en" or "ja-en".
        messages: The prompt.
        answer: A right answer.
        distractors: Wrong answers that differ by a digit, a unit, a key or a label.
        check: How an answer is judged.
    """

    id: str = Field(min_length=1)
    topic: str = ""
    lang: str = ""
    messages: tuple[Turn, ...] = Field(min_length=1)
    answer: str = Field(min_length=1)
    distractors: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    check: Check


def locate_shipped_tasks() -> Path:
    """Finds the task set that comes with llmopt."""
    return next(f / SHIPPED_NAME for f in SHIPPED_FOLDERS if (f / SHIPPED_NAME).exists())


def read_tasks(path: Path) -> list[TaskItem]:
    """Reads every item of a .jsonl file in UTF-8.

    Raises:
        InputError: No such file, another kind or encoding, a malformed item, an id that occurs
            twice, or no item.
    """
    if path.suffix != ".jsonl":
        raise InputError(f"task file {path} is not .jsonl")
    try:
        # Not splitlines(), for which some characters inside a JSON text end a line, too.
        lines = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except FileNotFoundError:
        raise InputError(f"task file {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise InputError(f"task file {path} is not UTF-8: {error}") from None
    items: dict[str, TaskItem] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        item = _parse_item(f"{path}:{number}", line)
        if item.id in items:
            raise InputError(f"{path}:{number}: the id {item.id!r} occurs twice")
        items[item.id] = item
    if not items:
        raise InputError(f"task file {path} holds no item")
    return list(items.values())


def select_tasks(items: Sequence[TaskItem], limit: int | None) -> list[TaskItem]:
    """Takes `limit` items, evenly over the kinds of check, in the set's order.

    Which ones of a kind is decided by the SHA-256 of their ids, so on every machine the same.

    Raises:
        InputError: There are fewer.
    """
    if limit is None:
        return list(items)
    if limit > len(items):
        raise InputError(f"limit is {limit}, but the task set holds {len(items)} items")
    mixed = sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())
    seen: Counter[str] = Counter()
    ranks: dict[str, tuple[int, int]] = {}
    for position, item in enumerate(mixed):
        ranks[item.id] = (seen[item.check.kind], position)
        seen[item.check.kind] += 1
    chosen = set(sorted(ranks, key=lambda name: ranks[name])[:limit])
    return [item for item in items if item.id in chosen]


def _parse_item(origin: str, line: str) -> TaskItem:
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()
        return TaskItem.model_validate(row)
    except UnicodeEncodeError:
        raise InputError(f"{origin}: half of a surrogate pair, which is no character") from None
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise InputError(
            f"{origin}: not a task item: {'; '.join(faults)}",
            remedy="docs/techpack-tasks.md shows an item of every kind",
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin}: not valid JSON: {error}") from None
