"""What the real vLLM is asked about the preflight rules: data, which names each rule it proves.

A rule counts as proven where vLLM both refuses something that it is about and serves a neighbour.
"""

from dataclasses import dataclass, field
from typing import Any

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.stored_quantization import QuantFormat

GPTQ: QuantFormat = "gptq"
CT: QuantFormat = "compressed-tensors"
G128 = QuantScheme(4, 128)
# What each model is made with, over hidden 256 and 2 blocks.
MODELS: dict[str, dict[str, int]] = {
    "usual": {},
    "vocabulary-6152": {"vocab_size": 6152},  # not of whole 64s
    "width-544": {"intermediate_size": 544},  # 17 x 32
    "width-528": {"intermediate_size": 528},  # 33 x 16
}
MIXED = (
    {"layers": "*.0.self_attn.[qkv]_proj", "group_size": 32},
    {"layers": "*.mlp.gate_proj", "group_size": 64},
    {"layers": "*.mlp.up_proj", "group_size": 64},
    {"layers": "*.mlp.down_proj", "group_size": 32},
)
LEFT_OUT = (
    {"layers": "*.1.self_attn.*", "skip": True},
    {"layers": "*.0.mlp.down_proj", "skip": True},
)
V_LEFT_OUT = ({"layers": "*.v_proj", "skip": True},)
V_IN_32 = ({"layers": "*.v_proj", "group_size": 32},)
DOWN_IN_8 = ({"layers": "*.down_proj", "bits": 8},)
DOWN_ASYMMETRIC = ({"layers": "*.down_proj", "sym": False},)


@dataclass(frozen=True)
class Load:
    """A checkpoint that vLLM on CPU loads.

    Attributes:
        name: Short and unique.
        rules: The rules that it bears on; all of them allow it, or the one that refuses it.
        quant_format: What it is written as.
        scheme: The base scheme.
        says: What vLLM refuses it with; None: it decodes what the integers mean.
        overrides: Layers with another scheme.
        model: A key of MODELS.
        lm_head: Whether the output projection is rounded too.
    """

    name: str
    rules: tuple[str, ...]
    quant_format: QuantFormat
    scheme: QuantScheme = G128
    says: str | None = None
    overrides: tuple[dict[str, Any], ...] = ()
    model: str = "usual"
    lm_head: bool = False


UNSUPPORTED = "Unsupported quantization config: bits="
SOME_SHARDS = "some but not all shards of model.layers.0.self_attn.qkv_proj"
DIFFERENT = "different quantization schemes for the shards of model.layers.0.self_attn.qkv_proj"
LOADS = (
    Load("usual-g", ("gptq-symmetric", "served-bits", "cpu-bits"), GPTQ),
    Load("usual-c", ("served-bits", "cpu-bits"), CT),
    Load("asymmetric-c", ("asymmetric-bits",), CT, QuantScheme(4, 128, sym=False)),
    Load("static-g", ("act-order",), GPTQ, QuantScheme(4, 128, True, True, True)),
    Load("static-c", ("act-order",), CT, QuantScheme(4, 128, True, True, True)),
    Load("mixed-g", ("fused-alike",), GPTQ, overrides=MIXED),
    Load("mixed-c", ("fused-alike",), CT, overrides=MIXED),
    Load("left-out-g", ("fused-alike",), GPTQ, overrides=LEFT_OUT),
    Load("left-out-c", ("fused-alike",), CT, overrides=LEFT_OUT),
    Load("width-544-g", ("cpu-shapes",), GPTQ, QuantScheme(4, 32), model="width-544"),
    Load("width-544-c", ("cpu-shapes",), CT, QuantScheme(4, 32), model="width-544"),
    Load("lm-head-g", ("gptq-vocabulary",), GPTQ, lm_head=True),
    Load("lm-head-c", (), CT, lm_head=True),
    Load("padded-lm-head-c", ("gptq-vocabulary",), CT, model="vocabulary-6152", lm_head=True),
    Load("asymmetric-g", ("gptq-symmetric",), GPTQ, QuantScheme(4, 128, sym=False), UNSUPPORTED),
    Load("asymmetric-layer-g", ("gptq-symmetric",), GPTQ, G128, UNSUPPORTED, DOWN_ASYMMETRIC),
    Load("2-bits-g", ("served-bits",), GPTQ, QuantScheme(2, 128), UNSUPPORTED),
    Load("3-bits-g", ("served-bits",), GPTQ, QuantScheme(3, 128), UNSUPPORTED),
    Load("2-bits-c", ("served-bits",), CT, QuantScheme(2, 128), "Quant type (uint2b2) not"),
    Load("3-bits-c", ("served-bits",), CT, QuantScheme(3, 128), "Quant type (uint3b4) not"),
    Load("8-bits-g", ("cpu-bits",), GPTQ, QuantScheme(8, 128), "does not support weight_bits"),
    Load("8-bits-c", ("cpu-bits",), CT, QuantScheme(8, 128), "Quant type (uint8b128) not"),
    Load("8-bits-layer-g", ("cpu-bits",), GPTQ, G128, "does not support weight_bits", DOWN_IN_8),
    Load(
        "asymmetric-8-c",
        ("asymmetric-bits",),
        CT,
        QuantScheme(8, 128, sym=False),
        "Quant type (uint8) not",
    ),
    Load("act-order-g", ("act-order",), GPTQ, QuantScheme(4, 128, True, True), "desc_act=True"),
    Load("act-order-c", ("act-order",), CT, QuantScheme(4, 128, True, True), "actorder='group'"),
    Load("v-left-out-g", ("fused-alike",), GPTQ, G128, SOME_SHARDS, V_LEFT_OUT),
    Load("v-left-out-c", ("fused-alike",), CT, G128, DIFFERENT, V_LEFT_OUT),
    Load("v-in-32-g", ("fused-alike",), GPTQ, G128, "AssertionError", V_IN_32),
    Load("v-in-32-c", ("fused-alike",), CT, G128, "AssertionError", V_IN_32),
    Load(
        "width-528-g",
        ("cpu-shapes",),
        GPTQ,
        QuantScheme(4, -1),
        "Input size (528) not supported by CPUWNA16",
        model="width-528",
    ),
    Load(
        "width-528-c",
        ("cpu-shapes",),
        CT,
        QuantScheme(4, -1),
        "Input size (528) not supported by CPUWNA16",
        model="width-528",
    ),
    Load(
        "padded-lm-head-g",
        ("gptq-vocabulary",),
        GPTQ,
        G128,
        "size of tensor a (6208) must match the size of tensor b (6152)",
        model="vocabulary-6152",
        lm_head=True,
    ),
)


@dataclass(frozen=True)
class Configuration:
    """A target of the usual model, of which vLLM only makes a configuration."""

    rule: str
    target: dict[str, int]
    says: str | None = None
    rope: dict[str, Any] = field(default_factory=dict)


LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
YARN = {
    "rope_type": "yarn",
    "factor": 2.0,
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 128,
}
CONFIGURATIONS = (
    Configuration("heads-per-gpu", {"tp": 2}),
    Configuration("heads-per-gpu", {"tp": 3}, "must be divisible by tensor parallel size"),
    Configuration("context-length", {"max_model_len": 256}),
    Configuration("context-length", {"max_model_len": 257}, "is greater than the derived"),
    Configuration("context-length", {"max_model_len": 512}, None, LINEAR),
    Configuration("context-length", {"max_model_len": 513}, "is greater than the derived", LINEAR),
    Configuration("context-length", {"max_model_len": 257}, "is greater than the derived", YARN),
)

# By the GPU's name, its capability in vLLM's words.
KERNEL_GPUS = {
    "v100": 70, "t4": 75, "a100-80": 80, "a10": 86, "rtx4090": 89, "h100": 90, "b200": 100,
    "rtx5090": 120,
}  # fmt: skip
KERNEL_RULES = ("served-bits", "asymmetric-bits", "gpu-capability", "group-per-gpu")


def _proven() -> set[tuple[str, str]]:
    outcomes: dict[tuple[str, str], set[bool]] = {}
    for load in LOADS:
        for rule in load.rules:
            outcomes.setdefault((rule, "cpu"), set()).add(load.says is None)
    for configuration in CONFIGURATIONS:
        key = (configuration.rule, "cpu (configuration)")
        outcomes.setdefault(key, set()).add(configuration.says is None)
    both = {key for key, seen in outcomes.items() if seen == {True, False}}
    return both | {(rule, "kernel choice") for rule in KERNEL_RULES}


PROVEN = _proven()
