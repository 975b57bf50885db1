"""Linear layers whose inputs are rounded token by token, as a server of W8A8 models does.

Shapes: I = in_features, the last axis of an input; every other axis counts tokens.
"""

import torch
from torch import Tensor, nn

from llmopt.checkpoint.w8a8_format import LARGEST_VALUES, W8A8Format

# The smallest scale of vLLM's dynamic float8 kernels (csrc/quantization/fp8, common.cuh).
MIN_SCALES: dict[W8A8Format, float] = {
    "int-quantized": 1e-30,
    "float-quantized": 1 / (448.0 * 512.0),
}


class RoundedInputLinear(nn.Linear):
    """A linear layer that computes with its inputs rounded to 8 bits.

    Args:
        linear: The layer; its weight and bias are shared.
        quant_format: The kind of number that inputs are rounded to.
    """

    def __init__(self, linear: nn.Linear, quant_format: W8A8Format) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self._format: W8A8Format = quant_format

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Returns the output for rounded inputs."""
        return super().forward(round_tokens(input, self._format))


def round_tokens(values: Tensor, quant_format: W8A8Format) -> Tensor:
    """Rounds each token of [..., I] to the grid that its largest value spans; same dtype."""
    largest = LARGEST_VALUES[quant_format]
    exact = values.float()
    scale = (exact.abs().amax(-1, keepdim=True) / largest).clamp(min=MIN_SCALES[quant_format])
    steps = (exact / scale).clamp(-largest, largest)
    is_integer = quant_format == "int-quantized"
    steps = steps.round() if is_integer else steps.to(torch.float8_e4m3fn).float()
    return (steps * scale).to(values.dtype)
