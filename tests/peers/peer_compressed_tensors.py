"""Reads a compressed-tensors checkpoint by that library; runs in a peer's environment."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationStatus,
    apply_quantization_config,
)
from compressed_tensors.utils import get_direct_state_dict
from transformers import AutoModelForCausalLM, CompressedTensorsConfig


def dequantize_layers(folder: Path) -> dict[str, torch.Tensor]:
    """Returns every quantised layer's weight [O, I] in float32, by compressed-tensors."""
    config = CompressedTensorsConfig(dequantize=False)
    # In float32 from the start: else scales are rounded to the model's dtype when they are loaded.
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.float32
    )
    weights = {}
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or scheme.weights is None:
            continue
        state = dict(get_direct_state_dict(module))
        assert state["weight_scale"].dtype == torch.float32
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        weights[name] = compressor.decompress(state, scheme)["weight"].contiguous()
    return weights


def compute_rounded_logits(
    plain: Path, weights: Mapping[str, torch.Tensor], folder: Path, ids_BT: torch.Tensor
) -> torch.Tensor | None:
    """Returns float32 logits of layers that round their inputs dynamically; None if none does.

    Args:
        plain: The model that was quantised.
        weights: Its dequantised weights by layer.
        folder: The quantised checkpoint.
        ids_BT: Token ids.
    """
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = QuantizationConfig.model_validate(settings["quantization_config"])
    inputs = [group.input_activations for group in config.config_groups.values()]
    if not any(args is not None and args.dynamic for args in inputs):
        return None
    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
    apply_quantization_config(model, config, run_compressed=False)
    for name, weight_OI in weights.items():
        module = model.get_submodule(name)
        module.weight = torch.nn.Parameter(weight_OI)
        module.quantization_status = QuantizationStatus.COMPRESSED  # the weight is not rounded anew
    with torch.inference_mode():
        return model(ids_BT).logits
