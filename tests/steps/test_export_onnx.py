"""`export.onnx` of decoders: what is refused before any work, what it needs, what it leaves."""

from pathlib import Path
from typing import Any

import pytest
import torch

from llmopt.artifacts.destination import FolderDestination
from llmopt.artifacts.onnx_description import read_onnx_description
from llmopt.artifacts.progress import SilentProgress
from llmopt.errors import IncompatibleError, NumericalError
from llmopt.export.verification import verify_onnx
from llmopt.recipe.execute import RunSettings, run_plan
from llmopt.steps.base import Outcome, ResolvedInput, RunContext
from llmopt.steps.export_onnx import ExportOnnx
from llmopt.steps.union import step_types
from tests.export.encoders import make_bert
from tests.export.exports import make_gptq_model
from tests.quant.pipeline import make_small_model
from tests.recipe.harness import Listener, Workplace

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random bf16 Llama of 2 blocks; do not write into it."""
    return make_small_model(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture(scope="module")
def gptq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What GPTQ makes of such a model; do not write into it."""
    return make_gptq_model(tmp_path_factory.mktemp("gptq"))


def make_step(**fields: object) -> ExportOnnx:
    return ExportOnnx.model_validate({"uses": "export.onnx", "model": "m", **fields})


def given(model: Path) -> dict[str, ResolvedInput]:
    return {"model": ResolvedInput("m", "checkpoint", "", model)}


def run(step: ExportOnnx, model: Path, folder: Path) -> Outcome:
    for name in ("work", "scratch"):
        (folder / name).mkdir()
    context = RunContext(folder / "work", folder / "scratch", "cpu", 1, SilentProgress())
    return step.run(given(model), context)


def test_weights_must_have_the_form_that_is_asked_for(plain: Path, gptq: Path) -> None:
    refused = {
        "plain": (gptq, "is quantised (gptq 4 bits group 32), its weights are not plain"),
        "qdq_int4": (plain, "is not quantised, so it has no integers for weights: qdq_int4"),
        "matmulnbits": (plain, "is not quantised, so it has no integers for weights: matmulnbits"),
        "dequantised": (plain, "is not quantised, so it has no integers for weights: dequantised"),
        "int8_dynamic": (plain, "int8_dynamic is for encoders"),
    }
    for weights, (model, message) in refused.items():
        with pytest.raises(IncompatibleError) as caught:
            make_step(weights=weights).preflight(given(model), None)
        assert message in caught.value.message
        assert caught.value.remedy is not None
        assert "weights: " in caught.value.remedy


def test_experts_are_refused(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model", "qwen3_moe")
    with pytest.raises(IncompatibleError, match=r"is a mixture of experts \(qwen3_moe\), which is"):
        make_step().preflight(given(model), None)


@pytest.mark.parametrize(
    ("uses", "weights", "remedy"),
    [
        ("quantize.gptq", "plain", "qdq_int4 or matmulnbits or dequantised"),
        ("quantize.rtn", "int8_dynamic", "qdq_int4 or matmulnbits or dequantised"),
        ("quantize.nf4", "qdq_int4", "weights: dequantised"),
        ("quantize.fp8", "dequantised", "serve it with vLLM"),
        ("quantize.int8", "qdq_int4", "serve it with vLLM"),
    ],
)
def test_what_an_earlier_step_will_make_is_judged_before_it_is_made(
    tmp_path: Path, uses: str, weights: str, remedy: str
) -> None:
    fields: dict[str, Any] = {"uses": uses, "model": "base"}
    if uses == "quantize.gptq":
        fields["data"] = "calibration"
    maker = step_types()[uses].model_validate(fields)
    coming = ResolvedInput("q", "quantized_checkpoint", "", tmp_path / "none", maker=maker)
    with pytest.raises(IncompatibleError, match=f"what {uses} makes") as caught:
        make_step(weights=weights).preflight({"model": coming}, None)
    assert remedy in str(caught.value.remedy)
    fits = "dequantised" if uses == "quantize.nf4" else "qdq_int4"
    if uses not in ("quantize.fp8", "quantize.int8"):
        make_step(weights=fits).preflight({"model": coming}, None)


def test_integers_need_opset_21() -> None:
    with pytest.raises(ValueError, match="qdq_int4 needs opset 21 or later, not 20"):
        make_step(weights="qdq_int4", opset=20)


def test_an_export_reports_how_near_it_is_to_pytorch(gptq: Path, tmp_path: Path) -> None:
    step = make_step(weights="qdq_int4", last_token_logits=True)
    metrics = run(step, gptq, tmp_path).metrics
    assert metrics["integer_layers"] == 14
    assert 0 < float(str(metrics["relative_error"])) < 1e-5
    assert metrics["top1_agreement"] == 1
    work = tmp_path / "work"
    assert read_onnx_description(work).last_token_logits
    sizes = {path.name: path.stat().st_size for path in work.iterdir()}
    assert metrics["weights_bytes"] == sizes["model.onnx.data"]
    assert {"config.json", "tokenizer.json", "onnx.json", "model.onnx"} <= sizes.keys()
    assert "quantization_config" not in (work / "config.json").read_text(encoding="utf-8")


def test_bfloat16_is_held_through_its_float32_twin(plain: Path, tmp_path: Path) -> None:
    metrics = run(make_step(dtype="bfloat16"), plain, tmp_path).metrics
    assert float(str(metrics["relative_error"])) < 1e-5
    assert metrics["checked_as"] == "float32"
    verified = verify_onnx(tmp_path / "work")
    assert verified.faults == []
    assert verified.not_checked == ["running it: onnxruntime's CPU provider lacks bfloat16"]
    assert read_onnx_description(tmp_path / "work").dtype == "bfloat16"
    assert not any((tmp_path / "scratch").iterdir())


def test_a_window_that_was_not_crossed_is_recorded(tmp_path: Path) -> None:
    sizes = {"sliding_window": 2000, "max_position_embeddings": 4000}
    model = make_small_model(tmp_path / "windowed", "mistral", **sizes)
    assert run(make_step(), model, tmp_path).degraded == [
        "held against PyTorch within the sliding window of 2000 tokens, not past it"
    ]


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_model_without_tokenizer_is_exported_and_that_is_recorded(
    kind: str, tmp_path: Path
) -> None:
    make = make_small_model if kind == "decoder" else make_bert
    model = make(tmp_path / "bare")
    (model / ("tokenizer.json" if kind == "decoder" else "vocab.txt")).unlink()
    assert run(make_step(), model, tmp_path).degraded == [
        "the model has no tokenizer, so the export has none either: it takes token ids alone"
    ]


def test_an_export_that_is_too_far_from_pytorch_fails(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match=r"differs from PyTorch: error .* allowed 1e-08"):
        run(make_step(tolerance=1e-8), plain, tmp_path)


@pytest.mark.parametrize(("weights", "dtype"), [("plain", "float32"), ("plain", "float16")])
def test_the_estimate_is_the_size_of_the_file(
    plain: Path, tmp_path: Path, weights: str, dtype: str
) -> None:
    step = make_step(weights=weights, dtype=dtype)
    estimate = step.estimate(given(plain))
    assert estimate is not None
    written = float(str(run(step, plain, tmp_path).metrics["weights_bytes"]))
    assert estimate.disk_bytes == pytest.approx(written, rel=0.05)
    assert estimate.ram_bytes > torch.tensor(0).nbytes + written


def test_the_estimate_of_integers_is_near_the_files_size(gptq: Path, tmp_path: Path) -> None:
    step = make_step(weights="qdq_int4")
    estimate = step.estimate(given(gptq))
    assert estimate is not None
    written = float(str(run(step, gptq, tmp_path).metrics["weights_bytes"]))
    assert estimate.disk_bytes == pytest.approx(written, rel=0.25)  # scales are float32 there


class Interrupting(Listener):
    """Interrupts the work when a phase begins for the second time."""

    def start(self, description: str, total: int, completed: int = 0) -> None:
        del total, completed
        if description in self.notes:
            raise KeyboardInterrupt
        self.notes.append(description)


def test_an_interrupted_twin_is_not_taken_for_work_to_go_on_with(
    plain: Path, tmp_path: Path
) -> None:
    """By hand: the output folder that was made for it is gone again."""
    steps = {"onnx": {"uses": "export.onnx", "model": "base", "dtype": "bfloat16"}}
    recipe = {"version": 1, "name": "small", "sources": {"base": str(plain)}, "steps": steps}
    workplace, output, listener = Workplace(tmp_path), tmp_path / "onnx", Interrupting()
    settings = RunSettings("cpu", threads=1, output_root=None)
    destination = FolderDestination(output)
    with pytest.raises(KeyboardInterrupt):
        run_plan(workplace.plan(recipe), destination, workplace.store, settings, listener)
    assert "tracing" in listener.notes
    assert not output.exists()
