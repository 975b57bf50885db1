"""Mixtures of experts outside llmopt: the format's own library, and the real vLLM on a CPU."""

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoint.numpy_dequantizer import dequantize_folder
from tests.conftest import RunCli
from tests.models import REPOSITORY, make_model, write_documents
from tests.vllm.test_vllm import VLLM_PYTHON, run_decoder

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not VLLM_PYTHON.exists(), reason="needs the real vLLM: make vllm-env (llmopt doctor)"
    ),
]
REFUSAL = "No WNA16 MoE backend supports the deployment configuration"
SHAPE = {"hidden_size": 256, "num_hidden_layers": 2, "head_dim": 64, "tie_word_embeddings": False}
NAMES = {
    "mixtral": ("block_sparse_moe", ("w1", "w3"), "w2"),
    "qwen3_moe": ("mlp", ("gate_proj", "up_proj"), "down_proj"),
}


def quantize_experts(folder: Path, run_cli: RunCli, family: str, quant_format: str) -> Path:
    """Quantises a random mixture by the command; returns the artifact."""
    size = {"moe_intermediate_size" if family == "qwen3_moe" else "intermediate_size": 256}
    model = make_model(folder / "model", family, norm_topk_prob=True, **SHAPE, **size)
    data = write_documents(folder / "documents.jsonl")
    artifact = folder / "artifact"
    options = ("--data", data, "--samples", "8", "--seq-len", "128", "--format", quant_format)
    finished = run_cli("quantize", "gptq", model, "-o", artifact, *options)
    assert finished.returncode == 0, finished.stderr
    return artifact


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_compressed_tensors_reads_each_expert(tmp_path: Path, run_cli: RunCli, family: str) -> None:
    artifact = quantize_experts(tmp_path, run_cli, family, "compressed-tensors")
    assert_decoded_alike(artifact, family, tmp_path)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_transformers_reads_each_float8_expert(
    tmp_path: Path, run_cli: RunCli, family: str
) -> None:
    """Of int8 experts transformers 5.19 takes none: it converts packed and float8 ones alone."""
    model = make_model(tmp_path / "model", family, norm_topk_prob=True, **SHAPE)
    artifact = tmp_path / "artifact"
    finished = run_cli("quantize", "fp8", model, "-o", artifact)
    assert finished.returncode == 0, finished.stderr
    assert_decoded_alike(artifact, family, tmp_path)


@pytest.mark.parametrize(
    ("method", "refusal"),
    [
        ("int8", "weight_key=QuantKey(i8,scale(f32,static,per_channel),symmetric), "
         "activation_key=QuantKey(i8,scale(f32,dynamic,per_token),symmetric)"),
        ("fp8", "Unsupported FP8 MoE backend"),
    ],
)  # fmt: skip
def test_vllm_on_a_cpu_has_no_kernel_for_8_bit_experts(
    tmp_path: Path, run_cli: RunCli, method: str, refusal: str
) -> None:
    """It reads the checkpoint up to the choice of a kernel, and asks for the right one."""
    model = make_model(tmp_path / "model", "mixtral", **SHAPE)
    finished = run_cli("quantize", method, model, "-o", tmp_path / "artifact")
    assert finished.returncode == 0, finished.stderr
    decoded = run_decoder("greedy.py", tmp_path / "artifact", "auto", tmp_path)
    assert decoded.returncode != 0
    assert refusal in decoded.stderr


def assert_decoded_alike(artifact: Path, family: str, folder: Path) -> None:
    """Compares what the library makes of every expert with the numpy dequantiser, bit by bit."""
    script = REPOSITORY / "tests" / "vllm" / "transformers_experts.py"
    output = folder / "experts.safetensors"
    finished = subprocess.run(
        [VLLM_PYTHON, script, artifact, output],
        capture_output=True, text=True, timeout=420, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    found, layers = load_file(output), dequantize_folder(artifact)
    module, gate_up, down = NAMES[family]
    for block in range(2):
        for expert in range(4):
            prefix = f"model.layers.{block}.{module}.experts.{expert}."
            weights = [torch.from_numpy(layers[prefix + name].weights) for name in gate_up]
            expected = torch.cat(weights).bfloat16()
            torch.testing.assert_close(found[f"{block}.gate_up"][expert], expected, rtol=0, atol=0)
            expected = torch.from_numpy(layers[prefix + down].weights).bfloat16()
            torch.testing.assert_close(found[f"{block}.down"][expert], expected, rtol=0, atol=0)


@pytest.mark.skipif(
    torch.cpu._is_amx_tile_supported(), reason="vLLM has a kernel for CPUs with AMX tiles"
)
@pytest.mark.parametrize("quant_format", ["gptq", "compressed-tensors"])
def test_vllm_on_a_cpu_without_amx_has_no_kernel_for_packed_experts(
    tmp_path: Path, run_cli: RunCli, quant_format: str
) -> None:
    artifact = quantize_experts(tmp_path, run_cli, "mixtral", quant_format)
    decoded = run_decoder("greedy.py", artifact, "float16", tmp_path)
    assert decoded.returncode != 0
    assert REFUSAL in decoded.stderr
