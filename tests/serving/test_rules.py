"""Every preflight rule refuses what it is about, and serves the neighbour on its right side."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.model_config import ModelConfig
from llmopt.serving.preflight import RULES
from llmopt.serving.rule import rule_name
from llmopt.serving.served_weights import ServedLayer, ServedWeights
from tests.serving.figures import (
    GROUP_128,
    LLAMA_2_7B,
    LLAMA_8B,
    LLAMA_70B,
    QWEN_4B,
    QWEN_7B,
    aim,
    refusal,
    serve,
    serve_uniform,
)
from tests.serving.test_experts import MIXTRAL

CT = "compressed-tensors"
V_IN_32 = {"layers": "*.v_proj", "group_size": 32}
V_LEFT = {"layers": "*.v_proj", "skip": True}


@dataclass(frozen=True)
class Case:
    """Something that a rule refuses, and a neighbour that it does not.

    `target` and `served_target` are fields of the recipe's target; the neighbour differs in the
    weights, in the target, or in both.
    """

    rule: str
    message: str
    refused: ServedWeights
    served: ServedWeights | None = None
    target: dict[str, Any] = field(default_factory=dict)
    served_target: dict[str, Any] | None = None


def experts(quant_format: Any, down: QuantScheme, others: QuantScheme) -> ServedWeights:
    """Returns a block of two experts, as a mixture's would be described."""
    base = serve(quant_format=quant_format)
    place = "model.layers.0.mlp.experts"
    layers = [
        ServedLayer(f"{place}.{number}.{part}", shape_OI, "integer", scheme, 1)
        for number in range(2)
        for part, shape_OI, scheme in (
            ("gate_proj", (1024, 2048), others),
            ("up_proj", (1024, 2048), others),
            ("down_proj", (2048, 1024), down),
        )
    ]
    return dataclasses.replace(base, layers=(*base.layers, *layers))


def with_rope(**rope: Any) -> ModelConfig:
    return dataclasses.replace(LLAMA_8B, raw={"rope_scaling": rope})


CASES = [
    Case(
        "gptq-symmetric",
        "format gptq must be symmetric (all layers)",
        serve(scheme=QuantScheme(4, 128, sym=False)),
        serve(LLAMA_8B, QuantScheme(4, 128, sym=False), CT),
    ),
    Case(
        "gptq-symmetric",
        "format gptq must be symmetric (mlp.down_proj)",
        serve(LLAMA_8B, GROUP_128, "gptq", {"layers": "*.down_proj", "sym": False}),
        serve(LLAMA_8B, GROUP_128, CT, {"layers": "*.down_proj", "sym": False}),
    ),
    Case(
        "served-bits",
        "3 bits are not served, only 4 and 8 (all layers)",
        serve(scheme=QuantScheme(3, 128)),
        serve(scheme=QuantScheme(8, 128)),
    ),
    Case(
        "served-bits",
        "2 bits are not served, only 4 and 8 (mlp.down_proj)",
        serve(LLAMA_8B, GROUP_128, CT, {"layers": "*.down_proj", "bits": 2}),
        serve(LLAMA_8B, GROUP_128, CT, {"layers": "*.down_proj", "bits": 8}),
    ),
    Case(
        "asymmetric-bits",
        "an asymmetric grid must have 4 bits, not 8 (all layers)",
        serve(LLAMA_8B, QuantScheme(8, 128, sym=False), CT),
        served_target={"gpu": "h100"},
    ),
    Case(
        "asymmetric-bits",
        "an asymmetric grid must have 4 bits, not 8 (all layers)",
        serve(LLAMA_8B, QuantScheme(8, 32, sym=False), CT),
        serve(LLAMA_8B, QuantScheme(8, 64, sym=False), CT),
        {"gpu": "h100"},
    ),
    Case(
        "act-order",
        "act-order with groups is no longer served (all layers)",
        serve(scheme=QuantScheme(4, 128, desc_act=True)),
        serve(scheme=QuantScheme(4, -1, desc_act=True)),
    ),
    Case(
        "act-order",
        "act-order with groups is no longer served",
        serve(LLAMA_8B, QuantScheme(4, 128, desc_act=True), CT),
        serve(LLAMA_8B, QuantScheme(4, 128, desc_act=True, static_groups=True), CT),
    ),
    Case(
        "cpu-bits",
        "weight-only kernels on a CPU take 4 bits, not 8 (all layers)",
        serve(scheme=QuantScheme(8, 128)),
        target={"device": "cpu"},
        served_target={"device": "cuda"},
    ),
    Case(
        "fused-alike",
        "q_proj, k_proj, v_proj are loaded as one and must be alike (model.layers.0.self_attn, "
        "model.layers.1.self_attn, model.layers.2.self_attn and 29 more)",
        serve(LLAMA_8B, GROUP_128, "gptq", V_IN_32),
        serve(LLAMA_8B, GROUP_128, "gptq", {**V_IN_32, "layers": "*.[qkv]_proj"}),
    ),
    Case(
        "fused-alike",
        "q_proj, k_proj, v_proj are loaded as one and must be alike (model.layers.31.self_attn)",
        serve(LLAMA_8B, GROUP_128, CT, {**V_LEFT, "layers": "*.31.*.v_proj"}),
        serve(LLAMA_8B, GROUP_128, CT, {**V_LEFT, "layers": "*.31.*"}),
    ),
    Case(
        "experts-alike",
        "a block's experts are loaded as one and must be alike (model.layers.0.mlp.experts)",
        experts(CT, QuantScheme(8, 128), GROUP_128),
        experts(CT, QuantScheme(8, 128), QuantScheme(8, 128)),
    ),
    Case(
        "experts-alike",
        "a block's experts are loaded as one and must be alike (model.layers.0.mlp.experts)",
        experts("gptq", GROUP_128, QuantScheme(8, 128)),
        experts("gptq", GROUP_128, GROUP_128),
    ),
    Case(
        "nf4-tensor-parallel",
        "bitsandbytes weights can't be shared by tp 2 GPUs",
        serve_uniform("nf4"),
        target={"tp": 2},
        served_target={"tp": 1},
    ),
    Case(
        "gpu-capability",
        "integer weights need compute capability 7.5, v100 has 7.0",
        serve(),
        target={"gpu": "v100", "max_model_len": 4096},
        served_target={"gpu": "t4", "max_model_len": 4096},
    ),
    Case(
        "gpu-capability",
        "fp8 weights need compute capability 7.5, v100-32 has 7.0",
        serve_uniform("fp8"),
        serve_uniform("nf4"),
        {"gpu": "v100-32", "max_model_len": 4096},
    ),
    Case(
        "int8-blackwell",
        "INT8 W8A8 has no kernel on b200 (compute capability 10.0)",
        serve_uniform("int8"),
        target={"gpu": "b200"},
        served_target={"gpu": "h200"},
    ),
    Case(
        "int8-blackwell",
        "INT8 W8A8 has no kernel on rtx5090 (compute capability 12.0)",
        serve_uniform("int8"),
        serve_uniform("fp8"),
        {"gpu": "rtx5090", "max_model_len": 4096},
    ),
    Case(
        "context-length",
        "max_model_len 131073 exceeds the model's 131072 positions",
        serve(),
        target={"max_model_len": 131073},
        served_target={"max_model_len": 131072},
    ),
    Case(
        "context-length",
        "max_model_len 262145 exceeds the model's 262144 positions",
        serve(with_rope(rope_type="linear", factor=2.0)),
        target={"max_model_len": 262145},
        served_target={"max_model_len": 262144},
    ),
    Case(
        "context-length",
        "max_model_len 131073 exceeds the model's 131072 positions",
        serve(with_rope(rope_type="yarn", factor=4.0)),
        serve(with_rope(type="dynamic", factor=4.0)),
        {"max_model_len": 131073},
    ),
    Case(
        "heads-per-gpu",
        "28 attention heads do not divide by tp 8",
        serve(QWEN_7B),
        target={"tp": 8},
        served_target={"tp": 4},
    ),
    Case(
        "key-value-heads-per-gpu",
        "6 key-value heads neither divide by tp 4 nor it by them",
        serve(dataclasses.replace(LLAMA_8B, num_key_value_heads=6, num_attention_heads=24)),
        serve(dataclasses.replace(LLAMA_8B, num_key_value_heads=2, num_attention_heads=24)),
        {"tp": 4},
    ),
    Case(
        "features-per-gpu",
        "mlp.down_proj has 2056 input features, which do not divide by tp 16",
        serve(dataclasses.replace(LLAMA_8B, intermediate_size=2056), QuantScheme(4, -1), CT),
        serve(dataclasses.replace(LLAMA_8B, intermediate_size=2048), QuantScheme(4, -1), CT),
        {"tp": 16},
    ),
    Case(
        "group-per-gpu",
        "mlp.down_proj has 2752 input features per GPU, not a multiple of group_size 128",
        serve(LLAMA_2_7B),
        serve(LLAMA_2_7B, GROUP_128, "gptq", {"layers": "*.down_proj", "group_size": 64}),
        {"tp": 4},
    ),
    Case(
        "group-per-gpu",
        "mlp.down_proj has 1216 input features per GPU, not a multiple of group_size 128",
        serve(QWEN_4B),
        target={"tp": 8},
        served_target={"tp": 4},
    ),
    Case(
        "words-per-gpu",
        "mlp.gate_proj has 260 output features per GPU, not a multiple of 8",
        serve(dataclasses.replace(LLAMA_8B, intermediate_size=2080), QuantScheme(4, -1)),
        serve(dataclasses.replace(LLAMA_8B, intermediate_size=2112), QuantScheme(4, -1)),
        {"tp": 8},
    ),
    Case(
        "words-per-gpu",
        "mlp.down_proj has 260 input features per GPU, not a multiple of 8",
        serve(dataclasses.replace(LLAMA_8B, intermediate_size=2080), QuantScheme(4, -1), CT),
        serve(dataclasses.replace(LLAMA_8B, intermediate_size=2080), QuantScheme(8, -1), CT),
        {"tp": 8},
    ),
    Case(
        "cpu-shapes",
        "4240 input features, of fused layers together, are not a multiple of 32 (mlp.down_proj)",
        serve(dataclasses.replace(LLAMA_8B, intermediate_size=4240), QuantScheme(4, -1)),
        serve(dataclasses.replace(LLAMA_8B, intermediate_size=4256), QuantScheme(4, -1)),
        {"device": "cpu"},
    ),
    Case(
        "cpu-shapes",
        "4240 input features, of fused layers together, are not a multiple of 32 (mlp.down_proj)",
        serve(dataclasses.replace(LLAMA_8B, intermediate_size=4240), QuantScheme(4, -1)),
        target={"device": "cpu"},
        served_target={"device": "cuda"},
    ),
    Case(
        "gptq-vocabulary",
        "lm_head: a vocabulary of 128264 is not a multiple of 64",
        serve(dataclasses.replace(LLAMA_8B, vocab_size=128264), lm_head=True),
        serve(LLAMA_8B, lm_head=True),
    ),
    Case(
        "gptq-vocabulary",
        "lm_head: a vocabulary of 128264 is not a multiple of 64",
        serve(dataclasses.replace(LLAMA_8B, vocab_size=128264), lm_head=True),
        serve(dataclasses.replace(LLAMA_8B, vocab_size=128264), GROUP_128, CT, lm_head=True),
    ),
    Case(
        "memory",
        "exceed the 22.1 GiB that vLLM by default takes of the 24 GiB of rtx4090",
        serve(LLAMA_70B),
        serve(LLAMA_8B),
        {"gpu": "rtx4090", "max_model_len": 8192, "concurrency": 8},
    ),
    Case(
        "rounded-inputs",
        "INT8 layers round their inputs, which is not exported to ONNX",
        serve_uniform("int8"),
        serve(scheme=QuantScheme(3, 128, sym=False)),
        {"runtime": "onnxruntime"},
    ),
    Case(
        "exported-experts",
        "mixtral is a mixture of experts, which is not exported to ONNX",
        serve(MIXTRAL),
        serve(LLAMA_8B),
        {"runtime": "tensorrt"},
    ),
    Case(
        "tensorrt-nf4",
        "TensorRT has no NF4 weights",
        serve_uniform("nf4"),
        target={"runtime": "tensorrt"},
        served_target={"runtime": "onnxruntime"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_a_rule_refuses_and_its_neighbour_is_served(case: Case) -> None:
    said = refusal(case.refused, aim(**case.target))
    assert re.search(rf"{re.escape(case.message)}[^;]*\[{case.rule}\]", said), said
    assert "\n  → " in said
    served = case.refused if case.served is None else case.served
    fields = case.target if case.served_target is None else case.served_target
    assert refusal(served, aim(**fields)) == ""


def test_every_rule_has_a_case() -> None:
    rules = {rule_name(rule) for rules in RULES.values() for rule in rules}
    assert {case.rule for case in CASES} == rules
