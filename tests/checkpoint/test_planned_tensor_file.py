"""Files written tensor by tensor hold what safetensors' own library reads."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from llmopt.checkpoint.planned_tensor_file import PlannedTensorFile
from llmopt.checkpoint.safetensors_header import ITEM_BYTES, TensorPlan, read_header
from llmopt.checkpoint.tensor_files import SAFETENSORS_DTYPES, as_bytes

DTYPES = [torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.float8_e4m3fn]


def make_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.randint(0, 100, shape).to(dtype)


def plan(tensors: dict[str, Tensor], late: set[str]) -> dict[str, TensorPlan]:
    return {
        name: TensorPlan(
            SAFETENSORS_DTYPES[tensor.dtype], None if name in late else tuple(tensor.shape)
        )
        for name, tensor in tensors.items()
    }


@given(
    kinds=st.lists(
        st.tuples(st.sampled_from(DTYPES), st.integers(0, 3), st.integers(1, 5)), max_size=8
    ),
    late=st.lists(st.integers(0, 2000), max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_any_order_of_writing_gives_the_planned_file(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple], late: list[int], order: object
) -> None:
    tensors = {
        f"layer.{n}.ü": make_tensor(dtype, (rows, columns), n)
        for n, (dtype, rows, columns) in enumerate(kinds)
    }
    texts = {f"text.{n}": make_tensor(torch.uint8, (size,), n) for n, size in enumerate(late)}
    everything = tensors | texts
    path = tmp_path_factory.mktemp("planned") / "model.safetensors"
    names = list(everything)
    order.shuffle(names)  # type: ignore[attr-defined]
    with PlannedTensorFile(path, plan(everything, set(texts))) as file:
        for name in names:
            file.write(name, everything[name])
    loaded = load_file(path)
    assert loaded.keys() == everything.keys()
    for name, tensor in everything.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert bytes(as_bytes(loaded[name])) == bytes(as_bytes(tensor))
    for name, entry in read_header(path).items():
        assert name in texts or entry.offset % ITEM_BYTES[entry.dtype] == 0, "not aligned"
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_bytes_in_pieces_are_the_tensor(tmp_path: Path) -> None:
    tensor = make_tensor(torch.bfloat16, (5, 7), 0)
    data = bytes(as_bytes(tensor))
    path = tmp_path / "a.safetensors"
    with PlannedTensorFile(path, {"a": TensorPlan("BF16", (5, 7))}) as file:
        file.write_bytes("a", [data[:11], data[11:]])
    assert torch.equal(load_file(path)["a"], tensor)


def test_an_interrupted_file_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    plans = {"a": TensorPlan("U8", (2,)), "b": TensorPlan("U8", (2,))}

    def stop_halfway() -> None:
        with PlannedTensorFile(path, plans) as file:
            file.write("a", torch.zeros(2, dtype=torch.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensor_is_named_and_no_file_appears(tmp_path: Path) -> None:
    plans = {"a": TensorPlan("U8", (2,)), "b": TensorPlan("U8", None)}
    with (
        pytest.raises(ValueError, match=r"a.safetensors: b was not written"),
        PlannedTensorFile(tmp_path / "a.safetensors", plans) as file,
    ):
        file.write("a", torch.zeros(2, dtype=torch.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tensor", [torch.zeros(3), torch.zeros(2, dtype=torch.uint8)])
def test_another_tensor_than_planned_is_refused(tmp_path: Path, tensor: Tensor) -> None:
    plans = {"a": TensorPlan("F32", (2,))}
    with (
        pytest.raises(ValueError, match="planned was"),
        PlannedTensorFile(tmp_path / "a.safetensors", plans) as file,
    ):
        file.write("a", tensor)
