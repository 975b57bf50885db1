"""Engines of every family, dtype, cache and form of weights, built by TensorRT-RTX."""

from pathlib import Path

import pytest

from llmopt.artifacts.onnx_description import OnnxWeights, read_onnx_description
from llmopt.artifacts.progress import SilentProgress
from llmopt.artifacts.tensor_spec import TensorDtype
from llmopt.engine.build_process import BuildResult, run_build
from llmopt.engine.onnx_checks import check_parsable, check_signature, open_onnx
from tests.engine.builds import CACHED, WHOLE, make_job, needs_rtx
from tests.export.exports import SCHEMES, export, make_gptq_model
from tests.quant.pipeline import make_small_model

pytestmark = [needs_rtx, pytest.mark.usefixtures("one_thread")]
FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]
DTYPES: tuple[TensorDtype, ...] = ("float32", "float16", "bfloat16")


def build(model: Path, folder: Path, *, kv_cache: bool = True) -> BuildResult:
    """Checks and builds an exported model, as the step does; sees that there is an engine."""
    folder.mkdir()
    file = open_onnx(model / "model.onnx")
    check_signature(file, read_onnx_description(model))
    check_parsable(file)
    result = run_build(make_job(model, folder, CACHED if kv_cache else WHOLE), SilentProgress())
    assert (folder / "model.engine").stat().st_size > 10_000
    return result


@pytest.mark.parametrize("scheme", ["asym_act_order"])
def test_gptq_int4_becomes_an_engine(tmp_path: Path, scheme: str) -> None:
    model = make_gptq_model(tmp_path, scheme)
    export(model, tmp_path / "onnx", weights="qdq_int4", dtype="float16")
    assert build(tmp_path / "onnx", tmp_path / "engine").tensorrt_version


@pytest.mark.full
@pytest.mark.parametrize(
    ("family", "dtype", "kv_cache"),
    [
        *((family, dtype, True) for family in FAMILIES for dtype in DTYPES),
        *(("llama", dtype, False) for dtype in DTYPES),
        *((family, "float16", False) for family in FAMILIES[1:]),
    ],
)
def test_every_family_and_dtype(
    tmp_path: Path, family: str, dtype: TensorDtype, kv_cache: bool
) -> None:
    model = make_small_model(tmp_path / "model", family)
    export(model, tmp_path / "onnx", dtype=dtype, kv_cache=kv_cache)
    built = build(tmp_path / "onnx", tmp_path / "engine", kv_cache=kv_cache)
    assert built.compute_capabilities


@pytest.mark.full
@pytest.mark.parametrize(
    ("scheme", "weights", "dtype"),
    [
        *((scheme, "qdq_int4", "float16") for scheme in SCHEMES),
        *((scheme, "qdq_int4", dtype) for scheme in ("sym", "asym") for dtype in DTYPES[::2]),
        ("asym_act_order", "dequantised", "float16"),
    ],
)
def test_every_form_of_integers(
    tmp_path: Path, scheme: str, weights: OnnxWeights, dtype: TensorDtype
) -> None:
    model = make_gptq_model(tmp_path, scheme)
    export(model, tmp_path / "onnx", weights=weights, dtype=dtype)
    assert build(tmp_path / "onnx", tmp_path / "engine").compute_capabilities


@pytest.mark.full
@pytest.mark.parametrize("opset", [18, 20, 21, 22, 23, 24])
def test_every_opset(tmp_path: Path, opset: int) -> None:
    export(make_small_model(tmp_path / "model"), tmp_path / "onnx", dtype="float16", opset=opset)
    assert build(tmp_path / "onnx", tmp_path / "engine").compute_capabilities


@pytest.mark.full
def test_last_token_logits(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model")
    export(model, tmp_path / "onnx", dtype="float16", last_token_logits=True)
    assert build(tmp_path / "onnx", tmp_path / "engine").compute_capabilities
