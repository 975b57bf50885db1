"""Digests of values and files, and the memory that saves hashing twice."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from llmopt.artifacts import digest
from llmopt.artifacts.digest import FileHasher, digest_entries, digest_file, digest_value


def test_a_value_is_named_by_its_canonical_json() -> None:
    assert digest_value({"b": 1, "a": [True, None, "袖"]}) == digest_value(
        {"a": [True, None, "袖"], "b": 1}
    )
    expected = hashlib.sha256('{"a":[1,2.5,"袖"]}'.encode()).hexdigest()
    assert digest_value({"a": [1, 2.5, "袖"]}) == expected
    assert digest_value({"a": 1}) != digest_value({"a": "1"})


@pytest.mark.parametrize("size", [0, 1, 1000, digest.CHUNK_BYTES, digest.CHUNK_BYTES + 1])
def test_a_file_is_named_by_its_sha256(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    assert digest_file(path) == hashlib.sha256(b"x" * size).hexdigest()


def test_a_content_digest_knows_names_and_contents_alone() -> None:
    assert digest_entries({"a": "1", "b": "2"}) == digest_entries({"b": "2", "a": "1"})
    assert digest_entries({"a": "1", "b": "2"}) != digest_entries({"a": "2", "b": "1"})


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Lists the files that were really read."""
    read: list[Path] = []

    def count(path: Path) -> str:
        read.append(path)
        return digest_file(path)

    monkeypatch.setattr(digest, "digest_file", count)
    return read


def test_an_unchanged_file_is_read_once(tmp_path: Path, counted: list[Path]) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    memory = tmp_path / "memory" / "hashes.json"
    first = FileHasher(memory).digest(path)
    assert FileHasher(memory).digest(path) == first == hashlib.sha256(b"abc").hexdigest()
    assert len(counted) == 1
    (tmp_path / "link").symlink_to(path)
    assert FileHasher(memory).digest(tmp_path / "link") == first
    assert len(counted) == 1


def test_a_change_of_the_same_size_is_noticed(tmp_path: Path, counted: list[Path]) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    hasher = FileHasher(tmp_path / "hashes.json")
    hasher.digest(path)
    before = path.stat()
    path.write_bytes(b"abd")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert hasher.digest(path) == hashlib.sha256(b"abd").hexdigest()
    assert len(counted) == 2


def test_a_replaced_file_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    path, other = tmp_path / "weights", tmp_path / "other"
    path.write_bytes(b"abc")
    other.write_bytes(b"abd")
    hasher = FileHasher(tmp_path / "hashes.json")
    hasher.digest(path)
    stat = path.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    assert hasher.digest(path) == hashlib.sha256(b"abd").hexdigest()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": "y"}', '{"x": [1]}'])
def test_a_torn_memory_costs_hashing_again_and_no_more(tmp_path: Path, text: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    memory = tmp_path / "hashes.json"
    memory.write_text(text, encoding="utf-8")
    assert FileHasher(memory).digest(path) == hashlib.sha256(b"abc").hexdigest()
    assert str(path.resolve()) in json.loads(memory.read_text(encoding="utf-8"))


def test_two_hashers_keep_each_others_entries(tmp_path: Path, counted: list[Path]) -> None:
    memory = tmp_path / "hashes.json"
    one, two = FileHasher(memory), FileHasher(memory)
    for name, hasher in [("a", one), ("b", two)]:
        (tmp_path / name).write_bytes(name.encode())
        hasher.digest(tmp_path / name)
    third = FileHasher(memory)
    third.digest(tmp_path / "a")
    third.digest(tmp_path / "b")
    assert len(counted) == 2


def test_a_folders_digest_does_not_depend_on_the_order_of_names(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name, encoding="utf-8")
    hasher = FileHasher(None)
    assert hasher.digest_folder(tmp_path, ["a", "b"]) == hasher.digest_folder(tmp_path, ["b", "a"])
    assert hasher.digest_folder(tmp_path, ["a"]) != hasher.digest_folder(tmp_path, ["b"])
