"""Linear layers whose inputs are rounded to 8 bits, as a server of W8A8 models does.

Shapes: I = in_features, the last axis of an input; every other axis counts tokens. Of experts:
N = tokens, K = experts per token, D = hidden size, F = inner size, n = tokens of one expert.
"""

from dataclasses import dataclass
from typing import Any

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


class RoundedInputExperts(nn.Module):
    """The fused experts of a block, each matrix of which reads its inputs rounded to 8 bits.

    Args:
        experts: transformers' module; its weights are shared.
        rounding: How inputs are rounded.
    """

    def __init__(self, experts: Any, rounding: InputRounding) -> None:
        super().__init__()
        self.gate_up_proj: nn.Parameter = experts.gate_up_proj
        self.down_proj: nn.Parameter = experts.down_proj
        self.act_fn = experts.act_fn
        self._rounding = rounding

    def round(self, values: Tensor) -> Tensor:
        """Rounds what one of the matrices reads."""
        return self._rounding.round(values)

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
    largest = values.float().abs().amax(-1, keepdim=True) / LARGEST_VALUES[quant_format]
    return _round_steps(values, largest.clamp(min=MIN_SCALES[quant_format]), quant_format)


def _round_steps(values: Tensor, scale: Tensor, quant_format: W8A8Format) -> Tensor:
    largest = LARGEST_VALUES[quant_format]
    steps = (values.float() / scale).clamp(-largest, largest)
    is_integer = quant_format == "int-quantized"
    steps = steps.round() if is_integer else steps.to(torch.float8_e4m3fn).float()
    return (steps * scale).to(values.dtype)
