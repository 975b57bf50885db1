"""The engine on a CUDA GPU, against the CPU; skipped where there is none."""

import importlib.util
from pathlib import Path

import pytest
import torch

from llmopt.artifacts.manifest import read_manifest
from llmopt.quant.asymmetric import AsymmetricOptions
from llmopt.quant.expert_policy import ExpertPolicy
from llmopt.quant.gptq import GptqOptions
from tests.checkpoint.numpy_dequantizer import dequantize_folder
from tests.conftest import RunCli
from tests.models import TINY_MODEL
from tests.quant.layers import make_options
from tests.quant.pipeline import Quantized, make_small_model, make_windows, quantize
from tests.quant.test_quantize_checkpoint import InterruptedRunError, InterruptingProgress

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU (llmopt doctor)"
)
WEIGHTS = "model.safetensors"


def assert_like(one: Quantized, other: Quantized, share: float = 0.98) -> None:
    """Rounded to the same integers but for ties, which sums in another order move."""
    layers, others = dequantize_folder(one.folder), dequantize_folder(other.folder)
    assert layers.keys() == others.keys()
    for name, layer in layers.items():
        same = (layer.integers == others[name].integers).mean()
        assert same > share, f"{name}: {same:.4f}"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_kernel_rounds_as_the_plain_path() -> None:
    from tests.quant import interpret_triton_kernel as kernel  # noqa: PLC0415 - imports triton

    for dtype, (columns, rows), one_group in kernel.CASES:
        kernel.compare(dtype, columns, rows, one_group=one_group, device="cuda")


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_families_round_as_on_the_cpu(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    model = make_small_model(tmp_path / "model", family, dtype=dtype)
    windows = make_windows(samples=200)
    cpu = quantize(model, tmp_path / "cpu", windows=windows)
    gpu = quantize(
        model, tmp_path / "gpu", windows=windows, device="cuda", reads_ahead=True, recomputes=True
    )
    # 16-bit activations are rounded at other places on the two: the Hessians differ a little.
    assert_like(cpu, gpu, share=0.98 if dtype == torch.float32 else 0.7)
    for at_cpu, at_gpu in zip(cpu.solver.seen, gpu.solver.seen, strict=True):
        assert at_gpu[1].is_cuda
        loss, other = (float(each[2].loss_R.sum()) for each in (at_cpu, at_gpu))
        assert other == pytest.approx(loss, rel=0.1)


VARIANTS: dict[str, GptqOptions] = {
    "static groups, all columns by diagonal": make_options(
        order="act_group_aware", static_groups=True
    ),
    "3 bits": make_options(3),
    "asymmetric grid": make_options(sym=False),
    "desc_act": make_options(order="desc_act"),
    "8 bits per channel": make_options(8, -1),
    "mse": make_options(scale_search="mse"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_round_as_on_the_cpu(tmp_path: Path, name: str) -> None:
    model = make_small_model(tmp_path / "model", dtype=torch.float32)
    options = VARIANTS[name]
    cpu = quantize(model, tmp_path / "cpu", options=options)
    gpu = quantize(model, tmp_path / "gpu", options=options, device="cuda")
    assert_like(cpu, gpu, share=0.97)


def test_asymmetric_calibration_rounds_as_on_the_cpu(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model", dtype=torch.float32)
    asymmetric = AsymmetricOptions(strength=1.0, damp_percent=0.05, max_damp_percent=0.5)
    cpu = quantize(model, tmp_path / "cpu", asymmetric=asymmetric)
    gpu = quantize(model, tmp_path / "gpu", asymmetric=asymmetric, device="cuda")
    assert_like(cpu, gpu, share=0.97)


def test_experts_round_as_on_the_cpu(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model", "qwen3_moe", dtype=torch.float32)
    experts = ExpertPolicy(4, "rtn", torch.float32)
    windows = make_windows(samples=100)
    cpu = quantize(model, tmp_path / "cpu", windows=windows, experts=experts)
    gpu = quantize(model, tmp_path / "gpu", windows=windows, experts=experts, device="cuda")
    assert_like(cpu, gpu, share=0.95)


def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model", num_hidden_layers=4)
    whole = quantize(model, tmp_path / "whole", device="cuda", reads_ahead=True)
    with pytest.raises(InterruptedRunError):
        quantize(
            model, tmp_path / "stopped", device="cuda", progress=InterruptingProgress(details=18)
        )
    resumed = quantize(model, tmp_path / "stopped", device="cuda", reads_ahead=True)
    assert (resumed.folder / WEIGHTS).read_bytes() == (whole.folder / WEIGHTS).read_bytes()


def test_the_cpu_takes_a_share_of_the_batches(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model", dtype=torch.float32)
    windows = make_windows(samples=700)
    alone = quantize(model, tmp_path / "alone", windows=windows, device="cuda")
    shared = quantize(model, tmp_path / "shared", windows=windows, device="cuda", num_devices=2)
    assert_like(alone, shared)


def test_command_computes_there_and_loses_as_little(tmp_path: Path, run_cli: RunCli) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        done = run_cli(
            "quantize", "gptq", TINY_MODEL, "--device", device, "-o", device,
            "--samples", "32", "--seq-len", "256",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        layers = read_manifest(tmp_path / device).layers
        losses[device] = sum(layer.loss or 0 for layer in layers)
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.05)
    assert run_cli("verify", "cuda").returncode == 0
