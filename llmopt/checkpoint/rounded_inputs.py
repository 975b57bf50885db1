"""Linear layers whose inputs are rounded token by token, as a server of W8A8 models does.

Shapes: I = in_features, the last axis of an input; every other axis counts tokens. Of experts:
N = tokens, K = experts per token, D = hidden size, F = inner size, n = tokens of one expert.
"""

from typing import Any

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


class RoundedInputExperts(nn.Module):
    """The fused experts of a block, each matrix of which reads its inputs rounded to 8 bits.

    Args:
        experts: transformers' module; its weights are shared.
        quant_format: The kind of number that inputs are rounded to.
    """

    def __init__(self, experts: Any, quant_format: W8A8Format) -> None:
        super().__init__()
        self.gate_up_proj: nn.Parameter = experts.gate_up_proj
        self.down_proj: nn.Parameter = experts.down_proj
        self.act_fn = experts.act_fn
        self._format: W8A8Format = quant_format

    def round(self, values: Tensor) -> Tensor:
        """Rounds what one of the matrices reads."""
        return round_tokens(values, self._format)

    def forward(self, X_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor) -> Tensor:
        """Returns the weighted sum of each token's experts, [N, D], as transformers calls it."""
        sum_ND = torch.zeros_like(X_ND)
        for expert in range(len(self.gate_up_proj)):
            tokens_n, places_n = torch.where(chosen_NK == expert)
            if not len(tokens_n):
                continue
            both = nn.functional.linear(self.round(X_ND[tokens_n]), self.gate_up_proj[expert])
            gate_nF, up_nF = both.chunk(2, dim=-1)
            inner_nF = self.round(self.act_fn(gate_nF) * up_nF)
            output_nD = nn.functional.linear(inner_nF, self.down_proj[expert])
            weighted_nD = output_nD * weights_NK[tokens_n, places_n, None]
            sum_ND.index_add_(0, tokens_n, weighted_nD.to(sum_ND.dtype))
        return sum_ND


def round_tokens(values: Tensor, quant_format: W8A8Format) -> Tensor:
    """Rounds each token of [..., I] to the grid that its largest value spans; same dtype."""
    largest = LARGEST_VALUES[quant_format]
    exact = values.float()
    scale = (exact.abs().amax(-1, keepdim=True) / largest).clamp(min=MIN_SCALES[quant_format])
    steps = (exact / scale).clamp(-largest, largest)
    is_integer = quant_format == "int-quantized"
    steps = steps.round() if is_integer else steps.to(torch.float8_e4m3fn).float()
    return (steps * scale).to(values.dtype)
