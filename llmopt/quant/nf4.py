"""4-bit weights by bitsandbytes' kernels, slice by slice: the bytes are those of the whole.

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314, section 3
(4-bit NormalFloat, double quantisation). Blocks lie row by row, so a slice that is a multiple of
the block size is quantised as in the whole tensor; only double quantisation looks at all scales.
"""

import torch
from torch import Tensor

from llmopt.checkpoint.bitsandbytes_format import (
    NESTED_BLOCK_SIZE,
    BitsAndBytesScheme,
    plan_bitsandbytes_tensors,
)
from llmopt.checkpoint.bitsandbytes_kernels import (
    QuantState,
    dequantize_blockwise,
    dequantize_codes,
    quantize_4bit,
    quantize_blockwise,
)
from llmopt.checkpoint.safetensors_header import TensorEntry, TensorPlan
from llmopt.quant.weight_codec import SLICE_ELEMENTS, EncodedWeight, read_slices


class Nf4Codec:
    """Quantises weights to NF4 or FP4.

    Args:
        scheme: How to store them.
        dtype: The model's dtype, which weights are cast to before and which the state names.
        device: Where to compute.
    """

    def __init__(
        self, scheme: BitsAndBytesScheme, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._scheme = scheme
        self._dtype = dtype
        self._device = device

    def plan(self, shape_OI: tuple[int, ...]) -> dict[str, TensorPlan]:
        """Returns the tensors of a layer of that shape."""
        return plan_bitsandbytes_tensors(self._scheme, shape_OI)

    def encode(self, name: str, entry: TensorEntry) -> EncodedWeight:
        """Reads and quantises one weight."""
        size = self._scheme.block_size
        num_weights = entry.shape[0] * entry.shape[1]
        packed = torch.empty((-(-num_weights // 2), 1), dtype=torch.uint8)
        absmax = torch.empty(-(-num_weights // size), device=self._device)
        code = absmax
        for start, part in read_slices(name, entry, SLICE_ELEMENTS):
            words, state = quantize_4bit(
                part.to(self._device, self._dtype),
                blocksize=size,
                quant_type=self._scheme.quant_type,
            )
            packed[start // 2 : start // 2 + len(words)] = words.cpu()
            absmax[start // size : start // size + len(state.absmax)] = state.absmax
            code = state.code
        state = self._build_state(absmax, code, entry.shape)
        stored = state.as_dict(packed=True)
        tensors = {"weight": packed} | {f"weight.{key}": value for key, value in stored.items()}
        squared_error = self._measure_error(name, entry, packed, state)
        return EncodedWeight(tensors, squared_error / num_weights)

    def _build_state(self, absmax: Tensor, code: Tensor, shape: tuple[int, ...]) -> QuantState:
        """Describes a layer as `quantize_4bit` does, its scales quantised if asked for."""
        offset, nested = None, None
        if self._scheme.double_quant:
            offset = absmax.mean()
            absmax, nested = quantize_blockwise(absmax - offset, blocksize=NESTED_BLOCK_SIZE)
        return QuantState(
            absmax=absmax,
            shape=torch.Size(shape),
            code=code,
            blocksize=self._scheme.block_size,
            quant_type=self._scheme.quant_type,
            dtype=self._dtype,
            offset=offset,
            state2=nested,
        )

    def _measure_error(
        self, name: str, entry: TensorEntry, packed: Tensor, state: QuantState
    ) -> float:
        """Returns the sum of squared weight errors, from what a loader would read."""
        size = self._scheme.block_size
        absmax = state.absmax
        if self._scheme.double_quant:
            absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset
        total = 0.0
        for start, part in read_slices(name, entry, SLICE_ELEMENTS):
            words = packed[start // 2 : start // 2 + -(-len(part) // 2)]
            scales = absmax[start // size : start // size + -(-len(part) // size)]
            values = dequantize_codes(
                words.to(self._device), scales, size, self._scheme.quant_type
            )[: len(part)]
            error = values - part.to(self._device, torch.float32)
            total += float(error.square_().sum())
        return total
