"""Which answers are right, and what is said of the others."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from llmopt.data.task_items import Check, TaskItem, locate_shipped_tasks, read_tasks
from llmopt.errors import InputError
from llmopt.evaluate.answer_checks import judge_answer, verify_items
from tests.models import REPOSITORY

FULL_WIDTH = {ord(d): chr(ord(d) + 0xFEE0) for d in "0123456789"}
SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "string"}, "chest_cm": {"type": "number"}, "ok": {}, "n": {}},
    "required": ["size", "chest_cm"],
    "additionalProperties": False,
}
JSON = {
    "kind": "json",
    "json_schema": SCHEMA,
    "values": {"/size": "M", "/chest_cm": 51.5},
}
COPY = {"kind": "copy", "quantities": [["118", "g/m²"], ["±3.0", "%"], ["1,850", "枚"]]}
GRADING = {"kind": "grading", "rows": [["S", "66", "48.5"], ["M", "68", "51"]]}
CHOICE = {"kind": "choice", "label": "合格", "labels": ["合格", "不合格", "C", "d"]}
SHIPPED = read_tasks(locate_shipped_tasks())


def judge(check: dict[str, Any], answer: str) -> str | None:
    parsed: Check = TypeAdapter[Check](Check).validate_python(check)
    return judge_answer(parsed, answer)


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (JSON, '{"size": "M", "chest_cm": 51.5}'),
        (JSON, ' {"chest_cm":51.50,\n"size":"\uff2d"}\n'),  # full width inside a string
        (JSON, '```json\n{"size": "M", "chest_cm": 5.15e1}\n```'),
        (COPY, "118g/m²、±3.0%、1,850枚"),
        (COPY, "118 g/m2, ±3.0 %, 1,850 枚"),
        (COPY, "118g/m²\n±3.0%\n1,850枚"),
        (GRADING, "S 66 48.5\nM 68 51"),
        (GRADING, "| S | 66.0 | 48.5 |\n|---|---:|---|\n| M | 68 | 51.00 |"),
        (GRADING, "S:66、48.5\n\nM:68、51\n"),
        (CHOICE, "合格"),
        (CHOICE, " 合格\n"),
    ],
)
def test_right_answers(check: dict[str, Any], answer: str) -> None:
    assert judge(check, answer) is None


@pytest.mark.parametrize(
    ("check", "answer", "reason"),
    [
        (JSON, "", "not valid JSON"),
        (JSON, '{"size": "M", "chest_cm": 51.5} 以上です', "not valid JSON: Extra data"),
        (JSON, 'はい\n```json\n{"size": "M", "chest_cm": 51.5}\n```', "not valid JSON"),
        (JSON, '{"size": "M", "chest_cm": 51}', "/chest_cm is '51', not 51.5"),
        (JSON, '{"size": "M", "chest_cm": "51.5"}', r"schema at \$.chest_cm: '51.5' is not of"),
        (JSON, '{"size": "M", "chest_cm": \uff15\uff11}', "not valid JSON"),  # no digits to JSON
        (JSON, '{"size": "M", "chest_mm": 51.5}', "against the schema"),
        (JSON, '{"size": "M"}', "'chest_cm' is a required property"),
        (JSON, '{"size": "L", "size": "M", "chest_cm": 51.5}', "the key 'size' occurs twice"),
        (JSON, '{"size": "M", "chest_cm": NaN}', "NaN is not JSON"),
        (JSON, "[" * 100_000, "not valid JSON"),
        (COPY, "118g/m²、±3.0%", "2 quantities, not 3"),
        (COPY, "118g/m²、±3.0%、1,850枚です", "quantity 3 is '1,850 枚です', not 1,850 枚"),
        (COPY, "118g/m²、3.0%、1,850枚", "quantity 2 is '3.0 %', not ±3.0 %"),
        (COPY, "118g/m²、±3%、1,850枚", "quantity 2"),
        (COPY, "118g、±3.0%、1,850枚", "quantity 1 is '118 g', not 118 g/m2"),
        (COPY, "±3.0%、118g/m²、1,850枚", "quantity 1"),
        (COPY, "118g/m²、±3.0%、1850枚", "quantity 3"),
        (COPY, "118g/m²、±3.0%、1,850枚、", "'' is no number with a unit"),
        (COPY, "答え:118g/m²、±3.0%、1,850枚", "is no number with a unit"),
        (COPY, "118g/m²、±3.0%、1,850枚、5cm", "4 quantities, not 3"),
        (GRADING, "S 66 48.5", "1 rows, not 2"),
        (GRADING, "S 66 48.5\nM 68 51.5", "row 2 is 'M 68 51.5', not M 68 51"),
        (GRADING, "M 68 51\nS 66 48.5", "row 1"),
        (GRADING, "サイズ 着丈 身幅\nS 66 48.5\nM 68 51", "row 1"),
        (GRADING, "S 66cm 48.5cm\nM 68cm 51cm", "row 1"),
        (GRADING, "S 66 48.5\nM 68 51\n以上", "3 rows, not 2"),
        (CHOICE, "不合格", "'不合格' is another label than 合格"),
        (CHOICE, "合格です", "'合格です' is no label"),
        (CHOICE, "合格。", "is no label"),
        (CHOICE, "", "'' is no label"),
    ],
)
def test_wrong_answers_are_told_why(check: dict[str, Any], answer: str, reason: str) -> None:
    told = judge(check, answer)
    assert told is not None
    assert re.search(reason, told), told


@pytest.mark.parametrize(
    ("value", "answer", "right"),
    [
        (1, "1.0", True),
        (1, "true", False),
        (True, "true", True),
        (True, "1", False),
        (None, "null", True),
        (None, "0", False),
        ([1, "a"], '[1, "a"]', True),
        ([1, "a"], '["a", 1]', False),
        ({"a/b": {"~": [2]}}, '{"a/b": {"~": [2]}}', True),
        ({"a": 1}, '{"a": 1, "b": 2}', False),
    ],
)
def test_values_are_compared_as_json(value: Any, answer: str, right: bool) -> None:
    check = {"kind": "json", "json_schema": {}, "values": {"/0/x": value}}
    assert (judge(check, f'[{{"x": {answer}}}]') is None) == right


@pytest.mark.parametrize(
    ("pointer", "found"), [("/a~1b/~0/1", True), ("/a~1b/~0/01", False), ("/a~1b/~0/2", False)]
)
def test_pointers_are_those_of_rfc_6901(pointer: str, found: bool) -> None:
    check = {"kind": "json", "json_schema": {}, "values": {pointer: 7}}
    told = judge(check, '{"a/b": {"~": [6, 7]}}')
    assert told == (None if found else f"nothing at {pointer}")


@pytest.mark.parametrize("item", SHIPPED, ids=lambda item: item.id)
def test_every_shipped_item_tells_right_from_wrong(item: TaskItem) -> None:
    check, answer = item.check, item.answer
    assert judge_answer(check, answer) is None
    for wrong in item.distractors:
        assert judge_answer(check, wrong) is not None, wrong
    for tail in ("。", " 以上です", "\n以上", "\n9 9 9"):
        assert judge_answer(check, answer + tail) is not None
    assert judge_answer(check, answer.translate(FULL_WIDTH)) is None or check.kind == "json"
    for place in [match.start() for match in re.finditer(r"\d", answer)]:
        digit = str((int(answer[place]) + 1) % 10)
        changed = answer[:place] + digit + answer[place + 1 :]
        assert judge_answer(check, changed) is not None, changed


def test_full_width_digits_in_a_json_string_are_the_same() -> None:
    check = {"kind": "json", "json_schema": {}, "values": {"/style": "KB-204"}}
    assert judge(check, '{"style": "KB-\uff12\uff10\uff14"}') is None
    assert judge(check, '{"style": "KB-205"}') is not None


def test_the_items_in_the_docs_are_whole(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "techpack-tasks.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "tasks.jsonl").write_text(block, encoding="utf-8")
    items = read_tasks(tmp_path / "tasks.jsonl")
    verify_items(items)
    assert [item.check.kind for item in items] == ["copy", "grading", "choice", "json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "不合格"}, "task a: its own answer does not pass its check: '不合格' is"),
        ({"distractors": ["C", "合格 "]}, "task a: the distractor '合格 ' passes its check"),
        (
            {"check": {"kind": "json", "json_schema": {"type": "strin"}, "values": {"": 1}}},
            "task a: json_schema: 'strin' is not valid",
        ),
        (
            {
                "answer": "1",
                "check": {
                    "kind": "json",
                    "json_schema": {"$ref": "https://example.invalid/s.json"},
                    "values": {"": 1},
                },
            },
            "json_schema can't be applied: .*example.invalid",
        ),
        (
            {
                "answer": '"x"',
                "check": {"kind": "json", "json_schema": {"pattern": "("}, "values": {"": "x"}},
            },
            "task a: json_schema: '[(]' is not a 'regex'",
        ),
    ],
)
def test_an_item_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    item = {"id": "a", "messages": [{"role": "user", "content": "?"}], "answer": "合格"}
    described = json.dumps({**item, "check": CHOICE, **changes})
    with pytest.raises(InputError, match=message):
        verify_items([TaskItem.model_validate_json(described)])
