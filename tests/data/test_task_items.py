"""Task files: what is read, and what is refused with its line."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmopt.data.task_items import locate_shipped_tasks, read_tasks, select_tasks
from llmopt.errors import InputError

ITEM: dict[str, Any] = {
    "id": "a",
    "messages": [{"role": "user", "content": "合格ですか"}],
    "answer": "合格",
    "distractors": ["不合格"],
    "check": {"kind": "choice", "label": "合格", "labels": ["合格", "不合格"]},
}


def write(folder: Path, *rows: Any, name: str = "tasks.jsonl") -> Path:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_items_are_read_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, {**ITEM, "id": "b"}, "", ITEM)
    items = read_tasks(path)
    assert [item.id for item in items] == ["b", "a"]
    assert items[0].messages[0].content == "合格ですか"
    assert (items[0].topic, items[0].lang, items[0].distractors) == ("", "", ("不合格",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"tasks\.jsonl:2: not valid JSON"),
        ("[1]", r":2: not a task item: .*valid dictionary"),
        ({**ITEM, "id": "a"}, r":2: the id 'a' occurs twice"),
        ({**ITEM, "id": ""}, "id: .*at least 1 character"),
        ({**ITEM, "anwser": "x"}, "anwser: Extra inputs"),
        ({k: v for k, v in ITEM.items() if k != "answer"}, "answer: Field required"),
        ({**ITEM, "messages": []}, "messages: .*at least 1 item"),
        ({**ITEM, "messages": [{"role": "user"}]}, r"messages\.0\.content: Field required"),
        ({**ITEM, "distractors": [""]}, r"distractors\.0: "),
        ({**ITEM, "check": {"kind": "regex"}}, "check: .*'regex'"),
        (
            {**ITEM, "check": {"kind": "choice", "label": "x", "labels": ["a", "b"]}},
            r"label 'x' is not among labels \['a', 'b'\]",
        ),
        ({**ITEM, "check": {"kind": "copy", "quantities": []}}, "quantities: .*at least 1 item"),
        (r'{"id": "\ud800"}', "half of a surrogate pair"),
    ],
)
def test_a_malformed_item_is_named_by_its_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_tasks(write(tmp_path, ITEM, row))


def test_files_that_hold_no_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl does not exist"):
        read_tasks(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"tasks\.json is not \.jsonl"):
        read_tasks(write(tmp_path, ITEM, name="tasks.json"))
    with pytest.raises(InputError, match="holds no item"):
        read_tasks(write(tmp_path, ""))
    (tmp_path / "sjis.jsonl").write_bytes("合格".encode("shift_jis"))
    with pytest.raises(InputError, match="is not UTF-8"):
        read_tasks(tmp_path / "sjis.jsonl")


def test_a_limit_takes_the_same_items_spread_over_the_set() -> None:
    items = read_tasks(locate_shipped_tasks())
    assert select_tasks(items, None) == items
    chosen = select_tasks(items, 24)
    assert [item.id for item in chosen][:3] == ["json-03", "json-07", "json-12"]
    kinds = Counter(item.check.kind for item in chosen)
    assert kinds == {"json": 6, "copy": 6, "grading": 6, "choice": 6}
    assert select_tasks(items[::-1], 24) == chosen[::-1]
    with pytest.raises(InputError, match=f"limit is 999, but the task set holds {len(items)}"):
        select_tasks(items, 999)
