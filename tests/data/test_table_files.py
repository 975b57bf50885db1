"""JSON, CSV, Parquet and gzip'd files of documents, good and broken."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from llmopt.data.documents import UNCATEGORISED, read_documents
from llmopt.data.table_files import read_snapshot
from llmopt.errors import InputError

TURNS = [{"role": "user", "content": "綿100%ですか"}, {"role": "assistant", "content": "はい"}]
ROWS = [
    {"text": "前身頃\n後身頃", "category": "寸法表", "messages": None},
    {"text": None, "category": None, "messages": TURNS},
    {"text": "2024-01-01", "category": "c", "messages": None},
]


def write_rows(path: Path) -> Path:
    """Writes ROWS in the form that the file's name says."""
    if path.suffix == ".json":
        path.write_text(json.dumps(ROWS, ensure_ascii=False, indent=1), encoding="utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS]
        path.write_bytes(gzip.compress("".join(lines).encode()))
    return path


@pytest.mark.parametrize(
    ("name", "mark"), [("d.json", "#"), ("d[1]*.parquet", "#"), ("d.jsonl.gz", ":")]
)
def test_texts_and_chats_come_from_every_kind_of_file(tmp_path: Path, name: str, mark: str) -> None:
    path = write_rows(tmp_path / name)
    first, second, third = read_documents(path)
    assert (first.text, first.category) == ("前身頃\n後身頃", "寸法表")
    assert (second.text, second.category) == (None, UNCATEGORISED)
    assert second.messages == tuple(TURNS)
    assert third.text == "2024-01-01"
    assert [d.origin for d in (first, third)] == [f"{path}{mark}1", f"{path}{mark}3"]
    assert first.join_text() == "前身頃\n後身頃"
    assert second.join_text() == "綿100%ですか\nはい"


def test_csv_values_stay_the_texts_they_are(tmp_path: Path) -> None:
    path = tmp_path / "d.CSV"
    path.write_bytes('\ufefftext,category\r\n007,NA\r\n\r\n"a, ""b""\r\nc",\r\n'.encode())
    assert [(d.text, d.category) for d in read_documents(path)] == [
        ("007", "NA"),
        ('a, "b"\nc', ""),
    ]
    assert [d.text for d in read_documents(path, "category")] == ["NA", ""]
    assert [d.origin[-2:] for d in read_documents(path)] == ["#1", "#2"]


def test_a_csv_document_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text\n" + "長" * 200_000 + "\n", encoding="utf-8")
    assert len(read_documents(path)[0].text or "") == 200_000


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("d.json", '[{"text": "a"}', r"d\.json: not valid JSON: Expecting ',' delimiter: line 1"),
        ("d.json", '{"text": "a"}\n{"text": "b"}', r"d\.json: not valid JSON: Extra data: line 2"),
        ("d.json", '{"data": []}', r"d\.json: a \.json data set is a list of objects, not dict"),
        ("d.json", '["a"]', r"d\.json#1: a row is a JSON object, this is str"),
        ("d.json", '[{"text": "a"}, {"text": "\\ud800"}]', r"d\.json: half of a surrogate pair"),
        ("d.json", "[]", r"d\.json holds no document"),
        ("d.json", '[{"text": 5}]', r"d\.json#1: text is neither a text nor a list"),
        ("d.csv", "body,title\na,b\n", r"d\.csv#1: the row has no field 'text'; it has: body, ti"),
        ("d.csv", "text,n\na,1\nb, c,2\n", r"d\.csv:3: 3 values under a header of 2: text, n"),
        ("d.csv", "text,n\na\n", r"d\.csv:2: 1 values under a header of 2: text, n"),
        ("d.csv", 'text\n"a\nb\n', r"d\.csv:3: not valid CSV: unexpected end of data"),
        ("d.csv", "text\n", r"d\.csv holds no document"),
        ("d.csv", "", r"d\.csv holds no document"),
        ("d.parquet", "PAR1 and no more", r"d\.parquet can't be read: .*Parquet"),
        ("d.parquet", "", r"d\.parquet can't be read: Parquet file size is 0 bytes"),
        ("d.jsonl.gz", "plain", r"d\.jsonl\.gz is no whole gzip file: Not a gzipped file"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, name: str, data: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(data, encoding="utf-8", newline="")
    with pytest.raises(InputError, match=message) as caught:
        read_documents(path)
    assert "llmopt-" not in str(caught.value)  # nothing of the temporary folder
    assert caught.value.exit_code == 8


def test_parquet_cut_short_or_of_other_types_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"d\.parquet can't be read"):
        read_documents(path)
    # A whole footer over spoilt pages.
    path.write_bytes(whole[:4] + bytes(60) + whole[64:])
    with pytest.raises(InputError, match=r"d\.parquet can't be read"):
        read_documents(path)
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), path)
    with pytest.raises(InputError, match=r"d\.parquet#1: text is neither a text nor a list"):
        read_documents(path)
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(InputError, match=r"d\.parquet holds no document"):
        read_documents(path)


def test_a_gzip_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.jsonl.gz")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"d\.jsonl\.gz is no whole gzip file"):
        read_documents(path)


@pytest.mark.parametrize("name", ["d.json", "d.csv"])
def test_other_encodings_are_refused_with_the_way_to_convert(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes("text\n前身頃の寸法".encode("shift_jis"))
    with pytest.raises(InputError, match=r"is not UTF-8: byte 0x") as caught:
        read_documents(path)
    assert "iconv" in (caught.value.remedy or "")


def test_a_folder_laid_out_as_on_the_hub_is_read_by_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(f'{{"text": "{split}"}}\n', encoding="utf-8")
    (tmp_path / f"{tmp_path.name}.py").write_text("raise SystemExit(9)\n", encoding="utf-8")
    assert read_snapshot(tmp_path, "train", "org/d@main") == [{"text": "train"}]
    assert read_snapshot(tmp_path, "test", "org/d@main") == [{"text": "test"}]
    with pytest.raises(InputError, match=r"org/d@main, split 'dev' can't be read: Unknown split"):
        read_snapshot(tmp_path, "dev", "org/d@main")
    (tmp_path / "train.jsonl").write_text('{"text": \n', encoding="utf-8")
    with pytest.raises(InputError, match=r"split 'train' can't be read: JSON parse error"):
        read_snapshot(tmp_path, "train", "org/d@main")


READ_ALONE = """
import sys
from pathlib import Path
from llmopt.data.documents import read_documents
loaded = lambda: [name for name in ("datasets", "torch", "transformers") if name in sys.modules]
before = loaded()
print(before, len(read_documents(Path(sys.argv[1]))), loaded())
"""


def test_parquet_needs_no_torch_prints_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.parquet")
    home = tmp_path / "hf"
    # No hub could answer here: whatever asked one would fail or wait.
    environment = {"HF_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:1", "PATH": ""}
    command = [sys.executable, "-c", READ_ALONE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[] 3 ['datasets']\n"
    assert done.stderr == ""
    assert not home.exists()
