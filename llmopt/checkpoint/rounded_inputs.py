"""Linear layers whose inputs are rounded to 8 bits, as a server of W8A8 models does.

Shapes: I = in_features, the last axis of an input; every other axis counts tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmopt.checkpoint.w8a8_format import LARGEST_VALUES, W8A8Format

# The smallest scale of vLLM's dynamic float8 kernels (csrc/quantization/fp8, common.cuh).
MIN_SCALES: dict[W8A8Format, float] = {
    "int-quantized": 1e-30,
    "float-quantized": 1 / (448.0 * 512.0),
}


@dataclass(frozen=True)
class InputRounding:
    """How inputs are rounded.

    Attributes:
        format: The kind of number.
        group_size: How many features of a token share a scale, the last group perhaps fewer;
            None: all of them.
        scale: One scale for all inputs, [1], instead of one for each token or group.
    """

    format: W8A8Format
    group_size: int | None = None
    scale: Tensor | None = None

    def round(self, values: Tensor) -> Tensor:
        """Rounds [..., I]; same dtype."""
        if self.scale is not None:
            return _round_steps(values, self.scale, self.format)
        if self.group_size is None:
            return round_tokens(values, self.format)
        num_features = values.shape[-1]
        filled = nn.functional.pad(values, (0, -num_features % self.group_size))
        groups = filled.reshape(*values.shape[:-1], -1, self.group_size)
        return round_tokens(groups, self.format).flatten(-2)[..., :num_features]


class RoundedInputLinear(nn.Linear):
    """A linear layer that computes with its inputs rounded to 8 bits.

    Args:
        linear: The layer; its weight and bias are shared.
        rounding: How inputs are rounded.
    """

    def __init__(self, linear: nn.Linear, rounding: InputRounding) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self._rounding = rounding

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Returns the output for rounded inputs."""
        return super().forward(self._rounding.round(input))


def round_tokens(values: Tensor, quant_format: W8A8Format) -> Tensor:
    """Rounds each token of [..., I] to the grid that its largest value spans; same dtype."""
    largest = values.float().abs().amax(-1, keepdim=True) / LARGEST_VALUES[quant_format]
    return _round_steps(values, largest.clamp(min=MIN_SCALES[quant_format]), quant_format)


def _round_steps(values: Tensor, scale: Tensor, quant_format: W8A8Format) -> Tensor:
    largest = LARGEST_VALUES[quant_format]
    steps = (values.float() / scale).clamp(-largest, largest)
    is_integer = quant_format == "int-quantized"
    steps = steps.round() if is_integer else steps.to(torch.float8_e4m3fn).float()
    return (steps * scale).to(values.dtype)
