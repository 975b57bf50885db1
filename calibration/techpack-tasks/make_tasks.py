"""Makes tasks.jsonl from source/*.jsonl: answers, checks and planted wrong answers.

The prompts are written by hand. What follows from them is computed here: the JSON schema of an
answer, the rows of a graded chart, and for each item wrong answers that differ by a digit, a
unit, a key, a step or a label. The same sources give the same bytes:

    python calibration/techpack-tasks/make_tasks.py
"""

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SEED = 20261125
Row = dict[str, Any]
OTHER_UNITS: dict[str, str] = json.loads(
    (FOLDER / "source" / "other_units.json").read_text("utf-8")
)
JSON_TYPES = {bool: "boolean", int: "number", float: "number", str: "string"}


def make_tasks() -> Iterator[Row]:
    """Yields every item, the four kinds one after the other."""
    for kind, finish in FINISHERS.items():
        for line in (FOLDER / "source" / f"{kind}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            yield finish(row, random.Random(f"{SEED}:{row['id']}"))  # noqa: S311 - a fixed choice


def write_tasks() -> None:
    """Writes tasks.jsonl beside this script."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in make_tasks()]
    (FOLDER / "tasks.jsonl").write_text("".join(lines), "utf-8")


def change_digit(text: str, chooser: random.Random) -> str:
    """Replaces one digit of a number by another; the first never becomes 0."""
    places = [match.start() for match in re.finditer(r"\d", text)]
    place = chooser.choice(places)
    digits = "123456789" if place == places[0] else "0123456789"
    other = chooser.choice([d for d in digits if d != text[place]])
    return text[:place] + other + text[place + 1 :]


def finish_copy(row: Row, chooser: random.Random) -> Row:
    """Answer: all quantities in order. Wrong: a digit, a unit, one missing, two swapped."""
    right = [tuple(pair) for pair in row["quantities"]]
    place = chooser.randrange(len(right))
    number, unit = right[place]
    wrong = [
        [*right[:place], (change_digit(number, chooser), unit), *right[place + 1 :]],
        [*right[:place], (number, OTHER_UNITS[unit]), *right[place + 1 :]],
        [pair for index, pair in enumerate(right) if index != place],
        [right[1], right[0], *right[2:]],
    ]
    gap, comma = (" ", ", ") if row["lang"] == "en" else ("", "、")

    def write(pairs: list[tuple[str, ...]]) -> str:
        return comma.join(gap.join(pair) for pair in pairs)

    check = {"kind": "copy", "quantities": row["quantities"]}
    return _item(row, write(right), [write(pairs) for pairs in wrong], check)


def finish_json(row: Row, chooser: random.Random) -> Row:
    """Answer: the object. Wrong: a digit, a key renamed, a key missing, two values exchanged."""
    answer = row["answer"]
    values = dict(list_leaves(answer))
    wrong = [
        damage(answer, pointer, lambda node: json.loads(_other_value(node, chooser)))
        for pointer in chooser.sample(_with_digits(values), 1)
    ]
    pointer = chooser.choice(list(values))
    wrong += [_rename_key(answer, pointer), _drop_key(answer, pointer)]
    first = next(iter(values))
    partner = next(p for p in values if p != first and values[p] != values[first])
    exchanged = damage(answer, first, lambda _: values[partner])
    wrong.append(damage(exchanged, partner, lambda _: values[first]))
    check = {"kind": "json", "json_schema": describe_schema(answer), "values": values}
    return _item(row, _dump(answer), [_dump(value) for value in wrong], check)


def list_leaves(node: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the JSON Pointer and value of everything that is neither object nor array."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from list_leaves(value, f"{pointer}/{key}")
    else:
        yield pointer, node


def describe_schema(node: Any) -> Row:
    """Writes the schema that fits an answer and nothing of another shape."""
    if isinstance(node, dict):
        return {
            "type": "object",
            "properties": {key: describe_schema(value) for key, value in node.items()},
            "required": list(node),
            "additionalProperties": False,
        }
    if isinstance(node, list):
        return {
            "type": "array",
            "items": describe_schema(node[0]),
            "minItems": len(node),
            "maxItems": len(node),
        }
    return {"type": JSON_TYPES[type(node)]}


def damage(answer: Any, pointer: str, change: Callable[[Any], Any]) -> Any:
    """Returns a copy of an answer with one leaf changed."""
    copied = copy.deepcopy(answer)
    parent, key = _find_parent(copied, pointer)
    parent[key] = change(parent[key])
    return copied


def _find_parent(node: Any, pointer: str) -> tuple[Any, Any]:
    *before, last = pointer.split("/")[1:]
    for key in before:
        node = node[int(key) if isinstance(node, list) else key]
    return node, int(last) if isinstance(node, list) else last


def _with_digits(values: Row) -> list[str]:
    return [p for p, v in values.items() if not isinstance(v, bool) and re.search(r"\d", str(v))]


def _other_value(value: Any, chooser: random.Random) -> str:
    while True:
        changed = change_digit(_dump(value), chooser)
        if json.loads(changed) != value:
            return changed


def _rename_key(answer: Any, pointer: str) -> Any:
    copied = copy.deepcopy(answer)
    parent, key = _find_parent(copied, pointer)
    renamed = key[:-3] + "_mm" if key.endswith("_cm") else f"{key}_1"
    items = [(renamed if name == key else name, value) for name, value in parent.items()]
    parent.clear()
    parent.update(items)
    return copied


def _drop_key(answer: Any, pointer: str) -> Any:
    copied = copy.deepcopy(answer)
    parent, key = _find_parent(copied, pointer)
    del parent[key]
    return copied


def finish_grading(row: Row, chooser: random.Random) -> Row:
    """Answer: the rows. Wrong: a digit, the last step, two sizes exchanged, a step left out."""
    chart = grade(row)
    right = [[size, *map(_write, chart[size])] for size in row.get("ask", row["sizes"])]
    line, column = chooser.randrange(len(right)), chooser.randrange(1, len(right[0]))
    changed, broken, exchanged, shifted = (copy.deepcopy(right) for _ in range(4))
    changed[line][column] = change_digit(right[line][column], chooser)
    broken[-1][1] = _write(Decimal(right[-1][1]) + Decimal("0.5"))
    exchanged[0][1:], exchanged[-1][1:] = right[-1][1:], right[0][1:]
    shifted[0][1] = right[1][1]
    if shifted == right:
        shifted[0][1] = _write(Decimal(right[0][1]) - 1)

    def write(rows: list[list[str]]) -> str:
        return "\n".join(" ".join(cells) for cells in rows)

    wrong = [write(rows) for rows in (changed, broken, exchanged, shifted)]
    return _item(row, write(right), wrong, {"kind": "grading", "rows": right})


def grade(row: Row) -> dict[str, list[Decimal]]:
    """Computes each size's measures from the base size and the steps between neighbours."""
    sizes, base = row["sizes"], row["sizes"].index(row["base"])
    chart: dict[str, list[Decimal]] = {size: [] for size in sizes}
    for measure in row["measures"].values():
        given = measure["steps"]
        each = [given] * (len(sizes) - 1) if isinstance(given, str) else given
        steps = [Decimal(step) for step in each]
        for index, size in enumerate(sizes):
            moved = sum(steps[base:index]) - sum(steps[index:base])
            chart[size].append(Decimal(measure["base"]) + moved)
    return chart


def finish_choice(row: Row, chooser: random.Random) -> Row:
    """Answer: the label. Wrong: all the others."""
    wrong = [label for label in row["labels"] if label != row["label"]]
    chooser.shuffle(wrong)
    check = {"kind": "choice", "label": row["label"], "labels": row["labels"]}
    return _item(row, row["label"], wrong, check)


def _write(number: Decimal) -> str:
    return f"{number.normalize():f}"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _item(row: Row, answer: str, wrong: list[str], check: Row) -> Row:
    return {
        "id": row["id"],
        "topic": row["topic"],
        "lang": row["lang"],
        "messages": [{"role": "user", "content": row["prompt"]}],
        "answer": answer,
        "distractors": list(dict.fromkeys(wrong)),
        "check": check,
    }


FINISHERS: dict[str, Callable[[Row, random.Random], Row]] = {
    "json": finish_json,
    "copy": finish_copy,
    "grading": finish_grading,
    "choice": finish_choice,
}

if __name__ == "__main__":
    write_tasks()
