"""AutoRound's own configs; real ones are in tests/peers/checkpoints/autoround-own*."""

from typing import Any

import pytest

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.quantization_config import parse_quantization_config
from llmopt.checkpoint.stored_quantization import StoredLayer, expected_tensors
from llmopt.errors import InputError

BASE = {"quant_method": "auto-round", "bits": 4, "group_size": 64, "sym": True, "data_type": "int"}
Q_PROJ = "model.layers.0.self_attn.q_proj"


def find_layer(name: str, **settings: Any) -> StoredLayer | None:
    stored = parse_quantization_config({**BASE, **settings})
    assert stored.method == "auto-round"
    return stored.find_layer(name)


@pytest.mark.parametrize(
    ("packing", "layout"),
    [
        ("auto_round:auto_gptq", "gptq"),
        ("auto_round:gptq", "gptq"),
        (None, "gptq"),
        ("auto_round", "gptq_v2"),
        ("auto_round:exllamav2", "gptq_v2"),
        ("auto_round:gptqmodel", "gptq_v2"),
    ],
)
def test_packing_says_how_zero_points_are_stored(packing: str | None, layout: str) -> None:
    layer = find_layer(Q_PROJ, packing_format=packing)
    assert layer == StoredLayer(layout, QuantScheme(4, 64), has_g_idx=False)  # type: ignore[arg-type]
    assert set(expected_tensors(layer, (64, 128), "BF16")) == {"qweight", "qzeros", "scales"}


def test_full_names_come_before_expressions_and_expressions_are_searched() -> None:
    extra = {
        r".*q_proj.*": {"bits": 8},
        Q_PROJ: {"bits": 2, "group_size": 32},
        r"mlp\.(gate|up)_proj$": {"sym": False},
        r"down": {"bits": 3},
    }
    changed = {
        Q_PROJ: QuantScheme(2, 32),
        "model.layers.1.self_attn.q_proj": QuantScheme(8, 64),
        "model.layers.1.mlp.up_proj": QuantScheme(4, 64, sym=False),
        "model.layers.1.mlp.down_proj": QuantScheme(4, 64),  # `down` is no layer's full name
        "model.layers.1.self_attn.v_proj": QuantScheme(4, 64),
    }
    for name, scheme in changed.items():
        layer = find_layer(name, extra_config=extra)
        assert layer is not None
        assert layer.scheme == scheme


def test_layers_of_16_bits_are_plain() -> None:
    extra = {Q_PROJ: {"bits": 16, "data_type": "float", "group_size": None}}
    assert find_layer(Q_PROJ, extra_config=extra) is None


def test_output_layer_is_rounded_only_where_it_is_named() -> None:
    assert find_layer("lm_head") is None
    layer = find_layer("lm_head", extra_config={"lm_head": {"bits": 8}})
    assert layer is not None
    assert layer.scheme == QuantScheme(8, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing_format": "auto_round:auto_awq"}, "packing_format is 'auto_round:auto_awq'"),
        ({"data_type": "mx_fp"}, "data_type is 'mx_fp'"),
        ({"act_bits": 8}, "act_bits 8; this reader knows"),
        ({"bits": 5}, "ValueError: bits is 5"),
        ({"bits": None}, "TypeError"),
        ({"group_size": [128, 128]}, "group_size is"),
        ({"extra_config": "all"}, "extra_config is 'all'"),
        ({"extra_config": {"(": {"bits": 8}}}, r"'\(' is no regular expression"),
        ({"extra_config": {Q_PROJ: {"group_size": 96}}}, "group_size is 96"),
    ],
    ids=str,
)
def test_what_is_not_read_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_layer(Q_PROJ, **settings)
