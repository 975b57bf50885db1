"""Sessions of onnxruntime: what it raises, in words without its codes and places."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from llmopt.artifacts.onnx_session import clean_message, memory_errors, run_errors
from llmopt.errors import InputError


@pytest.fixture
def product(tmp_path: Path) -> ort.InferenceSession:
    """A session of c = a b."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["i", "j"]) for n in "abc"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])], "g", values[:2], values[2:]
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


COLUMN = np.ones((4_000_000, 1), np.float32)


def test_memory_that_ran_out_in_a_run_is_a_memory_error(
    product: ort.InferenceSession, tmp_path: Path
) -> None:
    for errors in (memory_errors(), run_errors(tmp_path)):
        with pytest.raises(MemoryError) as caught, errors:
            product.run(["c"], {"a": COLUMN, "b": COLUMN.T})
        assert str(caught.value) == (
            "Non-zero status code returned while running MatMul node. Name:'' Status Message: "
            "Failed to allocate memory for requested buffer of size 64000000000000"
        )


def test_a_model_that_does_not_run_is_named(product: ort.InferenceSession, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught, run_errors(tmp_path):
        product.run(["c"], {"a": COLUMN, "b": COLUMN})
    assert caught.value.message == (
        f"onnxruntime does not run {tmp_path / 'model.onnx'}: Non-zero status code returned while "
        "running MatMul node. Name:'' Status Message: MatMul dimension mismatch"
    )
    assert caught.value.remedy == "copy the folder again, or export the model anew"


def test_what_is_no_lack_of_memory_stays_what_it_is(product: ort.InferenceSession) -> None:
    with (
        pytest.raises(Exception, match=r"\[ONNXRuntimeError\] : 1 : FAIL") as caught,
        memory_errors(),
    ):
        product.run(["c"], {"a": COLUMN, "b": COLUMN})
    assert type(caught.value).__name__ == "Fail"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid rank for input: a Got: 1",
            "Invalid rank for input: a Got: 1",
        ),
        (
            "Exception\n[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : /src/core/arena.cc:376 "
            "virtual void* onnxruntime::Arena::Alloc(size_t, bool) Failed (64 bytes)\n",
            "Failed (64 bytes)",
        ),
        ("tensor.h:12 Compute sizes (1) and (2) differ", "sizes (1) and (2) differ"),
        ("said without a code", "said without a code"),
    ],
)
def test_codes_and_places_are_left_out(said: str, words: str) -> None:
    assert clean_message(RuntimeError(said)) == words
