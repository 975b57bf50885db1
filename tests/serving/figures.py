"""Figures of well-known models, and short ways to describe what is served of them."""

import dataclasses
from pathlib import Path
from typing import Any

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.model_config import ModelConfig
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.errors import IncompatibleError
from llmopt.serving.preflight import check_servable
from llmopt.serving.served_weights import (
    ServedFormat,
    ServedWeights,
    Storage,
    all_layers,
    describe_plan,
    describe_uniform,
)
from llmopt.serving.target import Target
from llmopt.steps.layer_overrides import LayerOverride, build_plan

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
LLAMA_70B = dataclasses.replace(
    LLAMA_8B,
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
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


def serve(
    config: ModelConfig = LLAMA_8B,
    scheme: QuantScheme = GROUP_128,
    quant_format: QuantFormat = "gptq",
    *overrides: dict[str, Any],
    lm_head: bool = False,
) -> ServedWeights:
    """Describes a weight-only integer quantisation."""
    parsed = [LayerOverride.model_validate(override) for override in overrides]
    return describe_plan(config, build_plan(config, scheme, parsed, lm_head=lm_head), quant_format)


def serve_uniform(
    storage: Storage, config: ModelConfig = LLAMA_8B, served_format: ServedFormat | None = None
) -> ServedWeights:
    """Describes a model whose blocks' layers are all stored in one way, a byte per weight."""
    rounded = {name for name, _ in all_layers(config) if name != "lm_head"}
    named = served_format or ("bitsandbytes" if storage == "nf4" else "compressed-tensors")
    return describe_uniform(config, named, storage, rounded, lambda shape: shape[0] * shape[1])


def aim(**fields: Any) -> Target:
    """Returns a target, for vLLM where nothing else is said."""
    return Target.model_validate({"runtime": "vllm", **fields})


def refusal(weights: ServedWeights, target: Target) -> str:
    """Returns what is wrong, or nothing."""
    try:
        check_servable(weights, target)
    except IncompatibleError as error:
        return str(error)
    return ""
