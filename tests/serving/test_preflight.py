"""Whether a quantisation could be served, decided from config.json's figures alone."""

import re
from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.model_config import ModelConfig
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.errors import IncompatibleError
from llmopt.serving.preflight import check_servable
from llmopt.serving.served_weights import describe_plain
from tests.conftest import RunCli
from tests.models import make_model
from tests.recipe.harness import make_recipe, write_recipe
from tests.serving.figures import (
    GROUP_128,
    LLAMA_8B,
    LLAMA_70B,
    MISTRAL_7B,
    QWEN_7B,
    aim,
    refusal,
    serve,
    serve_uniform,
)


@pytest.mark.parametrize("config", [LLAMA_8B, MISTRAL_7B, QWEN_7B], ids=lambda c: c.model_type)
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("group_size", [-1, 32, 64, 128])
@pytest.mark.parametrize("quant_format", ["gptq", "compressed-tensors"])
def test_the_usual_models_are_served(
    config: ModelConfig, tp: int, group_size: int, quant_format: QuantFormat
) -> None:
    for bits in (4, 8):
        weights = serve(config, QuantScheme(bits, group_size), quant_format)
        target = aim(tp=tp, max_model_len=config.max_position_embeddings)
        assert refusal(weights, target) == ""


@pytest.mark.parametrize("gpu", ["t4", "a10", "rtx4090", "a100-80", "h100", "b200", "rtx5090"])
def test_usual_gpus_serve_four_bits(gpu: str) -> None:
    for quant_format in ("gptq", "compressed-tensors"):
        weights = serve(LLAMA_8B, GROUP_128, quant_format)
        assert refusal(weights, aim(gpu=gpu, max_model_len=8192, concurrency=4)) == ""


@pytest.mark.parametrize("storage", ["nf4", "fp8", "int8"])
def test_other_storages_are_served_on_a_gpu_and_a_cpu(storage: Any) -> None:
    weights = serve_uniform(storage)
    for fields in ({"gpu": "a100-80"}, {"gpu": "rtx4090", "max_model_len": 8192}):
        assert refusal(weights, aim(**fields)) == ""
    assert refusal(weights, aim(device="cpu")) == ""


def test_key_value_heads_that_several_gpus_hold() -> None:
    """Four GPUs share each head, so none has less than a whole one."""
    assert refusal(serve(LLAMA_8B, QuantScheme(4, 64)), aim(tp=32)) == ""


def test_padded_tiles_are_served() -> None:
    """Marlin pads what is no multiple of 64 x 128; only a group on two GPUs is in its way."""
    assert refusal(serve(LLAMA_8B, QuantScheme(4, 32)), aim(tp=16)) == ""


def test_all_broken_rules_are_named_at_once() -> None:
    weights = serve(LLAMA_8B, QuantScheme(8, 128, sym=False))
    with pytest.raises(IncompatibleError) as caught:
        check_servable(weights, aim(device="cpu", tp=3, max_model_len=10**6))
    assert caught.value.exit_code == 7
    message = caught.value.message
    assert message.startswith("vLLM on cpu with tp 3 could not serve this: ")
    for words in (
        "must be symmetric (all layers) [gptq-symmetric]",
        "4 bits, not 8",
        "1000000 exceeds",
        "32 attention heads do not divide by tp 3 [heads-per-gpu]",
    ):
        assert words in message
    assert caught.value.remedy is not None
    for words in ("set sym: true", "set bits: 4", "set tp: 1 or 2 or 4 or 8 or 16"):
        assert words in caught.value.remedy


def test_the_gpu_is_named() -> None:
    with pytest.raises(IncompatibleError, match="vLLM on rtx4090 with tp 3 could not serve"):
        check_servable(serve(), aim(tp=3, gpu="rtx4090"))


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_what_has_an_exact_form_in_onnx_is_not_refused(runtime: str) -> None:
    for scheme in (QuantScheme(4, 128, sym=False), QuantScheme(4, 32, desc_act=True)):
        weights = serve(LLAMA_8B, scheme, "gptq", {"layers": "*.v_proj", "group_size": 64})
        assert refusal(weights, aim(runtime=runtime)) == ""
        assert refusal(weights, aim()) != ""


def test_70b_in_16_bits_on_four_small_gpus_is_refused_with_figures() -> None:
    """The case of docs and talks: 32.9 GiB of weights leave too little of 40."""
    target = aim(gpu="a100-40", tp=4, max_model_len=4096, concurrency=16)
    said = refusal(describe_plain(LLAMA_70B), target)
    assert "32.9 GiB of weights and 5.0 GiB of KV cache for 65536 tokens" in said
    assert "(max_model_len 4096 x concurrency 16)" in said
    assert "exceed the 36.8 GiB that vLLM by default takes of the 40 GiB of a100-40" in said
    four_bits = serve(LLAMA_70B)
    target = aim(gpu="a100-40", tp=2, max_model_len=4096, concurrency=16)
    assert refusal(four_bits, target) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (({}, {"sym": False}), "format gptq must be symmetric"),
        (({"device": "cpu"}, {"bits": 8}), "take 4 bits, not 8"),
        (({}, {"bits": 3, "group_size": 128}), "3 bits are not served"),
        (
            ({"tp": 2}, {}),
            "self_attn.o_proj has 64 input features per GPU, not a multiple of group",
        ),
        (({"tp": 3}, {}), "4 attention heads do not divide by tp 3"),
        (({"max_model_len": 512}, {}), "max_model_len 512 exceeds the model's 256 positions"),
        (({"gpu": "v100"}, {}), "need compute capability 7.5, v100 has 7.0"),
        (
            ({}, {"overrides": [{"layers": "*.v_proj", "skip": True}]}),
            "q_proj, k_proj, v_proj are loaded as one and must be alike (model.layers.0",
        ),
    ],
)
def test_validate_refuses_with_exit_code_7(
    run_cli: RunCli,
    tmp_path: Path,
    random_model: Path,
    documents: Path,
    change: tuple[dict[str, Any], dict[str, Any]],
    message: str,
) -> None:
    fields, settings = change
    step = {"uses": "quantize.gptq", "model": "base", "data": "calibration", **settings}
    target = {"runtime": "vllm", **fields}
    recipe = make_recipe(random_model, documents, {"quantize": step}, target=target)
    done = run_cli("validate", write_recipe(tmp_path, recipe))
    assert done.returncode == 7, done.stderr
    place = r"incompatible: \S+\.yaml:\d+:\d+: step quantize: vLLM on "
    assert re.match(place, done.stderr)
    assert message in done.stderr
    assert (
        "\n  → set " in done.stderr or "→ let an override" in done.stderr or "→ name" in done.stderr
    )
    assert done.stdout == ""


def test_validate_refuses_a_padded_vocabulary_in_gptq(
    run_cli: RunCli, tmp_path: Path, documents: Path
) -> None:
    model = make_model(tmp_path / "model", vocab_size=6152, tie_word_embeddings=False)
    step = {"uses": "quantize.rtn", "model": "base", "lm_head": True}
    for quant_format, exit_code in (("gptq", 7), ("compressed-tensors", 0)):
        steps = {"quantize": {**step, "format": quant_format}}
        recipe = make_recipe(model, documents, steps, target={"runtime": "vllm"})
        done = run_cli("validate", write_recipe(tmp_path, recipe))
        assert done.returncode == exit_code, done.stderr
        assert ("[gptq-vocabulary]" in done.stderr) == (exit_code == 7)
