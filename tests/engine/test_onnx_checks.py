"""Graphs that TensorRT's parser would misread or die of, refused before it sees them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from llmopt.artifacts.onnx_description import read_onnx_description
from llmopt.artifacts.tensor_spec import make_spec
from llmopt.engine.onnx_checks import check_parsable, check_signature, open_onnx
from llmopt.errors import IncompatibleError, InputError

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
    with pytest.raises(IncompatibleError, match=r"node q is com\.microsoft::MatMulNBits") as caught:
        check_parsable(open_onnx(write_graph(tmp_path / "model.onnx", [node])))
    assert "qdq_int4" in str(caught.value.remedy)


def test_unsigned_four_bits_are_refused(tmp_path: Path) -> None:
    narrow = helper.make_tensor("w", TensorProto.UINT4, [2, 3], [1, 2, 3, 4, 5, 6])
    with pytest.raises(IncompatibleError, match="tensor w is uint4"):
        check_parsable(open_onnx(write_graph(tmp_path / "model.onnx", initializers=[narrow])))


def quantized(zero: int) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """y = x W, W of int8 with a scale and a zero point."""
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], name="dq"),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(WEIGHT.astype(np.int8), "q"),
        numpy_helper.from_array(np.float32(0.5), "s"),
        numpy_helper.from_array(np.int8(zero), "z"),
    ]
    return nodes, constants


@pytest.mark.parametrize(("zero", "is_taken"), [(0, True), (3, False)])
def test_zero_points_are_zero(tmp_path: Path, zero: int, is_taken: bool) -> None:
    nodes, constants = quantized(zero)
    file = open_onnx(write_graph(tmp_path / "model.onnx", nodes, constants))
    if is_taken:
        check_parsable(file)
    else:
        with pytest.raises(
            IncompatibleError, match=r"node dq has a zero point \(z\) that is not 0"
        ):
            check_parsable(file)


def test_a_zero_point_in_the_weights_file_is_read(tmp_path: Path) -> None:
    nodes, constants = quantized(3)
    path = write_graph(tmp_path / "model.onnx", nodes, constants, external=True)
    with pytest.raises(IncompatibleError, match=r"node dq has a zero point \(z\) that is not 0"):
        check_parsable(open_onnx(path))
    nodes, constants = quantized(0)
    check_parsable(open_onnx(write_graph(tmp_path / "0.onnx", nodes, constants, external=True)))


@pytest.mark.parametrize(("zero", "is_taken"), [(0, True), (3, False)])
def test_a_zero_point_may_be_a_constant_node(tmp_path: Path, zero: int, is_taken: bool) -> None:
    nodes, constants = quantized(zero)
    constant = helper.make_node("Constant", [], ["z"], value=constants.pop())
    file = open_onnx(write_graph(tmp_path / "model.onnx", [constant, *nodes], constants))
    if is_taken:
        check_parsable(file)
    else:
        with pytest.raises(IncompatibleError, match="that is not 0"):
            check_parsable(file)


def test_a_zero_point_that_is_computed_is_refused(tmp_path: Path) -> None:
    nodes, constants = quantized(0)
    computed = helper.make_node("Identity", ["z"], ["z2"])
    nodes[0].input[2] = "z2"
    file = open_onnx(write_graph(tmp_path / "model.onnx", [computed, *nodes], constants))
    with pytest.raises(IncompatibleError, match=r"\(z2\) that is not known before it runs"):
        check_parsable(file)


def test_foreign_operators_are_found_in_branches(tmp_path: Path) -> None:
    foreign = helper.make_node("Gelu", ["x"], ["b"], name="inner", domain="com.microsoft")
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    branch = helper.make_graph([foreign], "branch", [], [value])
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    constants = [numpy_helper.from_array(np.bool_(True), "c")]
    with pytest.raises(IncompatibleError, match=r"node inner is com\.microsoft::Gelu"):
        check_parsable(open_onnx(write_graph(tmp_path / "model.onnx", nodes, constants)))


def test_the_graph_is_held_against_its_description(exported: Path) -> None:
    file, description = open_onnx(exported / "model.onnx"), read_onnx_description(exported)
    check_signature(file, description)
    without = description.model_copy(update={"inputs": description.inputs[1:]})
    with pytest.raises(
        InputError, match=r"onnx\.json beside it says: input input_ids is one too many"
    ):
        check_signature(file, without)
    more = (*description.outputs, make_spec("loss", "float32"))
    with pytest.raises(InputError, match="output loss is missing"):
        check_signature(file, description.model_copy(update={"outputs": more}))


def test_dtypes_are_held_against_the_description_too(exported: Path) -> None:
    file, description = open_onnx(exported / "model.onnx"), read_onnx_description(exported)
    ids = description.inputs[0].model_copy(update={"dtype": "int32"})
    other = description.model_copy(update={"inputs": (ids, *description.inputs[1:])})
    with pytest.raises(InputError, match=r"input_ids is int64 \[-1, -1\], not int32"):
        check_signature(file, other)
