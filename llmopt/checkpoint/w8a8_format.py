"""The compressed-tensors formats `int-quantized` and `float-quantized` (W8A8); no torch.

Per linear layer `weight` int8 or float8_e4m3fn [O, I] and `weight_scale` [O, 1] in the model's
dtype; weight = stored value * scale. Activations are quantised by the server, token by token.
Source: vllm-project/compressed-tensors, compressors/naive_quantized and quantization/quant_args;
vLLM's schemes compressed_tensors_w8a8_int8 and compressed_tensors_w8a8_fp8.
"""

from collections.abc import Sequence
from typing import Any, Literal

from llmopt.checkpoint.safetensors_header import TensorPlan

W8A8Format = Literal["int-quantized", "float-quantized"]
STORED_DTYPES: dict[W8A8Format, str] = {"int-quantized": "I8", "float-quantized": "F8_E4M3"}
LARGEST_VALUES: dict[W8A8Format, float] = {"int-quantized": 127.0, "float-quantized": 448.0}


def plan_w8a8_tensors(
    quant_format: W8A8Format, shape_OI: tuple[int, ...], scale_dtype: str
) -> dict[str, TensorPlan]:
    """Returns the tensors of one layer, by what follows the layer's name and a dot."""
    return {
        "weight": TensorPlan(STORED_DTYPES[quant_format], tuple(shape_OI)),
        "weight_scale": TensorPlan(scale_dtype, (shape_OI[0], 1)),
    }


def build_w8a8_config(quant_format: W8A8Format, kept: Sequence[str]) -> dict[str, Any]:
    """Returns the complete `quantization_config`; `kept` are the modules left as they were."""
    both: dict[str, Any] = {
        "num_bits": 8,
        "type": quant_format.partition("-")[0],
        "symmetric": True,
        "group_size": None,
        "block_structure": None,
        "actorder": None,
        "observer_kwargs": {},
    }
    weights = {**both, "strategy": "channel", "dynamic": False, "observer": "minmax"}
    activations = {**both, "strategy": "token", "dynamic": True, "observer": None}
    return {
        "quant_method": "compressed-tensors",
        "format": quant_format,
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": activations,
                "output_activations": None,
                "format": quant_format,
            }
        },
        "ignore": list(kept),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
