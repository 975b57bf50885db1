"""Files of documents: what is read, what is refused, and in which order it is taken."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmopt.data.documents import (
    UNCATEGORISED,
    Document,
    order_documents,
    order_indices,
    read_documents,
)
from llmopt.errors import InputError

TURNS = [{"role": "user", "content": "綿100%ですか"}, {"role": "assistant", "content": "はい"}]


def write(tmp_path: Path, rows: Sequence[object], name: str = "d.jsonl") -> Path:
    path = tmp_path / name
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def texts(path: Path, field: str | None = None) -> list[str | None]:
    return [document.text for document in read_documents(path, field)]


def test_texts_and_chats_are_told_apart(tmp_path: Path) -> None:
    rows = [{"text": "前身頃", "category": "寸法表"}, {"messages": TURNS}]
    first, second = read_documents(write(tmp_path, rows))
    assert first == Document(f"{tmp_path / 'd.jsonl'}:1", "寸法表", text="前身頃")
    assert (second.text, second.messages) == (None, tuple(TURNS))
    assert second.category == UNCATEGORISED
    assert second.origin.endswith("d.jsonl:2")


def test_messages_come_before_text_and_field_before_both(tmp_path: Path) -> None:
    path = write(tmp_path, [{"text": "a", "messages": TURNS, "body": "b"}])
    assert read_documents(path)[0].messages == tuple(TURNS)
    assert texts(path, "text") == ["a"]
    assert texts(path, "body") == ["b"]
    assert read_documents(path, "messages")[0].messages == tuple(TURNS)


def test_a_byte_order_mark_and_crlf_leave_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes('\ufeff{"text": "一"}\r\n\r\n{"text": "二"}\r\n'.encode())
    assert texts(path) == ["一", "二"]
    assert [document.origin[-2:] for document in read_documents(path)] == [":1", ":3"]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_plain_text_is_parted_by_blank_lines(tmp_path: Path, newline: str) -> None:
    path = tmp_path / "d.txt"
    lines = ["", "第一行", "第二行", "", "", "", "次の文書", "", ""]
    path.write_bytes(("\ufeff" + newline.join(lines)).encode())
    assert texts(path) == ["第一行\n第二行", "次の文書"]


def test_line_separators_inside_a_string_part_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, [{"text": "a\u2028b\x85c\x0bd"}, {"text": "e"}])
    assert texts(path) == ["a\u2028b\x85c\x0bd", "e"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a"}\n{"text": \n', r"d\.jsonl:2: not valid JSON: Expecting value"),
        ('{"text": "a"}{"text": "b"}\n', r"d\.jsonl:1: not valid JSON: Extra data"),
        ('["a"]\n', r"d\.jsonl:1: a row is a JSON object, this is list"),
        ('{"body": "a", "title": "b"}\n', r":1: the row has no field 'text'; it has: body, title"),
        ('{"text": 5}\n', r":1: text is neither a text nor a list of \{role, content\}"),
        ('{"text": null}\n', r":1: text is neither a text nor a list"),
        ('{"messages": []}\n', r":1: messages is neither a text nor a list"),
        ('{"messages": [{"role": "user"}]}\n', r":1: messages is neither a text nor a list"),
        ('{"messages": [{"role": "user", "content": ["a"]}]}\n', r":1: messages is neither"),
        ('{"text": "\\ud800"}\n', r":1: half of a surrogate pair, which is no character"),
        ('{"text": "a", "category": "\\udc00"}\n', r":1: half of a surrogate pair"),
        ('{"text": ' + "[" * 100_000 + "\n", r":1: not valid JSON"),
        ('{"text": ' + "9" * 5000 + "}\n", r":1: not valid JSON"),
        ("", r"d\.jsonl holds no document"),
        ("\n  \n\r\n", r"d\.jsonl holds no document"),
    ],
)
def test_what_is_no_document_is_refused_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(InputError, match=message) as caught:
        read_documents(path)
    assert caught.value.exit_code == 8


@pytest.mark.parametrize("encoding", ["shift_jis", "euc_jp", "utf-16"])
def test_other_encodings_are_refused_with_the_way_to_convert(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes('{"text": "前身頃の寸法を測る"}\n'.encode(encoding))
    with pytest.raises(InputError, match=r"d\.jsonl is not UTF-8: byte 0x[0-9a-f]{2} at") as caught:
        read_documents(path)
    assert caught.value.remedy is not None
    assert "iconv" in caught.value.remedy


def test_unknown_kinds_of_file_and_missing_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"d\.docx is of no kind that can be read; allowed: \.jsonl,"
    ):
        read_documents(write(tmp_path, [{"text": "a"}], "d.docx"))
    with pytest.raises(InputError, match=r"nowhere\.jsonl does not exist"):
        read_documents(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize(
    ("seed", "order"),
    [
        # sha256("SEED:INDEX") in rising order; the order of a recipe's samples for all time.
        (0, [7, 4, 9, 3, 8, 2, 6, 0, 5, 1]),
        (1, [7, 4, 8, 6, 5, 2, 3, 0, 9, 1]),
        (2, [2, 5, 6, 1, 7, 3, 9, 8, 0, 4]),
    ],
)
def test_a_seeds_order_never_changes(seed: int, order: list[int]) -> None:
    documents = [Document(str(index), "c", text=str(index)) for index in range(10)]
    assert [int(document.origin) for document in order_documents(documents, seed)] == order


@given(count=st.integers(0, 300), seed=st.integers(0, 2**64))
def test_an_order_is_a_permutation_of_count_and_seed_alone(count: int, seed: int) -> None:
    order = order_indices(count, seed)
    assert sorted(order) == list(range(count))
    documents = [Document(str(index), "c", text="") for index in range(count)]
    assert [int(d.origin) for d in order_documents(documents, seed)] == order
    # Documents that are added later leave the order of those before as it was.
    assert [index for index in order_indices(count + 5, seed) if index < count] == order


def test_an_order_holds_every_document_once() -> None:
    documents = [Document(str(index), "c", text="x") for index in range(57)]
    ordered = order_documents(documents, 17)
    assert sorted(ordered, key=lambda d: int(d.origin)) == documents
    assert ordered == order_documents(documents, 17)
    assert ordered != order_documents(documents, 18)
    assert order_documents([], 0) == []
