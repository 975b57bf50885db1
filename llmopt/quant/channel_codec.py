"""8-bit weights with one scale per output channel, rounded to nearest without data.

Shapes: O = out_features, I = in_features, R = rows of one slice.
"""

import torch
from torch import Tensor

from llmopt.checkpoint.safetensors_header import TensorEntry, TensorPlan
from llmopt.checkpoint.tensor_files import SAFETENSORS_DTYPES, TORCH_DTYPES
from llmopt.checkpoint.w8a8_format import (
    LARGEST_VALUES,
    STORED_DTYPES,
    W8A8Format,
    plan_w8a8_tensors,
)
from llmopt.quant.weight_codec import SLICE_ELEMENTS, EncodedWeight, read_slices

MIN_FLOAT16 = 2.0**-24  # the smallest positive one


class ChannelCodec:
    """Quantises weights to int8 or float8_e4m3fn, symmetric, one scale per row.

    Args:
        quant_format: Which of the two.
        scale_dtype: The dtype that the model is served in; scales are rounded to it before
            anything is rounded with them (docs/adr/0003).
        device: Where to compute.
    """

    def __init__(
        self, quant_format: W8A8Format, scale_dtype: torch.dtype, device: torch.device
    ) -> None:
        self._format = quant_format
        self._scale_dtype = scale_dtype
        self._device = device

    def plan(self, shape_OI: tuple[int, ...]) -> dict[str, TensorPlan]:
        """Returns the tensors of a layer of that shape."""
        return plan_w8a8_tensors(self._format, shape_OI, SAFETENSORS_DTYPES[self._scale_dtype])

    def encode(self, name: str, entry: TensorEntry) -> EncodedWeight:
        """Reads and quantises one weight, some rows at a time."""
        num_rows, num_columns = entry.shape
        stored_dtype = TORCH_DTYPES[STORED_DTYPES[self._format]]
        stored_OI = torch.empty(num_rows, num_columns, dtype=stored_dtype)
        scales_O1 = torch.empty(num_rows, 1, dtype=self._scale_dtype)
        rows = max(SLICE_ELEMENTS // num_columns, 1)
        squared_error = 0.0
        for start, part in read_slices(name, entry, rows * num_columns):
            first = start // num_columns
            W_RI = part.reshape(-1, num_columns).to(self._device, torch.float32)
            stored_RI, scales_R1 = round_channels(W_RI, self._format, self._scale_dtype)
            error_RI = stored_RI.float() * scales_R1.float() - W_RI
            squared_error += float(error_RI.square_().sum())
            stored_OI[first : first + len(W_RI)] = stored_RI.cpu()
            scales_O1[first : first + len(W_RI)] = scales_R1.cpu()
        tensors = {"weight": stored_OI, "weight_scale": scales_O1}
        return EncodedWeight(tensors, squared_error / (num_rows * num_columns))


def round_channels(
    W_RI: Tensor, quant_format: W8A8Format, scale_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Rounds float32 rows [R, I]; returns what is stored [R, I] and the scales [R, 1].

    An all-zero row has scale 1. A scale is rounded to `scale_dtype` first, so the largest weight
    of a row may lie half a unit of it beyond the grid, and is clamped.
    """
    largest = LARGEST_VALUES[quant_format]
    is_half = scale_dtype == torch.float16
    min_scale = MIN_FLOAT16 if is_half else torch.finfo(scale_dtype).smallest_normal
    scales_R1 = W_RI.abs().amax(1, keepdim=True) / largest
    scales_R1 = torch.where(scales_R1 == 0, 1.0, scales_R1.clamp(min=min_scale)).to(scale_dtype)
    steps_RI = (W_RI / scales_R1.float()).clamp(-largest, largest)
    if quant_format == "int-quantized":
        steps_RI = steps_RI.round()
    return steps_RI.to(TORCH_DTYPES[STORED_DTYPES[quant_format]]), scales_R1
