from dataclasses import replace
from typing import Any

import pytest

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.compressed_tensors_config import build_compressed_tensors_config
from llmopt.checkpoint.gptq_config import build_gptq_config
from llmopt.checkpoint.quant_plan import QuantPlan
from llmopt.checkpoint.quantization_config import parse_quantization_config
from llmopt.checkpoint.stored_quantization import LayerFormat, StoredLayer, expected_tensors
from llmopt.errors import InputError

SCHEMES = [
    QuantScheme(bits, group_size, sym, desc_act)
    for bits in (2, 3, 4, 8)
    for group_size in (-1, 32, 128)
    for sym in (True, False)
    for desc_act in (True, False)
]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
LAYERS = (*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
FOUR, EIGHT = QuantScheme(4, 128), QuantScheme(8, 32)
DAMP = {"damp_percent": 0.01, "quantizer": "test"}


def make_plan(
    base: QuantScheme, changes: dict[str, QuantScheme | None] | None = None, num_blocks: int = 12
) -> QuantPlan:
    """Returns the plan of a model of seven layers a block, some of them changed."""
    names = [f"model.layers.{block}.{layer}" for block in range(num_blocks) for layer in LAYERS]
    return QuantPlan(base, {**dict.fromkeys(names, base), **(changes or {})})


MIXED = make_plan(
    FOUR,
    {
        "model.layers.1.self_attn.q_proj": EIGHT,
        "model.layers.1.self_attn.k_proj": EIGHT,
        "model.layers.1.self_attn.v_proj": EIGHT,
        "model.layers.1.mlp.down_proj": replace(FOUR, bits=8),
        "model.layers.11.mlp.down_proj": replace(FOUR, bits=8),
        "model.layers.2.mlp.gate_proj": None,
        "model.layers.2.mlp.up_proj": None,
        "model.layers.3.self_attn.o_proj": replace(FOUR, sym=False),
    },
)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_what_is_built_is_read_back(scheme: QuantScheme) -> None:
    plan = make_plan(scheme)
    gptq = parse_quantization_config(build_gptq_config(plan, **DAMP))
    # Act-order within one group moves no column, so compressed-tensors does not know of it.
    expected = replace(scheme, desc_act=scheme.desc_act and scheme.group_size != -1)
    compressed = parse_quantization_config(build_compressed_tensors_config(plan))
    for name in plan.schemes:
        assert gptq.find_layer(name) == StoredLayer("gptq", scheme)
        assert compressed.find_layer(name) == StoredLayer("pack-quantized", expected)
    assert gptq.find_layer("lm_head") is None
    assert compressed.find_layer("lm_head") is None


@pytest.mark.parametrize(
    "plan", [MIXED, make_plan(EIGHT, {"lm_head": FOUR}, 1)], ids=["mixed", "head"]
)
def test_every_exception_is_read_back(plan: QuantPlan) -> None:
    gptq = parse_quantization_config(build_gptq_config(plan, **DAMP))
    compressed = parse_quantization_config(build_compressed_tensors_config(plan))
    for name, scheme in plan.schemes.items():
        stored = gptq.find_layer(name)
        assert (None if stored is None else stored.scheme) == scheme
        stored = compressed.find_layer(name)
        assert (None if stored is None else stored.scheme) == scheme


def test_gptq_config_names_exceptions_as_vllm_and_gptqmodel_read_them() -> None:
    assert build_gptq_config(MIXED, **DAMP)["dynamic"] == {
        r"+:model\.layers\.(?:1)\.self_attn\.q_proj$": {"bits": 8, "group_size": 32},
        r"+:model\.layers\.(?:1)\.self_attn\.k_proj$": {"bits": 8, "group_size": 32},
        r"+:model\.layers\.(?:1)\.self_attn\.v_proj$": {"bits": 8, "group_size": 32},
        r"+:model\.layers\.(?:1|11)\.mlp\.down_proj$": {"bits": 8},
        r"-:model\.layers\.(?:2)\.mlp\.gate_proj$": {},
        r"-:model\.layers\.(?:2)\.mlp\.up_proj$": {},
        r"+:model\.layers\.(?:3)\.self_attn\.o_proj$": {"sym": False},
        r"+:model\.layers\.(?:1)\.self_attn\.qkv_proj$": {"bits": 8, "group_size": 32},
        r"-:model\.layers\.(?:2)\.mlp\.gate_up_proj$": {},
    }


def make_expert_plan(changes: dict[str, QuantScheme | None]) -> QuantPlan:
    """Returns the plan of two blocks of three experts, some of their layers changed."""
    mixtures = [f"model.layers.{block}.mlp.experts" for block in range(2)]
    layers = ("gate_proj", "up_proj", "down_proj")
    names = [f"{mixture}.{e}.{layer}" for mixture in mixtures for e in range(3) for layer in layers]
    routers = tuple(f"model.layers.{block}.mlp.gate" for block in range(2))
    return QuantPlan(FOUR, {**dict.fromkeys(names, FOUR), **changes}, routers)


ROUTERS = {r"-:model\.layers\.(?:0|1)\.mlp\.gate$": {}}


def test_routers_are_named_as_left_out() -> None:
    plan = make_expert_plan({})
    assert build_gptq_config(plan, **DAMP)["dynamic"] == ROUTERS
    assert build_compressed_tensors_config(plan)["ignore"] == [*plan.routers, "lm_head"]


def test_experts_that_are_changed_alike_share_a_pattern() -> None:
    names = [f"model.layers.{b}.mlp.experts.{e}.down_proj" for b in (0, 1) for e in (0, 2)]
    plan = make_expert_plan({**dict.fromkeys(names, EIGHT), names[1]: None})
    assert build_gptq_config(plan, **DAMP)["dynamic"] == {
        r"+:model\.layers\.(?:0|1)\.mlp\.experts\.(?:0)\.down_proj$": {"bits": 8, "group_size": 32},
        r"-:model\.layers\.(?:0)\.mlp\.experts\.(?:2)\.down_proj$": {},
        r"+:model\.layers\.(?:1)\.mlp\.experts\.(?:2)\.down_proj$": {"bits": 8, "group_size": 32},
        **ROUTERS,
    }
    parsed = parse_quantization_config(build_gptq_config(plan, **DAMP))
    for name, scheme in plan.schemes.items():
        stored = parsed.find_layer(name)
        assert (None if stored is None else stored.scheme) == scheme


def test_a_mixture_that_is_changed_as_a_whole_is_named_as_servers_ask_for_it() -> None:
    plan = make_expert_plan({})
    second = {name: EIGHT for name in plan.schemes if ".layers.1." in name}
    dynamic = build_gptq_config(make_expert_plan(second), **DAMP)["dynamic"]
    pattern = r"+:model\.layers\.(?:1)\.mlp\.experts"
    assert dynamic == {
        **{
            rf"{pattern}\.(?:0|1|2)\.{layer}$": {"bits": 8, "group_size": 32}
            for layer in ("gate_proj", "up_proj", "down_proj")
        },
        **ROUTERS,
        rf"{pattern}$": {"bits": 8, "group_size": 32},
    }


def test_static_groups_need_no_g_idx() -> None:
    plan = make_plan(QuantScheme(4, 128, desc_act=True, static_groups=True))
    assert build_gptq_config(plan, **DAMP)["desc_act"] is False
    config = build_compressed_tensors_config(plan)
    assert config["config_groups"]["group_0"]["weights"]["actorder"] == "weight"
    stored = parse_quantization_config(config).base
    assert stored == StoredLayer("pack-quantized", plan.base)
    assert "weight_g_idx" not in expected_tensors(stored, (32, 128), "BF16")


def test_gptq_config_is_complete() -> None:
    plan = make_plan(QuantScheme(8, 64, sym=True, desc_act=True))
    assert build_gptq_config(plan, damp_percent=0.02, quantizer="llmopt:1") == {
        "quant_method": "gptq",
        "bits": 8,
        "group_size": 64,
        "sym": True,
        "desc_act": True,
        "lm_head": False,
        "checkpoint_format": "gptq",
        "true_sequential": True,
        "damp_percent": 0.02,
        "pack_dtype": "int32",
        "meta": {"quantizer": ["llmopt:1"]},
    }


def test_compressed_tensors_config_names_strategy_and_order() -> None:
    def weights(scheme: QuantScheme) -> dict[str, Any]:
        config = build_compressed_tensors_config(make_plan(scheme))
        assert config["ignore"] == ["lm_head"]
        assert config["format"] == "pack-quantized"
        (group,) = config["config_groups"].values()
        assert group["targets"] == ["Linear"]
        return dict(group["weights"])

    by_group = weights(QuantScheme(4, 32, sym=False, desc_act=True))
    assert (by_group["strategy"], by_group["group_size"]) == ("group", 32)
    assert (by_group["symmetric"], by_group["actorder"]) == (False, "group")
    by_channel = weights(QuantScheme(8, -1))
    assert (by_channel["strategy"], by_channel["group_size"]) == ("channel", None)
    assert (by_channel["num_bits"], by_channel["actorder"]) == (8, None)


def test_compressed_tensors_config_has_a_group_per_scheme() -> None:
    config = build_compressed_tensors_config(MIXED)
    targets = [group["targets"] for group in config["config_groups"].values()]
    assert targets == [
        ["Linear"],
        [f"model.layers.1.{layer}" for layer in ATTENTION[:3]],
        ["model.layers.1.mlp.down_proj", "model.layers.11.mlp.down_proj"],
        ["model.layers.3.self_attn.o_proj"],
    ]
    skipped = ["model.layers.2.mlp.gate_proj", "model.layers.2.mlp.up_proj"]
    assert config["ignore"] == [*skipped, "lm_head"]


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2", "pack-quantized"])
def test_expected_shapes_of_a_layer_with_a_short_last_group(layout: LayerFormat) -> None:
    scheme = QuantScheme(4, 64, sym=False, desc_act=True)
    shapes = expected_tensors(StoredLayer(layout, scheme), (24, 80), "BF16")
    if layout != "pack-quantized":
        assert shapes == {
            "qweight": ("I32", (10, 24)),
            "qzeros": ("I32", (2, 3)),
            "scales": ("F16", (2, 24)),
            "g_idx": ("I32", (80,)),
        }
    else:
        assert shapes == {
            "weight_packed": ("I32", (24, 10)),
            "weight_scale": ("BF16", (24, 2)),
            "weight_shape": ("I64", (2,)),
            "weight_zero_point": ("I32", (3, 2)),
            "weight_g_idx": ("I32", (80,)),
        }


def test_gptq_defaults_are_autogptqs() -> None:
    assert parse_quantization_config(GPTQ).base == StoredLayer("gptq", QuantScheme(4, 128))
    second = parse_quantization_config({**GPTQ, "checkpoint_format": "gptq_v2"}).base
    assert second == StoredLayer("gptq_v2", QuantScheme(4, 128))


def test_the_first_pattern_decides_and_matches_from_the_start() -> None:
    dynamic = {"-:.*down": {}, ".*mlp": {"bits": 8}, "+:mlp": {"bits": 2}}
    stored = parse_quantization_config({**GPTQ, "dynamic": dynamic})
    assert stored.find_layer("model.layers.0.mlp.down_proj") is None
    for name, bits in [("model.layers.0.mlp.up_proj", 8), ("model.layers.0.o_proj", 4)]:
        found = stored.find_layer(name)
        assert found is not None
        assert found.scheme.bits == bits


def compressed(**changes: Any) -> dict[str, Any]:
    """Returns a compressed-tensors config with some keys changed."""
    return {**build_compressed_tensors_config(make_plan(QuantScheme(4, 128))), **changes}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "awq"}, "quantised by 'awq'"),
        ({}, "quantised by None"),
        ({"quant_method": ["gptq"]}, r"quantised by \['gptq'\]"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
        ({**GPTQ, "bits": 5}, "bits is 5; supported: 2, 3, 4, 8"),
        ({**GPTQ, "bits": "4"}, "bits is 4; supported"),
        ({**GPTQ, "group_size": 100}, "group_size is 100; supported: -1, 32, 64, 128"),
        ({**GPTQ, "dynamic": {"+:(": {"bits": 8}}}, r"'\(' is no regular expression"),
        ({**GPTQ, "dynamic": {"+:.*": {"bits": 7}}}, "bits is 7"),
        ({**GPTQ, "dynamic": [1]}, r"dynamic is \[1\]"),
        ({"quant_method": "gptq", "bits": 4}, "group_size"),
        (compressed(format="marlin-24"), "format is 'marlin-24'"),
        (compressed(config_groups={}), "without config_groups"),
        (compressed(config_groups={"a": {}, "b": {}}), "weights"),
        (compressed(config_groups={"a": {"weights": None}}), "compressed-tensors: "),
        (compressed(config_groups=["a"]), "without config_groups"),
        (compressed(config_groups=3), "without config_groups"),
        (compressed(ignore=["re:("]), r"'\(' is no regular expression"),
    ],
)
def test_what_is_not_understood_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_quantization_config(config)
