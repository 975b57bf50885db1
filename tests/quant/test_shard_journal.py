"""A journal vouches for whole shards of the same source and maker, and for nothing else."""

import os
from pathlib import Path

import pytest

from llmopt.artifacts.manifest import LayerError
from llmopt.quant.shard_journal import ShardJournal

MAKER = {"settings": "{}", "device": "cpu"}
NAMES = ("model-1.safetensors", "model-2.safetensors")


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "source").mkdir()
    found = {name: tmp_path / "source" / name for name in NAMES}
    for name, path in found.items():
        path.write_bytes(name.encode())
    return found


@pytest.fixture
def scratch(tmp_path: Path, sources: dict[str, Path]) -> Path:
    """The scratch of a run that finished both shards, the second one first."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    journal = ShardJournal(folder, MAKER, sources)
    for name in reversed(NAMES):
        journal.path(name).write_bytes(b"made of " + name.encode())
        error = LayerError(layer=name[:7], loss=None, snr_db=None, weight_mse=1 / 3)
        journal.record(name, [error])
    return folder


def test_a_new_folder_is_empty(tmp_path: Path, sources: dict[str, Path]) -> None:
    journal = ShardJournal(tmp_path, MAKER, sources)
    assert (journal.finished, journal.errors, journal.damage) == (frozenset(), [], [])


def test_the_next_run_finds_what_was_recorded(scratch: Path, sources: dict[str, Path]) -> None:
    journal = ShardJournal(scratch, MAKER, sources)
    assert journal.damage == []
    assert journal.finished == set(NAMES)
    assert [error.layer for error in journal.errors] == ["model-1", "model-2"]
    assert journal.errors[0].weight_mse == 1 / 3


def test_publishing_keeps_the_shards(scratch: Path, sources: dict[str, Path]) -> None:
    target = scratch.parent / "target"
    target.mkdir()
    ShardJournal(scratch, MAKER, sources).publish(target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        name: b"made of " + name.encode() for name in NAMES
    }
    assert ShardJournal(scratch, MAKER, sources).finished == set(NAMES)


def test_publishing_copies_where_links_do_not_work(
    scratch: Path, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    target = scratch.parent / "target"
    target.mkdir()
    ShardJournal(scratch, MAKER, sources).publish(target)
    assert sorted(path.name for path in target.iterdir()) == list(NAMES)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"short"), "has 5 bytes, 27 were written"),
        (lambda path: path.write_bytes(b"x" * 27), "has other contents than were written"),
    ],
    ids=["missing", "short", "changed"],
)
def test_a_damaged_shard_alone_is_made_anew(
    scratch: Path, sources: dict[str, Path], damage: object, fault: str
) -> None:
    damage(scratch / "shards" / NAMES[0])  # type: ignore[operator]
    journal = ShardJournal(scratch, MAKER, sources)
    assert journal.damage == [f"{NAMES[0]} {fault}"]
    assert journal.finished == {NAMES[1]}
    assert [error.layer for error in journal.errors] == ["model-2"]


def test_a_source_that_changed_is_read_anew(scratch: Path, sources: dict[str, Path]) -> None:
    stat = sources[NAMES[1]].stat()
    os.utime(sources[NAMES[1]], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    journal = ShardJournal(scratch, MAKER, sources)
    assert journal.damage == [f"{NAMES[1]} was made of another file"]
    assert journal.finished == {NAMES[0]}


def test_another_makers_shards_are_cleared(scratch: Path, sources: dict[str, Path]) -> None:
    journal = ShardJournal(scratch, {**MAKER, "device": "cuda"}, sources)
    (damage,) = journal.damage
    assert "'device': 'cpu'" in damage
    assert journal.finished == frozenset()
    assert list((scratch / "shards").iterdir()) == []


def test_a_torn_journal_is_said_to_be_so(scratch: Path, sources: dict[str, Path]) -> None:
    text = (scratch / "shards.json").read_text()
    (scratch / "shards.json").write_text(text[: len(text) // 2])
    journal = ShardJournal(scratch, MAKER, sources)
    assert journal.damage == ["shards.json is torn or of another version"]
    assert journal.finished == frozenset()
