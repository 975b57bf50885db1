"""Configs of 8-bit and bitsandbytes checkpoints, built and read."""

from typing import Any

import pytest

from llmopt.checkpoint.bitsandbytes_config import build_bitsandbytes_config
from llmopt.checkpoint.bitsandbytes_format import BitsAndBytesScheme
from llmopt.checkpoint.quantization_config import parse_quantization_config
from llmopt.checkpoint.stored_quantization import ChannelLayer, NibbleLayer, expected_tensors
from llmopt.checkpoint.w8a8_config import build_w8a8_config
from llmopt.checkpoint.w8a8_format import W8A8Format
from llmopt.errors import InputError

UP = "model.layers.0.mlp.up_proj"
FORMATS: tuple[W8A8Format, ...] = ("int-quantized", "float-quantized")


def change_group(config: dict[str, Any], part: str, **changes: Any) -> dict[str, Any]:
    (group,) = config["config_groups"].values()
    group[part] = {**group[part], **changes}
    return config


@pytest.mark.parametrize("quant_format", FORMATS)
def test_w8a8_is_read_as_it_is_built(quant_format: W8A8Format) -> None:
    stored = parse_quantization_config(build_w8a8_config(quant_format, ["lm_head", UP]))
    expected = ChannelLayer(quant_format, rounds_inputs=True)
    assert stored.find_layer("model.layers.1.mlp.up_proj") == expected
    assert stored.find_layer("lm_head") is None
    assert stored.find_layer(UP) is None


def test_what_the_library_leaves_out_is_its_default() -> None:
    config = build_w8a8_config("float-quantized", ["lm_head"])
    (group,) = config["config_groups"].values()
    group["weights"] = {"type": "float", "strategy": "channel"}
    group["input_activations"] = {"type": "float", "strategy": "token", "dynamic": True}
    assert parse_quantization_config(config).base == ChannelLayer("float-quantized", True)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("weights", {"strategy": "group"}, "weights have strategy 'group'"),
        ("weights", {"strategy": "block", "block_structure": [128]}, r"block_structure is \[128\]"),
        ("weights", {"strategy": "block", "block_structure": None}, "TypeError"),
        ("weights", {"num_bits": 4}, "weights have num_bits 4"),
        ("weights", {"symmetric": False}, "weights have symmetric False"),
        ("input_activations", {"dynamic": False}, "activations have dynamic False"),
        ("input_activations", {"strategy": "tensor"}, "activations have dynamic True"),
        ("input_activations", {"strategy": "block"}, "activations have strategy 'block'"),
        ("input_activations", {"symmetric": False}, "activations have symmetric False"),
    ],
)
def test_other_scales_are_refused(part: str, changes: dict[str, Any], message: str) -> None:
    config = change_group(build_w8a8_config("int-quantized", []), part, **changes)
    with pytest.raises(InputError, match=message):
        parse_quantization_config(config)


@pytest.mark.parametrize(
    ("weights", "inputs", "layer"),
    [
        (
            {"strategy": "tensor"},
            {"strategy": "tensor", "dynamic": False},
            ChannelLayer("float-quantized", True, "tensor", has_input_scale=True),
        ),
        (
            {"strategy": "block", "block_structure": [128, 64]},
            {"strategy": "group", "group_size": 64},
            ChannelLayer("float-quantized", True, "block", (128, 64), input_group_size=64),
        ),
    ],
)
def test_other_tools_share_scales_in_other_ways(
    weights: dict[str, Any], inputs: dict[str, Any], layer: ChannelLayer
) -> None:
    config = change_group(build_w8a8_config("float-quantized", []), "weights", **weights)
    config = change_group(config, "input_activations", **inputs)
    assert parse_quantization_config(config).base == layer
    shapes = expected_tensors(layer, (200, 128), "BF16")
    assert shapes["weight"] == ("F8_E4M3", (200, 128))
    expected = (1,) if layer.scales == "tensor" else (2, 2)
    assert shapes["weight_scale"] == ("BF16", expected)
    assert shapes.get("input_scale") == (("BF16", (1,)) if layer.has_input_scale else None)


def test_a_format_and_another_type_are_refused() -> None:
    config = change_group(build_w8a8_config("int-quantized", []), "weights", type="float")
    with pytest.raises(InputError, match=r"format is 'int-quantized' \(float\)"):
        parse_quantization_config(config)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [True, False])
def test_bitsandbytes_is_read_as_it_is_built(quant_type: str, double_quant: bool) -> None:
    scheme = BitsAndBytesScheme(quant_type, double_quant, 64)  # type: ignore[arg-type]
    stored = parse_quantization_config(build_bitsandbytes_config(scheme, "bfloat16", None))
    assert stored.base == NibbleLayer(quant_type, double_quant)  # type: ignore[arg-type]
    assert stored.find_layer("lm_head") is None
    assert stored.find_layer(UP) == stored.base


@pytest.mark.parametrize(
    ("skipped", "layer", "is_kept"),
    [
        ("mlp.up_proj", UP, True),
        ("model.layers.0", UP, True),
        ("model.layers.0", "model.layers.01.mlp.up_proj", False),
        ("model.layers.*.mlp", UP, True),
        ("up", UP, False),
        ("lm_head", "lm_head", True),
    ],
)
def test_skipped_modules_are_those_of_transformers(skipped: str, layer: str, is_kept: bool) -> None:
    from transformers.quantizers.quantizers_utils import should_convert_module  # noqa: PLC0415

    scheme = BitsAndBytesScheme("nf4", True, 64)
    stored = parse_quantization_config(build_bitsandbytes_config(scheme, "bfloat16", [skipped]))
    assert (stored.find_layer(layer) is None) is is_kept
    assert should_convert_module(layer, [skipped]) is not is_kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"load_in_4bit": False, "load_in_8bit": True}, "load_in_4bit False"),
        ({"bnb_4bit_quant_type": "int4"}, "quant_type 'int4'"),
        ({"bnb_4bit_quant_storage": "bfloat16"}, "quant_storage 'bfloat16'"),
        ({"llm_int8_skip_modules": ["("]}, "no regular expression"),
    ],
)
def test_other_bitsandbytes_checkpoints_are_refused(changes: dict[str, Any], message: str) -> None:
    scheme = BitsAndBytesScheme("nf4", True, 64)
    config = {**build_bitsandbytes_config(scheme, "bfloat16", None), **changes}
    with pytest.raises(InputError, match=message):
        parse_quantization_config(config)
