"""What a solver returns for the stacked rows of layers that share an input.

Shapes: I = in_features, R = rows of all layers stacked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from llmopt.artifacts.manifest import LayerError
from llmopt.checkpoint.packed_weight import PackedWeight

MIN_NOISE = 1e-30  # keeps the ratio finite where rounding was exact


@dataclass(frozen=True)
class Solution:
    """Integers and errors of stacked rows.

    Attributes:
        weight: The integers of all rows.
        squared_error_R: Sum of squared weight errors per row.
        loss_R: Mean squared output error per token and row, None without calibration data.
        signal_R: Mean squared output per token and row, None without calibration data.
        damp_percent: Damping that was used, as a fraction of the Hessian's mean diagonal.
        damp_retries: How often damping was raised.
    """

    weight: PackedWeight
    squared_error_R: Tensor
    loss_R: Tensor | None = None
    signal_R: Tensor | None = None
    damp_percent: float | None = None
    damp_retries: int = 0


def split_solution(
    solution: Solution, names: Sequence[str], num_rows: Sequence[int]
) -> list[tuple[PackedWeight, LayerError]]:
    """Cuts a stacked solution into the layers it was stacked from, in order."""
    parts = []
    start = 0
    for name, rows in zip(names, num_rows, strict=True):
        parts.append(_slice_rows(solution, name, slice(start, start + rows)))
        start += rows
    return parts


def _slice_rows(solution: Solution, name: str, rows: slice) -> tuple[PackedWeight, LayerError]:
    stacked = solution.weight
    weight = PackedWeight(
        q_IO=stacked.q_IO[:, rows].contiguous(),
        scales_GO=stacked.scales_GO[:, rows].contiguous(),
        zeros_GO=stacked.zeros_GO[:, rows].contiguous(),
        g_idx_I=stacked.g_idx_I,
        scheme=stacked.scheme,
    )
    loss, snr_db = None, None
    if solution.loss_R is not None and solution.signal_R is not None:
        loss = float(solution.loss_R[rows].sum())
        signal = float(solution.signal_R[rows].sum())
        ratio = max(signal, MIN_NOISE) / max(loss, MIN_NOISE)
        snr_db = round(10 * math.log10(ratio), 4)
    error = LayerError(
        layer=name,
        loss=loss,
        snr_db=snr_db,
        weight_mse=float(solution.squared_error_R[rows].sum()) / weight.q_IO.numel(),
        damp_percent=solution.damp_percent,
        damp_retries=solution.damp_retries,
        bits=weight.scheme.bits,
    )
    return weight, error
