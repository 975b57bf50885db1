import json
import re
from pathlib import Path

import pytest
import torch

from llmopt.artifacts.manifest import LayerError
from llmopt.checkpoint.tensor_files import read_tensor
from llmopt.quant.journal import Journal

MACHINE = {"device": "cpu", "compute_dtype": "torch.bfloat16"}


def record_block(journal: Journal, block: int) -> None:
    """Records a block whose contents tell its number."""
    error = LayerError(layer=f"layer-{block}", loss=block / 7, snr_db=None, weight_mse=0.1)
    hidden = {f"{k:05d}": torch.full((2, 3), float(10 * block + k)) for k in range(11)}
    journal.record({f"block.{block}.q": torch.full((4,), block)}, [error], hidden)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The scratch of a run that finished two blocks."""
    journal = Journal(tmp_path / "scratch", MACHINE, num_threads=1)
    for block in range(2):
        record_block(journal, block)
    return tmp_path / "scratch"


def test_new_folder_is_empty_and_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "scratch", MACHINE, num_threads=1)
    assert (journal.num_done, journal.errors, journal.damage) == (0, [], None)
    assert journal.packed_tensors() == {}


def test_next_run_finds_what_was_recorded(folder: Path) -> None:
    journal = Journal(folder, MACHINE, num_threads=1)
    assert journal.damage is None
    assert journal.num_done == 2
    assert [(error.layer, error.loss) for error in journal.errors] == [
        ("layer-0", 0.0),
        ("layer-1", 1 / 7),
    ]
    packed = {name: read_tensor(entry).tolist() for name, entry in journal.packed_tensors().items()}
    assert packed == {"block.0.q": [0] * 4, "block.1.q": [1] * 4}


def test_data_comes_back_in_the_batches_order(folder: Path) -> None:
    hidden = Journal(folder, MACHINE, num_threads=1).read_hidden()
    assert [float(batch[0, 0]) for _, batch in hidden] == [10.0 + batch for batch in range(11)]


def test_only_the_newest_data_is_kept(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "block-00000.safetensors",
        "block-00001.safetensors",
        "hidden-00002.safetensors",
        "journal.json",
    ]


def test_goes_on_after_what_was_recorded(folder: Path) -> None:
    record_block(Journal(folder, MACHINE, num_threads=1), 2)
    journal = Journal(folder, MACHINE, num_threads=1)
    assert journal.num_done == 3
    assert list(journal.packed_tensors()) == ["block.0.q", "block.1.q", "block.2.q"]
    assert float(next(journal.read_hidden())[1][0, 0]) == 20


def test_added_blocks_count_from_the_commit_on(folder: Path) -> None:
    journal = Journal(folder, MACHINE, num_threads=1)
    for block in (2, 3):
        error = LayerError(layer=f"layer-{block}", loss=0.5, snr_db=None, weight_mse=0.1)
        journal.add({f"block.{block}.q": torch.full((4,), block)}, [error])
    killed = Journal(folder, MACHINE, num_threads=1)
    assert (killed.num_done, killed.damage) == (2, None)
    assert float(next(killed.read_hidden())[1][0, 0]) == 10
    journal.commit({"00000": torch.full((2, 3), 30.0)})
    after = Journal(folder, MACHINE, num_threads=1)
    assert after.num_done == 4
    assert [error.layer for error in after.errors] == [f"layer-{block}" for block in range(4)]
    assert list(after.packed_tensors()) == [f"block.{block}.q" for block in range(4)]
    assert float(next(after.read_hidden())[1][0, 0]) == 30
    assert [path.name for path in folder.glob("hidden-*")] == ["hidden-00004.safetensors"]


def test_without_data_no_data_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path, MACHINE, num_threads=1)
    journal.record({"q": torch.ones(1)}, [], None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["block-00000.safetensors", "journal.json"]
    assert Journal(tmp_path, MACHINE, num_threads=1).num_done == 1


def test_files_that_the_journal_does_not_name_do_not_count(folder: Path) -> None:
    # A run that was killed before it wrote the journal leaves the next block's files.
    (folder / "block-00002.safetensors").write_bytes(b"half a fi")
    (folder / "hidden-00003.safetensors").write_bytes(b"")
    (folder / "block-00002.tmp").write_bytes(b"half")
    journal = Journal(folder, MACHINE, num_threads=1)
    assert (journal.num_done, journal.damage) == (2, None)
    record_block(journal, 2)
    assert Journal(folder, MACHINE, num_threads=1).num_done == 3


@pytest.mark.parametrize("name", ["block-00000.safetensors", "hidden-00002.safetensors"])
@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        ("delete", "is missing"),
        ("truncate", r"has \d+ bytes, \d+ were written"),
        ("flip a bit", "has other contents than were written"),
    ],
)
def test_damaged_work_is_thrown_away(folder: Path, name: str, harm: str, fault: str) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    if harm == "delete":
        path.unlink()
    elif harm == "truncate":
        path.write_bytes(content[:-1])
    else:
        content[-1] ^= 1
        path.write_bytes(content)
    journal = Journal(folder, MACHINE, num_threads=1)
    assert re.fullmatch(f"{name} {fault}", str(journal.damage))
    assert (journal.num_done, journal.errors) == (0, [])
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"num_done": 2}', '{"num_done": "two"}'])
def test_torn_journal_is_thrown_away(folder: Path, text: str) -> None:
    (folder / "journal.json").write_text(text)
    journal = Journal(folder, MACHINE, num_threads=1)
    assert journal.damage == "journal.json is torn or of another version"
    assert journal.num_done == 0
    assert list(folder.iterdir()) == []


def test_journal_vouches_for_every_file(folder: Path) -> None:
    state = json.loads((folder / "journal.json").read_text())
    assert sorted(state["files"]) == sorted(p.name for p in folder.glob("*.safetensors"))


def test_work_of_another_machine_is_not_gone_on_with(folder: Path) -> None:
    journal = Journal(folder, {**MACHINE, "device": "cuda"}, num_threads=1)
    assert journal.num_done == 0
    assert journal.damage is not None
    assert "cuda" in journal.damage
