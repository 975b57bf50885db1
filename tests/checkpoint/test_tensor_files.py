import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmopt.checkpoint.safetensors_header import TensorEntry, read_header
from llmopt.checkpoint.tensor_files import (
    TORCH_DTYPES,
    build_header,
    copy_tensors,
    holds_equal_bytes,
    read_elements,
    read_tensor,
    write_tensors,
)
from llmopt.errors import InputError

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
names = st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__")


def make_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Returns a tensor of random values of any dtype."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-100, 100, shape, generator=generator)
    return values > 0 if dtype == torch.bool else values.to(dtype)


def make_tensors() -> dict[str, Tensor]:
    """Returns one tensor of every dtype, a scalar and an empty one."""
    tensors = {name: make_tensor(dtype, (3, 5)) for name, dtype in TORCH_DTYPES.items()}
    tensors["scalar"] = make_tensor(torch.float32, ())
    tensors["empty"] = make_tensor(torch.bfloat16, (4, 0))
    return tensors


def read_all(path: Path) -> dict[str, Tensor]:
    """Reads a file's tensors with llmopt."""
    return {name: read_tensor(entry) for name, entry in read_header(path).items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_safetensors_library_reads_what_is_written(tmp_path: Path) -> None:
    tensors = make_tensors()
    write_tensors(tmp_path / "a.safetensors", tensors)
    assert_same(safetensors.torch.load_file(tmp_path / "a.safetensors"), tensors)
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_reads_what_the_safetensors_library_writes(tmp_path: Path) -> None:
    tensors = make_tensors()
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", {"by": "library"})
    assert_same(read_all(tmp_path / "a.safetensors"), tensors)


@given(specs=st.dictionaries(names, st.tuples(st.sampled_from(list(TORCH_DTYPES)), shapes)))
def test_both_directions_for_any_names_and_shapes(
    tmp_path_factory: pytest.TempPathFactory, specs: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    folder = tmp_path_factory.mktemp("files")
    tensors = {
        name: make_tensor(TORCH_DTYPES[dtype], shape, seed)
        for seed, (name, (dtype, shape)) in enumerate(specs.items())
    }
    ours, theirs = folder / "ours.safetensors", folder / "theirs.safetensors"
    write_tensors(ours, tensors)
    safetensors.torch.save_file(tensors, theirs)
    assert_same(safetensors.torch.load_file(ours), tensors)
    assert_same(read_all(theirs), tensors)


def test_views_are_written_as_they_look(tmp_path: Path) -> None:
    base = make_tensor(torch.float32, (6, 8))
    tensors = {"transposed": base.T, "slice": base[1:5:2, 3:], "expanded": base[:, :1].expand(6, 4)}
    write_tensors(tmp_path / "a.safetensors", tensors)
    assert_same(safetensors.torch.load_file(tmp_path / "a.safetensors"), tensors)


def test_read_tensors_own_their_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(4)})
    tensor = read_tensor(read_header(path)["a"])
    path.unlink()
    tensor += 1
    assert tensor.tolist() == [2.0] * 4


def test_copies_byte_for_byte_in_the_given_order(tmp_path: Path) -> None:
    tensors = make_tensors()
    halves = [dict(list(tensors.items())[:5]), dict(list(tensors.items())[5:])]
    entries: dict[str, TensorEntry] = {}
    for number, half in enumerate(halves):
        write_tensors(tmp_path / f"{number}.safetensors", half)
        entries |= read_header(tmp_path / f"{number}.safetensors")
    backwards = dict(sorted(entries.items(), reverse=True))
    copy_tensors(backwards, tmp_path / "copy.safetensors")
    copied = read_header(tmp_path / "copy.safetensors")
    assert list(copied) == list(backwards)
    assert_same(safetensors.torch.load_file(tmp_path / "copy.safetensors"), tensors)


def test_copies_more_than_one_chunk(tmp_path: Path) -> None:
    big = make_tensor(torch.uint8, ((1 << 24) + 12345,))
    write_tensors(tmp_path / "a.safetensors", {"big": big, "small": torch.ones(3)})
    copy_tensors(read_header(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_header_is_aligned(tmp_path: Path) -> None:
    for length in range(1, 10):
        write_tensors(tmp_path / "a.safetensors", {"n" * length: torch.ones(3)})
        (header_bytes,) = struct.unpack("<Q", (tmp_path / "a.safetensors").read_bytes()[:8])
        assert header_bytes % 8 == 0


@pytest.mark.parametrize("copying", [True, False])
def test_file_that_shrank_after_its_header_was_read(tmp_path: Path, copying: bool) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(1000)})
    entries = read_header(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"a\.safetensors ended 100 bytes too early"):
        copy_tensors(entries, tmp_path / "b") if copying else read_tensor(entries["a"])


def test_dtype_that_torch_lacks_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(InputError, match="F8_E8M0, which llmopt does not read"):
        read_tensor(read_header(path)["a"])


def test_a_slice_is_read_alone(tmp_path: Path) -> None:
    tensor = make_tensor(torch.bfloat16, (7, 5))
    write_tensors(tmp_path / "a.safetensors", {"a": tensor, "b": make_tensor(torch.int8, (3,))})
    entry = read_header(tmp_path / "a.safetensors")["a"]
    assert torch.equal(read_elements(entry, 3, 17), tensor.reshape(-1)[3:17])
    assert read_elements(entry, 5, 5).shape == (0,)


def test_tensors_are_compared_where_they_lie(tmp_path: Path) -> None:
    one = make_tensor(torch.float32, (4, 4))
    changed = one.clone()
    changed[3, 3] += 1
    tensors = {"one": one, "same": one, "changed": changed, "flat": one.reshape(-1)}
    write_tensors(tmp_path / "a.safetensors", {k: v.clone() for k, v in tensors.items()})
    entries = read_header(tmp_path / "a.safetensors")
    found = {name: holds_equal_bytes(entries["one"], entry) for name, entry in entries.items()}
    assert found == {"one": True, "same": True, "changed": False, "flat": False}


def test_a_header_can_be_given_room(tmp_path: Path) -> None:
    specs = [("a", "U8", (3,))]
    header = build_header(specs, 512)
    assert len(header) == 512
    (tmp_path / "a.safetensors").write_bytes(header + b"abc")
    loaded = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert bytes(loaded["a"].tolist()) == b"abc"
