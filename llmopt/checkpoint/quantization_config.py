"""The `quantization_config` of every quantised format and the tensors it promises; no torch.

Sources: AutoGPTQ's checkpoint format version 1 as vLLM's gptq and gptq_marlin read it;
vllm-project/compressed-tensors, `quantization/quant_args.py` and `compressors/pack_quantized`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.errors import InputError

QuantFormat = Literal["gptq", "compressed-tensors"]
TensorShapes = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class StoredQuantization:
    """What a quantised checkpoint says of itself."""

    format: QuantFormat
    scheme: QuantScheme


def parse_quantization_config(config: Mapping[str, Any]) -> StoredQuantization:
    """Reads a `quantization_config`.

    Raises:
        InputError: A method, version or scheme that llmopt does not read.
    """
    method = config.get("quant_method")
    if method == "gptq":
        return StoredQuantization("gptq", _parse_gptq(config))
    if method == "compressed-tensors":
        return StoredQuantization("compressed-tensors", _parse_compressed_tensors(config))
    raise InputError(
        f"the checkpoint is quantised by {method!r}; llmopt reads 'gptq' and 'compressed-tensors'"
    )


def expected_tensors(
    stored: StoredQuantization, shape_OI: tuple[int, int], scale_dtype: str
) -> TensorShapes:
    """Returns the tensors of one quantised layer: suffix → (safetensors dtype, shape)."""
    if stored.format == "gptq":
        return _gptq_shapes(stored.scheme, *shape_OI)
    return _compressed_tensors_shapes(stored.scheme, *shape_OI, scale_dtype)


def build_gptq_config(
    scheme: QuantScheme, *, damp_percent: float | None, quantizer: str
) -> dict[str, Any]:
    """Returns the complete `quantization_config`; vLLM's checks read the first five keys."""
    return {
        "quant_method": "gptq",
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "sym": scheme.sym,
        "desc_act": scheme.desc_act,
        "lm_head": False,
        "checkpoint_format": "gptq",
        "true_sequential": True,
        "damp_percent": damp_percent,
        "pack_dtype": "int32",
        "meta": {"quantizer": [quantizer]},
    }


def _parse_gptq(config: Mapping[str, Any]) -> QuantScheme:
    """Reads the scheme out of a `quantization_config`.

    Raises:
        InputError: A version or a scheme that this reader does not know.
    """
    version = config.get("checkpoint_format", "gptq")
    if version != "gptq":
        raise InputError(f"GPTQ checkpoint_format is {version!r}; this reader knows 'gptq'")
    try:
        return QuantScheme(
            bits=config["bits"],
            group_size=config["group_size"],
            sym=config.get("sym", True),
            desc_act=config.get("desc_act", False),
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"quantization_config of a GPTQ checkpoint: {error}") from None


def _gptq_shapes(
    scheme: QuantScheme, out_features: int, in_features: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns each tensor's safetensors dtype and shape for one layer."""
    groups, packed = scheme.num_groups(in_features), scheme.num_packed
    return {
        "qweight": ("I32", (in_features // packed, out_features)),
        "qzeros": ("I32", (groups, out_features // packed)),
        "scales": ("F16", (groups, out_features)),
        "g_idx": ("I32", (in_features,)),
    }


def build_compressed_tensors_config(scheme: QuantScheme) -> dict[str, Any]:
    """Returns the complete `quantization_config` for a model whose lm_head stays as it was."""
    by_channel = scheme.group_size == -1
    weights = {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.sym,
        "strategy": "channel" if by_channel else "group",
        "group_size": None if by_channel else scheme.group_size,
        "actorder": "group" if scheme.has_moved_groups else None,
        "block_structure": None,
        "dynamic": False,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": None,
                "output_activations": None,
            }
        },
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _parse_compressed_tensors(config: Mapping[str, Any]) -> QuantScheme:
    """Reads the scheme out of a `quantization_config`.

    Raises:
        InputError: Another compression format, or more than one group of layers.
    """
    if config.get("format") != "pack-quantized":
        raise InputError(
            f"compressed-tensors format is {config.get('format')!r}; this reader knows "
            "'pack-quantized'"
        )
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or len(groups) != 1:
        count = len(groups) if isinstance(groups, Mapping) else "no"
        raise InputError(f"compressed-tensors with {count} config_groups; this reader knows 1")
    (group,) = groups.values()
    try:
        weights = group["weights"]
        return QuantScheme(
            bits=weights["num_bits"],
            group_size=-1 if weights["strategy"] == "channel" else weights["group_size"],
            sym=weights.get("symmetric", True),
            desc_act=weights.get("actorder") == "group",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"quantization_config of compressed-tensors: {error}") from None


def _compressed_tensors_shapes(
    scheme: QuantScheme, out_features: int, in_features: int, scale_dtype: str
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns each tensor's safetensors dtype and shape for one layer."""
    groups, packed = scheme.num_groups(in_features), scheme.num_packed
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "weight_packed": ("I32", (out_features, -(-in_features // packed))),
        "weight_scale": (scale_dtype, (out_features, groups)),
        "weight_shape": ("I64", (2,)),
    }
    if not scheme.sym:
        shapes["weight_zero_point"] = ("I32", (-(-out_features // packed), groups))
    if scheme.has_moved_groups:
        shapes["weight_g_idx"] = ("I32", (in_features,))
    return shapes
