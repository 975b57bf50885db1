from dataclasses import replace
from typing import Any

import pytest

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.quantization_config import (
    StoredQuantization,
    build_compressed_tensors_config,
    build_gptq_config,
    expected_tensors,
    parse_quantization_config,
)
from llmopt.errors import InputError

SCHEMES = [
    QuantScheme(bits, group_size, sym, desc_act)
    for bits in (4, 8)
    for group_size in (-1, 32, 128)
    for sym in (True, False)
    for desc_act in (True, False)
]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_what_is_built_is_read_back(scheme: QuantScheme) -> None:
    gptq = build_gptq_config(scheme, damp_percent=0.01, quantizer="test")
    assert parse_quantization_config(gptq) == StoredQuantization("gptq", scheme)
    # Act-order within one group moves no column, so compressed-tensors does not know of it.
    expected = replace(scheme, desc_act=scheme.desc_act and scheme.group_size != -1)
    compressed = build_compressed_tensors_config(scheme)
    assert parse_quantization_config(compressed) == StoredQuantization(
        "compressed-tensors", expected
    )


def test_gptq_config_is_complete() -> None:
    scheme = QuantScheme(8, 64, sym=True, desc_act=True)
    assert build_gptq_config(scheme, damp_percent=0.02, quantizer="llmopt:1") == {
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
        config = build_compressed_tensors_config(scheme)
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


@pytest.mark.parametrize("format_name", ["gptq", "compressed-tensors"])
def test_expected_shapes_of_a_layer_with_a_short_last_group(format_name: Any) -> None:
    scheme = QuantScheme(4, 64, sym=False, desc_act=True)
    shapes = expected_tensors(StoredQuantization(format_name, scheme), (24, 80), "BF16")
    if format_name == "gptq":
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
    assert parse_quantization_config(GPTQ).scheme == QuantScheme(4, 128, sym=True, desc_act=False)


def compressed(**changes: Any) -> dict[str, Any]:
    """Returns a compressed-tensors config with some keys changed."""
    return {**build_compressed_tensors_config(QuantScheme(4, 128)), **changes}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "awq"}, "quantised by 'awq'"),
        ({}, "quantised by None"),
        ({**GPTQ, "checkpoint_format": "gptq_v2"}, "checkpoint_format is 'gptq_v2'"),
        ({**GPTQ, "bits": 3}, "bits is 3; supported: 4, 8"),
        ({**GPTQ, "bits": "4"}, "bits is 4; supported"),
        ({**GPTQ, "group_size": 100}, "group_size is 100; supported: -1, 32, 64, 128"),
        ({"quant_method": "gptq", "bits": 4}, "group_size"),
        (compressed(format="int-quantized"), "format is 'int-quantized'"),
        (compressed(config_groups={}), "with 0 config_groups"),
        (compressed(config_groups={"a": {}, "b": {}}), "with 2 config_groups"),
        (compressed(config_groups={"a": {}}), "weights"),
        (compressed(config_groups={"a": {"weights": None}}), "compressed-tensors: "),
        (compressed(config_groups=["a"]), "with no config_groups"),
        (compressed(config_groups=3), "with no config_groups"),
    ],
)
def test_what_is_not_understood_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_quantization_config(config)
