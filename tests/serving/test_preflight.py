"""Whether vLLM could serve a quantisation, decided from config.json's figures alone."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.experts_config import EXPERT_NAMES, ExpertsConfig
from llmopt.checkpoint.model_config import ModelConfig
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.errors import IncompatibleError
from llmopt.serving.preflight import check_servable
from llmopt.serving.target import Target
from llmopt.steps.layer_overrides import LayerOverride, build_plan
from tests.conftest import RunCli
from tests.recipe.harness import make_recipe, write_recipe

LLAMA_8B = ModelConfig(
    folder=Path("llama-3.1-8b"),
    model_type="llama",
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=128256,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
    dtype="bfloat16",
    raw={},
)
MISTRAL_7B = dataclasses.replace(
    LLAMA_8B, model_type="mistral", vocab_size=32768, max_position_embeddings=32768
)
LLAMA_2_7B = dataclasses.replace(
    LLAMA_8B, intermediate_size=11008, num_key_value_heads=32, max_position_embeddings=4096
)
QWEN_7B = dataclasses.replace(
    LLAMA_8B,
    model_type="qwen2",
    hidden_size=3584,
    intermediate_size=18944,
    num_attention_heads=28,
    num_key_value_heads=4,
)
QWEN_4B = dataclasses.replace(
    LLAMA_8B, model_type="qwen3", hidden_size=2560, intermediate_size=9728
)
GROUP_128 = QuantScheme(4, 128)


def target(**fields: Any) -> Target:
    return Target.model_validate({"runtime": "vllm", **fields})


def refusal(
    config: ModelConfig, scheme: QuantScheme, quant_format: QuantFormat, aim: Target
) -> str:
    """Returns what is wrong, or nothing."""
    try:
        check_servable(config, build_plan(config, scheme), quant_format, aim)
    except IncompatibleError as error:
        return error.message
    return ""


@pytest.mark.parametrize("config", [LLAMA_8B, MISTRAL_7B, QWEN_7B], ids=lambda c: c.model_type)
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("group_size", [-1, 32, 64, 128])
@pytest.mark.parametrize("quant_format", ["gptq", "compressed-tensors"])
def test_the_usual_models_are_served(
    config: ModelConfig, tp: int, group_size: int, quant_format: QuantFormat
) -> None:
    for bits in (4, 8):
        scheme = QuantScheme(bits, group_size)
        limits = target(tp=tp, max_model_len=config.max_position_embeddings)
        assert refusal(config, scheme, quant_format, limits) == ""


@pytest.mark.parametrize(
    ("config", "scheme", "quant_format", "fields", "message"),
    [
        (LLAMA_8B, QuantScheme(4, 128, sym=False), "gptq", {}, "format gptq must be symmetric"),
        (
            LLAMA_8B,
            QuantScheme(8, 128, sym=False),
            "compressed-tensors",
            {},
            "an asymmetric grid must have 4 bits, not 8",
        ),
        (
            LLAMA_8B,
            QuantScheme(4, 128, desc_act=True),
            "gptq",
            {},
            "act-order with groups is no longer served",
        ),
        (LLAMA_8B, QuantScheme(8, 128), "gptq", {"device": "cpu"}, "on a CPU take 4 bits, not 8"),
        (
            LLAMA_8B,
            GROUP_128,
            "gptq",
            {"max_model_len": 131073},
            "max_model_len 131073 exceeds the model's 131072 positions",
        ),
        (LLAMA_8B, GROUP_128, "gptq", {"tp": 3}, "32 attention heads do not divide by tp 3"),
        (QWEN_7B, GROUP_128, "gptq", {"tp": 8}, "28 attention heads do not divide by tp 8"),
        (
            dataclasses.replace(LLAMA_8B, num_key_value_heads=6, num_attention_heads=24),
            GROUP_128,
            "gptq",
            {"tp": 4},
            "6 key-value heads neither divide by tp 4 nor it by them",
        ),
        (
            dataclasses.replace(LLAMA_8B, intermediate_size=2056),
            QuantScheme(4, -1),
            "gptq",
            {"tp": 16},
            "intermediate_size 2056 does not divide by tp 16",
        ),
        (
            LLAMA_2_7B,
            GROUP_128,
            "gptq",
            {"tp": 4},
            r"mlp\.down_proj has 2752 input features per GPU, not a multiple of 128; "
            r"mlp\.down_proj has 2752 input features per GPU, not a multiple of group_size 128",
        ),
        (
            QWEN_4B,
            GROUP_128,
            "gptq",
            {"tp": 8},
            r"mlp\.down_proj has 1216 input features per GPU, not a multiple of 128",
        ),
        (
            dataclasses.replace(LLAMA_8B, intermediate_size=14368),
            QuantScheme(4, 32),
            "gptq",
            {},
            r"mlp\.gate_proj has 14368 output features per GPU, not a multiple of 64",
        ),
    ],
)
def test_what_could_not_be_loaded_is_refused(
    config: ModelConfig,
    scheme: QuantScheme,
    quant_format: QuantFormat,
    fields: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(IncompatibleError, match=message) as caught:
        check_servable(config, build_plan(config, scheme), quant_format, target(**fields))
    assert caught.value.exit_code == 7


def test_the_same_is_served_where_the_rule_does_not_hold() -> None:
    """Each rule has a neighbour on the right side of it."""
    for config, scheme, quant_format, fields in [
        (LLAMA_8B, QuantScheme(4, 128, sym=False), "compressed-tensors", {}),
        (LLAMA_8B, QuantScheme(4, -1, desc_act=True), "gptq", {}),
        (LLAMA_8B, GROUP_128, "gptq", {"device": "cpu"}),
        # Four GPUs share each key-value head, so none has less than a whole one.
        (dataclasses.replace(LLAMA_8B, intermediate_size=16384), GROUP_128, "gptq", {"tp": 32}),
        (LLAMA_2_7B, GROUP_128, "gptq", {"tp": 2}),
        (QWEN_4B, GROUP_128, "gptq", {"tp": 4}),
    ]:
        assert refusal(config, scheme, quant_format, target(**fields)) == ""


def test_all_broken_rules_are_named_at_once() -> None:
    plan = build_plan(LLAMA_8B, QuantScheme(8, 128, sym=False))
    aim = target(device="cpu", tp=3, max_model_len=10**6)
    with pytest.raises(IncompatibleError) as caught:
        check_servable(LLAMA_8B, plan, "gptq", aim)
    message = str(caught.value)
    assert message.startswith("vLLM on cpu with tp 3 could not serve this: ")
    for words in ("must be symmetric", "4 bits, not 8", "1000000 exceeds", "do not divide by tp 3"):
        assert words in message


def test_the_gpu_is_named() -> None:
    plan = build_plan(LLAMA_8B, GROUP_128)
    with pytest.raises(IncompatibleError, match="vLLM on rtx4090 with tp 3"):
        check_servable(LLAMA_8B, plan, "gptq", target(tp=3, gpu="rtx4090"))


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_other_runtimes_have_other_rules(runtime: str) -> None:
    asymmetric = QuantScheme(8, 128, sym=False)
    assert refusal(LLAMA_8B, asymmetric, "gptq", target(runtime=runtime)) == ""
    assert refusal(LLAMA_8B, asymmetric, "gptq", target()) != ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (({}, {"sym": False}), "format gptq must be symmetric"),
        (({"device": "cpu"}, {"bits": 8}), "take 4 bits, not 8"),
        (({"tp": 2}, {}), "self_attn.o_proj has 64 input features per GPU, not a multiple of 128"),
        (({"tp": 3}, {}), "4 attention heads do not divide by tp 3"),
        (({"max_model_len": 512}, {}), "max_model_len 512 exceeds the model's 256 positions"),
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
    aim = {"runtime": "vllm", **fields}
    recipe = make_recipe(random_model, documents, {"quantize": step}, target=aim)
    done = run_cli("validate", write_recipe(tmp_path, recipe))
    assert done.returncode == 7
    assert done.stderr.startswith("incompatible: step quantize: vLLM on ")
    assert message in done.stderr
    assert done.stdout == ""


MIXTRAL = dataclasses.replace(
    MISTRAL_7B,
    model_type="mixtral",
    num_hidden_layers=2,
    experts=ExpertsConfig(EXPERT_NAMES["mixtral"], 8, 2, 14336, frozenset()),
)


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_mixtral_is_served_whole(tp: int) -> None:
    plan = build_plan(MIXTRAL, GROUP_128)
    check_servable(MIXTRAL, plan, "compressed-tensors", target(tp=tp))


def test_experts_of_a_block_must_be_alike() -> None:
    overrides = [LayerOverride(layers="model.layers.1.*.experts.3.*", skip=True)]
    plan = build_plan(MIXTRAL, GROUP_128, overrides)
    pattern = (
        r"tp 1 could not serve this: model\.layers\.1\.block_sparse_moe: experts are loaded as"
    )
    with pytest.raises(IncompatibleError, match=pattern):
        check_servable(MIXTRAL, plan, "gptq", target())


def test_an_experts_down_projection_is_cut_along_its_input() -> None:
    experts = dataclasses.replace(MIXTRAL.experts, inner_size=768)
    narrow = dataclasses.replace(MIXTRAL, experts=experts)
    found = refusal(narrow, GROUP_128, "gptq", target(tp=4))
    assert "block_sparse_moe.experts.*.w2 has 192 input features per GPU" in found
    assert "w1 has" not in found
    odd = dataclasses.replace(narrow, experts=dataclasses.replace(experts, inner_size=770))
    found = refusal(odd, QuantScheme(4, -1), "gptq", target(tp=4))
    assert "an expert's size 770 does not divide by tp 4" in found
