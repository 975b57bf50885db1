"""The uniform grid that a group of weights is rounded to.

Shapes: C = the group's columns (input features), R = rows (output features), F = grids tried.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme, ScaleSearch
from llmopt.errors import NumericalError

MIN_SCALE = 2.0**-24  # the smallest positive float16, the narrowest dtype a scale is stored in
# Factors on the min-max range that the search tries: (smallest, step). On normal and Student-t
# weights in groups of 32 to 2048 these find all but 1 % of what a search in steps of 0.005 finds.
LARGEST_FACTOR = 1.1
SEARCHED_FACTORS = {2: (0.1, 0.02), 3: (0.2, 0.02), 4: (0.3, 0.02), 8: (0.9, 0.005)}
SEARCH_ELEMENTS = 1 << 16  # values worked on at once: with their temporaries they fit in L2


@dataclass(frozen=True)
class Grid:
    """Step and zero point per row, both [R] (or [F, R]) in the dtype of the weights."""

    scale_R: Tensor
    zero_R: Tensor

    def round_to_steps(self, values: Tensor, max_q: int) -> Tensor:
        """Rounds values [..., R] to signed steps, q - zero, within the grid's ends."""
        steps = torch.round(values / self.scale_R)
        return torch.clamp(steps, -self.zero_R, max_q - self.zero_R)

    def of_rows(self, first: int, count: int) -> "Grid":
        """Returns the grid of some of the rows."""
        rows = slice(first, first + count)
        return Grid(self.scale_R[..., rows], self.zero_R[..., rows])


def fit_grid(
    W_CR: Tensor,
    scheme: QuantScheme,
    scale_dtype: torch.dtype,
    search: ScaleSearch = "minmax",
) -> Grid:
    """Fits a grid to a group of weights.

    The scale is rounded to `scale_dtype` and to float16 before anything is rounded with it,
    so that the integers belong to the very scale that a checkpoint stores and a server uses.
    An asymmetric zero point is at least 1, since the GPTQ format stores zero - 1.

    Args:
        W_CR: Weights, [C, R].
        scheme: Width and symmetry of the grid.
        scale_dtype: The dtype the model is served in.
        search: `minmax` spans the weights; `mse` takes, for each row, that of several wider and
            narrower ranges whose rounded weights are nearest to W, min-max among them.

    Raises:
        NumericalError: The weights are too large for a float16 scale, or not finite.
    """
    low_R, high_R = _find_range(W_CR, scheme)
    grid = _span_range(low_R, high_R, scheme, scale_dtype)
    if not bool(torch.isfinite(grid.scale_R).all()):
        raise NumericalError(
            f"a weight of {float(W_CR.abs().max()):g} needs a scale beyond float16"
        )
    if search == "minmax":
        return grid
    factors_F1 = W_CR.new_tensor(list_factors(scheme.bits))[:, None]
    tried = _span_range(low_R * factors_F1, high_R * factors_F1, scheme, scale_dtype)
    rows = max(SEARCH_ELEMENTS // len(W_CR), 1)
    pieces = [
        _choose_nearest(W_CR[:, first : first + rows], tried.of_rows(first, rows), scheme.max_q)
        for first in range(0, W_CR.shape[1], rows)
    ]
    scales, zeros = zip(*pieces, strict=True)
    return Grid(torch.cat(scales), torch.cat(zeros))


def list_factors(bits: int) -> list[float]:
    """Returns the factors on the min-max range that a search tries, 1 first."""
    smallest, step = SEARCHED_FACTORS[bits]
    count = round((LARGEST_FACTOR - smallest) / step) + 1
    return [1.0, *(LARGEST_FACTOR - index * step for index in range(count))]


def _find_range(W_CR: Tensor, scheme: QuantScheme) -> tuple[Tensor, Tensor]:
    if scheme.sym:
        high_R = W_CR.abs().amax(0)
        return -high_R, high_R
    return W_CR.amin(0).clamp(max=0), W_CR.amax(0).clamp(min=0)


def _span_range(
    low_R: Tensor, high_R: Tensor, scheme: QuantScheme, scale_dtype: torch.dtype
) -> Grid:
    """Returns the grid over a range with the scale as it is stored; infinite where it is not."""
    max_q = scheme.max_q
    if scheme.sym:
        scale_R = high_R * (2 / max_q)
        zero_R = torch.full_like(scale_R, scheme.midpoint)
    else:
        scale_R = (high_R - low_R) / max_q
        zero_R = torch.round(-low_R / scale_R.clamp(min=MIN_SCALE)).clamp(max=max_q)
        at_floor_R = zero_R < 1
        scale_R = torch.where(at_floor_R, high_R / (max_q - 1), scale_R)
        zero_R = zero_R.clamp(min=1)
    scale_R = torch.where(scale_R == 0, 1.0, scale_R)
    stored_R = scale_R.to(scale_dtype).to(torch.float16).to(low_R.dtype).clamp(min=MIN_SCALE)
    return Grid(stored_R, zero_R)


def _choose_nearest(W_CR: Tensor, tried_FR: Grid, max_q: int) -> tuple[Tensor, Tensor]:
    """Returns each row's scale and zero of least squared error, the first among equals."""
    W_CR = W_CR.contiguous()
    steps_CR = torch.empty_like(W_CR)
    scales_FR, zeros_FR = tried_FR.scale_R, tried_FR.zero_R
    errors = []
    for scale_R, lowest_R, highest_R in zip(scales_FR, -zeros_FR, max_q - zeros_FR, strict=True):
        torch.div(W_CR, scale_R, out=steps_CR).round_()
        torch.clamp(steps_CR, lowest_R, highest_R, out=steps_CR)
        torch.addcmul(W_CR, steps_CR, scale_R, value=-1, out=steps_CR)
        errors.append(steps_CR.square_().sum(0))
    errors_FR = torch.stack(errors).nan_to_num_(nan=torch.inf)  # a scale beyond float16
    best_1R = errors_FR.argmin(0, keepdim=True)
    return scales_FR.gather(0, best_1R)[0], zeros_FR.gather(0, best_1R)[0]
