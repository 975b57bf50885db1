"""Judges answers by exact match, after Unicode's NFKC (docs/techpack-tasks.md).

A judgement is a sentence that says what is wrong, or None where nothing is.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

import jsonschema
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from llmopt.data.task_items import (
    Check,
    ChoiceCheck,
    CopyCheck,
    GradingCheck,
    JsonCheck,
    TaskItem,
)
from llmopt.errors import InputError

FENCED = re.compile(r"```\w*\n(.*?)\n?```", re.DOTALL)
QUANTITY = re.compile(r"([+±-]?\d[\d,]*(?:\.\d+)?)\s*(\S.*)", re.DOTALL)
QUANTITY_SEPARATOR = re.compile(r"[、;\n]|,\s+|(?<!\d),")  # not the comma of 1,850
CELL_SEPARATOR = re.compile(r"[\s|,、:]+")
TABLE_RULE = re.compile(r"[\s|:-]*-[\s|:-]*")
MINUS_SIGN = "\u2212"
MAX_SHOWN = 60  # characters of an answer that a reason repeats


def judge_answer(check: Check, answer: str) -> str | None:
    """Returns why an answer is wrong; None where it is right."""
    match check:
        case JsonCheck():
            return _judge_json(check, answer)
        case CopyCheck():
            return _judge_copy(check, answer)
        case GradingCheck():
            return _judge_grading(check, answer)
        case ChoiceCheck():
            return _judge_choice(check, answer)


def verify_items(items: Sequence[TaskItem]) -> None:
    """Holds every item against itself.

    Raises:
        InputError: A schema is none, an item's own answer is wrong, or a planted wrong one right.
    """
    for item in items:
        if isinstance(item.check, JsonCheck):
            try:
                jsonschema.Draft202012Validator.check_schema(item.check.json_schema)
            except SchemaError as error:
                raise InputError(f"task {item.id}: json_schema: {error.message}") from None
        reason = judge_answer(item.check, item.answer)
        if reason is not None:
            raise InputError(f"task {item.id}: its own answer does not pass its check: {reason}")
        for distractor in item.distractors:
            if judge_answer(item.check, distractor) is None:
                raise InputError(f"task {item.id}: the distractor {distractor!r} passes its check")


def _judge_json(check: JsonCheck, answer: str) -> str | None:
    try:
        document = json.loads(
            _strip_fence(answer),
            object_pairs_hook=_refuse_duplicate_keys,
            parse_constant=_refuse_constant,
        )
        validator = jsonschema.Draft202012Validator(check.json_schema, registry=Registry())
        fault = next(iter(validator.iter_errors(document)), None)
    except Unresolvable as error:
        raise InputError(f"json_schema can't be applied: {error}") from None
    except (ValueError, RecursionError) as error:
        return f"not valid JSON: {error}"
    if fault is not None:
        return f"against the schema at {fault.json_path}: {fault.message}"
    for pointer, expected in check.values.items():
        try:
            found = _resolve_pointer(document, pointer)
        except LookupError:
            return f"nothing at {pointer}"
        if not _is_same(found, expected):
            return f"{pointer} is {_show(json.dumps(found, ensure_ascii=False))}, not {expected!r}"
    return None


def _judge_copy(check: CopyCheck, answer: str) -> str | None:
    found = []
    for part in QUANTITY_SEPARATOR.split(_normalise(answer)):
        match = QUANTITY.fullmatch(part.strip())
        if match is None:
            return f"{_show(part.strip())} is no number with a unit"
        found.append((match[1], match[2]))
    expected = [(_normalise(number), _normalise(unit)) for number, unit in check.quantities]
    for number, (got, wanted) in enumerate(zip(found, expected, strict=False), start=1):
        if got != wanted:
            return f"quantity {number} is {_show(' '.join(got))}, not {' '.join(wanted)}"
    if len(found) != len(expected):
        return f"{len(found)} quantities, not {len(expected)}"
    return None


def _judge_grading(check: GradingCheck, answer: str) -> str | None:
    lines = [line.strip() for line in _normalise(_strip_fence(answer)).splitlines()]
    rows = [_split_cells(line) for line in lines if line and not TABLE_RULE.fullmatch(line)]
    for number, (got, expected) in enumerate(zip(rows, check.rows, strict=False), start=1):
        wanted = [_normalise(cell) for cell in expected]
        if len(got) != len(wanted) or not all(map(_is_same_cell, got, wanted)):
            return f"row {number} is {_show(' '.join(got))}, not {' '.join(wanted)}"
    if len(rows) != len(check.rows):
        return f"{len(rows)} rows, not {len(check.rows)}"
    return None


def _judge_choice(check: ChoiceCheck, answer: str) -> str | None:
    found = _normalise(answer)
    if found == _normalise(check.label):
        return None
    if found in map(_normalise, check.labels):
        return f"{_show(found)} is another label than {check.label}"
    return f"{_show(found)} is no label ({', '.join(check.labels)})"


def _normalise(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace(MINUS_SIGN, "-").strip()


def _strip_fence(answer: str) -> str:
    """Takes a code fence off that holds the whole answer; chat models write one around JSON."""
    match = FENCED.fullmatch(answer.strip())
    return answer if match is None else match[1]


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(f"the key {repeated[0]!r} occurs twice")
    return dict(pairs)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _resolve_pointer(document: Any, pointer: str) -> Any:
    """Follows a JSON Pointer (RFC 6901, section 4).

    Raises:
        LookupError: Nothing is there.
    """
    node = document
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and re.fullmatch(r"0|[1-9]\d*", key):
            node = node[int(key)]
        elif isinstance(node, dict):
            node = node[key]
        else:
            raise KeyError(key)
    return node


def _is_same(found: Any, expected: Any) -> bool:
    """Compares JSON values: strings after NFKC, 52 equals 52.0, true is not 1."""
    if isinstance(found, str) and isinstance(expected, str):
        return _normalise(found) == _normalise(expected)
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(_is_same, found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        same_keys = found.keys() == expected.keys()
        return same_keys and all(_is_same(found[key], expected[key]) for key in found)
    return bool(found == expected)


def _split_cells(line: str) -> list[str]:
    return [cell for cell in CELL_SEPARATOR.split(line) if cell]


def _is_same_cell(found: str, expected: str) -> bool:
    try:
        return Decimal(found) == Decimal(expected)
    except InvalidOperation:
        return found == expected


def _show(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")
