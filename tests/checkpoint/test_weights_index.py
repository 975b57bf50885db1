import json
from pathlib import Path

import pytest
import torch

from llmopt.checkpoint.tensor_files import write_tensors
from llmopt.checkpoint.weights_index import INDEX_NAME, index_tensors, list_weight_files
from llmopt.errors import InputError


def write_index(folder: Path, weight_map: object) -> None:
    """Writes an index of any kind."""
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / INDEX_NAME).write_text(text, encoding="utf-8")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A folder of two shards, `a` and `b` in the first, `c` in the second."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_tensors(folder / "one.safetensors", {"a": torch.ones(1), "b": torch.ones(2)})
    write_tensors(folder / "two.safetensors", {"c": torch.ones(3)})
    write_index(folder, {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})
    return folder


def test_finds_tensors_in_all_shards(sharded: Path) -> None:
    entries = index_tensors(sharded)
    found = {name: (entry.file.name, entry.shape) for name, entry in entries.items()}
    assert found == {
        "a": ("one.safetensors", (1,)),
        "b": ("one.safetensors", (2,)),
        "c": ("two.safetensors", (3,)),
    }


@pytest.mark.parametrize("name", ["model.safetensors", "consolidated.safetensors"])
def test_one_file_of_any_name_needs_no_index(tmp_path: Path, name: str) -> None:
    write_tensors(tmp_path / name, {"a": torch.ones(1)})
    assert list(index_tensors(tmp_path)) == ["a"]


def test_many_files_without_an_index(sharded: Path) -> None:
    (sharded / INDEX_NAME).unlink()
    with pytest.raises(InputError, match=f"holds 2 safetensors files but no {INDEX_NAME}"):
        index_tensors(sharded)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no weights: neither model\.safetensors nor"):
        index_tensors(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickle_is_refused_and_says_how_to_convert(tmp_path: Path, name: str) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / name)
    with pytest.raises(InputError, match=rf"{name} is a pickle checkpoint") as caught:
        index_tensors(tmp_path)
    assert "save_pretrained" in str(caught.value.remedy)


def test_pickle_beside_safetensors_is_left_alone(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"a": torch.ones(1)})
    (tmp_path / "training_args.bin").write_bytes(b"never read")
    assert list(index_tensors(tmp_path)) == ["a"]


def test_missing_shard(sharded: Path) -> None:
    (sharded / "two.safetensors").unlink()
    with pytest.raises(InputError, match=r"names two\.safetensors, which is missing") as caught:
        list_weight_files(sharded)
    assert "download" in str(caught.value.remedy)


@pytest.mark.parametrize(
    "name", ["../evil.safetensors", "/etc/passwd", "sub/evil.safetensors", "..", ".", "", "sub"]
)
def test_index_can_not_leave_its_folder(sharded: Path, name: str) -> None:
    write_tensors(sharded.parent / "evil.safetensors", {"a": torch.ones(1)})
    (sharded / "sub").mkdir()
    write_tensors(sharded / "sub" / "evil.safetensors", {"a": torch.ones(1)})
    write_index(sharded, {"a": name})
    with pytest.raises(InputError, match=r"names '.*', which is not a file of that folder"):
        index_tensors(sharded)


def test_tensor_in_two_shards(sharded: Path) -> None:
    write_tensors(sharded / "two.safetensors", {"b": torch.ones(2), "c": torch.ones(3)})
    pattern = r"tensor b is in both .*one\.safetensors and .*two\.safetensors"
    with pytest.raises(InputError, match=pattern):
        index_tensors(sharded)


def test_tensor_in_the_index_alone(sharded: Path) -> None:
    write_tensors(sharded / "one.safetensors", {"a": torch.ones(1)})
    with pytest.raises(InputError, match="lists tensor b, but no weights file holds it"):
        index_tensors(sharded)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"{}",
        b'{"weight_map": null}',
        b'{"weight_map": ["a"]}',
        b"[" * 200_000,
    ],
)
def test_index_that_is_none(sharded: Path, text: bytes) -> None:
    (sharded / INDEX_NAME).write_bytes(text)
    with pytest.raises(InputError, match=f"{INDEX_NAME} is no safetensors index"):
        index_tensors(sharded)


def test_truncated_shard_is_named(sharded: Path) -> None:
    path = sharded / "two.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    pattern = r"two\.safetensors is truncated.*tensor c ends 3 bytes past the end"
    with pytest.raises(InputError, match=pattern):
        index_tensors(sharded)
