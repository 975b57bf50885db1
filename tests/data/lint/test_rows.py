"""Rows are read past the malformed ones; empty and short documents are told."""

import gzip
from pathlib import Path

import pytest

from llmopt.data.documents import read_documents
from llmopt.data.lint.lengths import find_short, report_malformed
from llmopt.data.lint.rows import join_reads, read_rows
from llmopt.errors import InputError
from tests.data.lint.rows import SHIPPED, list_faults, make_rows, write_lines

GOOD = '{"text": "前身頃に芯を貼る", "category": "sewing", "lang": "ja"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": ', "not valid JSON"),
        ('["前身頃"]', "a row is a JSON object, this is list"),
        ('{"body": "前身頃"}', "the row has no field 'text'; it has: body"),
        ('{"text": 5}', "text is neither a text nor a list"),
        ('{"messages": [{"role": "user"}]}', "messages is neither a text nor a list"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_a_malformed_row_hides_no_other(tmp_path: Path, line: str, message: str) -> None:
    read = read_rows(write_lines(tmp_path / "d.jsonl", GOOD, line, "", GOOD))
    assert [row.origin[-2:] for row in read.rows] == [":1", ":4"]
    (place,) = read.malformed
    assert place.name == "d.jsonl:2"
    assert place.detail.startswith(message)
    finding = report_malformed(read)
    assert finding.severity == "error"
    assert finding.message == "1 of 3 rows can't be read"
    assert finding.rows == read.malformed


def test_rows_are_the_documents_and_their_languages(tmp_path: Path) -> None:
    path = SHIPPED / "heldout.jsonl"
    read = read_rows(path)
    assert [row.document for row in read.rows] == read_documents(path)
    assert {row.lang for row in read.rows} == {"ja", "en", "ja-en"}
    assert report_malformed(read).severity == "info"
    packed = tmp_path / "d.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [row.text for row in read_rows(packed).rows] == [row.text for row in read.rows]


@pytest.mark.parametrize(
    ("name", "text", "lang"),
    [
        ("d.csv", "text,lang\n前身頃,ja\n", "ja"),
        ("d.json", '[{"text": "前身頃", "lang": "ja"}]', "ja"),
        ("d.json", '[{"text": "前身頃", "lang": 1}]', None),
        ("d.txt", "前身頃", None),
    ],
)
def test_other_kinds_of_file(tmp_path: Path, name: str, text: str, lang: str | None) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    (row,) = read_rows(path).rows
    assert (row.text, row.lang) == ("前身頃", lang)


def test_a_malformed_row_of_a_table_is_told_too(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('[{"text": "前身頃"}, {"text": 5}]', encoding="utf-8")
    read = join_reads([read_rows(path), read_rows(path)])
    assert len(read.rows) == 2
    assert [place.name for place in read.malformed] == ["d.json#2", "d.json#2"]


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"d\.jsonl holds no document"):
        read_rows(write_lines(tmp_path / "d.jsonl", "", "  "))
    path = tmp_path / "e.jsonl"
    path.write_bytes('{"text": "前身頃"}'.encode("shift_jis"))
    with pytest.raises(InputError, match=r"e\.jsonl is not UTF-8"):
        read_rows(path)


def test_empty_and_short_documents() -> None:
    rows = make_rows("縫" * 20, "縫" * 19, " \n\u3000", "", "a b " * 10)
    empty, short = find_short(rows)
    assert list_faults([empty]) == {"empty": ["d.jsonl:3", "d.jsonl:4"]}
    assert empty.severity == "error"
    assert list_faults([short]) == {"short": ["d.jsonl:2"]}
    assert (short.severity, short.rows[0].detail) == ("warning", "19 characters")
    assert short.message == "1 of 5 documents have fewer than 20 characters"
