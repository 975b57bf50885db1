"""Graphs that TensorRT's parser would misread or die of, refused before it sees them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from llmopt.engine.onnx_checks import check_memory, check_parsable, open_onnx
from llmopt.errors import IncompatibleError, InputError, ResourceError

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def write_graph(
    path: Path,
    nodes: list[onnx.NodeProto] | None = None,
    initializers: list[TensorProto] | None = None,
    *,
    external: bool = False,
) -> Path:
    """Writes y = x W, or other nodes and constants."""
    nodes = nodes or [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        initializers or [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    onnx.save(model, path, save_as_external_data=external, location="w.data", size_threshold=0)
    return path


def test_a_sound_graph_passes(tmp_path: Path) -> None:
    for external in (False, True):
        file = open_onnx(write_graph(tmp_path / f"{external}.onnx", external=external))
        check_parsable(file)
        check_memory(file)
        assert file.num_bytes >= WEIGHT.nbytes


@pytest.mark.parametrize("content", [b"", b"ir_version: 8\n", b"\x00" * 50, b"\xff\xfe text"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is no ONNX model"):
        open_onnx(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_onnx(tmp_path / "model.onnx")


def remove(data: Path) -> None:
    data.unlink()


def truncate(data: Path) -> None:
    data.write_bytes(data.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, r"weights file w\.data is missing"),
        (truncate, "truncated: 23 bytes, .* w ends at 24"),
    ],
)
def test_damaged_external_data_is_named(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = write_graph(tmp_path / "model.onnx", external=True)
    damage(tmp_path / "w.data")
    with pytest.raises(InputError, match=message):
        open_onnx(path)


def test_foreign_operators_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("MatMulNBits", ["x", "w"], ["y"], name="q", domain="com.microsoft")
    with pytest.raises(IncompatibleError, match="node q is com.microsoft::MatMulNBits") as caught:
        check_parsable(open_onnx(write_graph(tmp_path / "model.onnx", [node])))
    assert "qdq_int4" in str(caught.value.remedy)


def test_unsigned_four_bits_are_refused(tmp_path: Path) -> None:
    narrow = helper.make_tensor("w", TensorProto.UINT4, [2, 3], [1, 2, 3, 4, 5, 6])
    with pytest.raises(IncompatibleError, match="tensor w is uint4"):
        check_parsable(open_onnx(write_graph(tmp_path / "model.onnx", initializers=[narrow])))


@pytest.mark.parametrize("zero", [0, 3])
def test_zero_points_that_are_not_zero_are_refused(tmp_path: Path, zero: int) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], name="dq"),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(WEIGHT.astype(np.int8), "q"),
        numpy_helper.from_array(np.float32(0.5), "s"),
        numpy_helper.from_array(np.int8(zero), "z"),
    ]
    file = open_onnx(write_graph(tmp_path / "model.onnx", nodes, constants))
    if zero == 0:
        check_parsable(file)
        return
    with pytest.raises(IncompatibleError, match="node dq has a zero point that is not 0"):
        check_parsable(file)


def test_too_little_memory_is_said_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = open_onnx(write_graph(tmp_path / "model.onnx"))
    monkeypatch.setattr("llmopt.engine.onnx_checks.RAM_FACTOR", 1e15)
    with pytest.raises(ResourceError, match="of memory .* are free"):
        check_memory(file)
