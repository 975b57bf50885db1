"""The uniform grid that a group of weights is rounded to.

Shapes: C = the group's columns (input features), R = rows (output features).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.errors import NumericalError

MIN_SCALE = 2.0**-24  # the smallest positive float16, the narrowest dtype a scale is stored in


@dataclass(frozen=True)
class Grid:
    """Step and zero point per row, both [R] in the dtype of the weights."""

    scale_R: Tensor
    zero_R: Tensor

    def round_to_steps(self, values: Tensor, max_q: int) -> Tensor:
        """Rounds values [..., R] to signed steps, q - zero, within the grid's ends."""
        steps = torch.round(values / self.scale_R)
        return torch.clamp(steps, -self.zero_R, max_q - self.zero_R)


def fit_grid(W_CR: Tensor, scheme: QuantScheme, scale_dtype: torch.dtype) -> Grid:
    """Fits a min-max grid to a group of weights.

    The scale is rounded to `scale_dtype` and to float16 before anything is rounded with it,
    so that the integers belong to the very scale that a checkpoint stores and a server uses.
    An asymmetric zero point is at least 1, since the GPTQ format stores zero - 1.

    Args:
        W_CR: Weights, [C, R].
        scheme: Width and symmetry of the grid.
        scale_dtype: The dtype the model is served in.

    Raises:
        NumericalError: The weights are too large for a float16 scale, or not finite.
    """
    max_q = scheme.max_q
    if scheme.sym:
        scale_R = W_CR.abs().amax(0) * (2 / max_q)
        zero_R = torch.full_like(scale_R, scheme.midpoint)
    else:
        low_R, high_R = W_CR.amin(0).clamp(max=0), W_CR.amax(0).clamp(min=0)
        scale_R = (high_R - low_R) / max_q
        zero_R = torch.round(-low_R / scale_R.clamp(min=MIN_SCALE)).clamp(max=max_q)
        at_floor_R = zero_R < 1
        scale_R = torch.where(at_floor_R, high_R / (max_q - 1), scale_R)
        zero_R = zero_R.clamp(min=1)
    scale_R = torch.where(scale_R == 0, 1.0, scale_R)
    stored_R = scale_R.to(scale_dtype).to(torch.float16).to(W_CR.dtype).clamp(min=MIN_SCALE)
    if not bool(torch.isfinite(stored_R).all()):
        raise NumericalError(
            f"a weight of {float(W_CR.abs().max()):g} needs a scale beyond float16"
        )
    return Grid(stored_R, zero_R)
