"""The layout of compressed-tensors' `int-quantized` and `float-quantized`; no torch.

Per linear layer `weight` int8 or float8_e4m3fn [O, I] and `weight_scale` in the model's dtype;
weight = stored value * scale. llmopt writes one scale per output channel, [O, 1]; other tools also
write one per tensor, [1], or per block, [ceil(O / rows), ceil(I / columns)]. Activations are
quantised by the server: by token, by group of a token's features, or by a stored `input_scale`.
Source: vllm-project/compressed-tensors, compressors/naive_quantized.
"""

from typing import Literal

from llmopt.checkpoint.safetensors_header import TensorPlan

W8A8Format = Literal["int-quantized", "float-quantized"]
STORED_DTYPES: dict[W8A8Format, str] = {"int-quantized": "I8", "float-quantized": "F8_E4M3"}
ScaleGrid = Literal["channel", "tensor", "block"]
LARGEST_VALUES: dict[W8A8Format, float] = {"int-quantized": 127.0, "float-quantized": 448.0}


def plan_w8a8_tensors(
    quant_format: W8A8Format, shape_OI: tuple[int, ...], scale_dtype: str
) -> dict[str, TensorPlan]:
    """Returns the tensors of one layer, by what follows the layer's name and a dot."""
    return {
        "weight": TensorPlan(STORED_DTYPES[quant_format], tuple(shape_OI)),
        "weight_scale": TensorPlan(scale_dtype, (shape_OI[0], 1)),
    }
