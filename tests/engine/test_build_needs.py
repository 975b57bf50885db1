"""What a build takes of the machine."""

from pathlib import Path

import pytest

from llmopt.engine.build_needs import check_memory, measure_model_bytes
from llmopt.errors import ResourceError


def test_too_little_memory_is_said_before_the_build() -> None:
    check_memory(Path("model.onnx"), 1_000_000, 3_500_000)
    with pytest.raises(
        ResourceError,
        match=r"building from model\.onnx takes about 3\.5 MB of memory \(3\.5 × the model's "
        r"1\.0 MB\); 3\.4 MB are free",
    ) as caught:
        check_memory(Path("model.onnx"), 1_000_000, 3_400_000)
    assert caught.value.exit_code == 6


def test_a_model_is_its_graph_and_its_weights(tmp_path: Path) -> None:
    assert measure_model_bytes(tmp_path) == 0
    (tmp_path / "model.onnx").write_bytes(b"12")
    (tmp_path / "model.onnx.data").write_bytes(b"345")
    assert measure_model_bytes(tmp_path) == 5
