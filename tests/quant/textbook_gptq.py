"""GPTQ as its authors wrote it down: slow, literal, float64, the oracle of `solve_gptq`.

Frantar et al., arXiv 2210.17323, Algorithm 1 with lazy batches left out, and the rules of the
authors' code (IST-DASLab/gptq, gptq.py: dead columns, damping, act-order, a group's grid fitted
when its first column is reached). It shares no code with llmopt; even the grid is restated.

Shapes: rows x columns are out_features x in_features, as in the authors' code.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["natural", "desc_act", "act_group_aware"]
Floats = NDArray[np.float64]
SMALLEST_HALF = 2.0**-24


@dataclass(frozen=True)
class TextbookScheme:
    """What to round to, and in which order.

    `scale_dtype` is the dtype that the model is served in: bfloat16, float16 or float32.
    """

    bits: int
    group_size: int
    sym: bool
    order: Order = "natural"
    damp_percent: float = 0.01
    scale_dtype: str = "bfloat16"
    scale_search: str = "minmax"
    static_groups: bool = False


@dataclass(frozen=True)
class TextbookResult:
    """Integers [rows, columns] in the columns' own places, scales and zeros [groups, rows].

    Attributes:
        boundary_distance: [rows, columns], how far each value was from being rounded otherwise,
            in steps; a tie where it is next to nothing.
        rounding_order: The column that was rounded k-th.
    """

    integers: NDArray[np.int64]
    scales: Floats
    zeros: NDArray[np.int64]
    g_idx: NDArray[np.int64]
    boundary_distance: Floats
    rounding_order: NDArray[np.int64]

    def dequantize(self) -> Floats:
        """Returns the weights [rows, columns] that the integers stand for."""
        return self.scales[self.g_idx].T * (self.integers - self.zeros[self.g_idx].T)


def textbook_gptq(W: Floats, H: Floats, scheme: TextbookScheme) -> TextbookResult:
    """Rounds W, column by column, each error spread at once over all remaining columns."""
    W, H = W.astype(np.float64), H.astype(np.float64)
    num_rows, num_columns = W.shape
    dead = np.diag(H) == 0
    # The authors put 1, which then counts in the mean diagonal; declared difference: the mean of
    # the living, so that damping does not depend on the scale of the activations.
    H[dead, dead] = np.diag(H)[~dead].mean() if not dead.all() else 1
    W[:, dead] = 0
    original = W.copy()
    # For the same reason the dead come last, which their 1 may or may not make of them.
    perm, groups = order_columns(np.where(dead, 0, np.diag(H)), scheme)
    W, H = W[:, perm], H[np.ix_(perm, perm)]
    H[np.diag_indices(num_columns)] += scheme.damp_percent * np.mean(np.diag(H))
    Hinv = np.linalg.cholesky(np.linalg.inv(H)).T  # upper

    num_groups = max(groups) + 1
    scales, zeros = np.zeros((num_groups, num_rows)), np.zeros((num_groups, num_rows))
    integers, distance = np.zeros((num_rows, num_columns)), np.zeros((num_rows, num_columns))
    if scheme.static_groups:
        for group in range(num_groups):
            members = [perm[k] for k in range(num_columns) if groups[k] == group]
            for row in range(num_rows):
                weights = original[row, members]
                scales[group, row], zeros[group, row] = fit_grid(weights, scheme)
    for i in range(num_columns):
        group = groups[i]
        if not scheme.static_groups and (i == 0 or groups[i - 1] != group):
            members = [j for j in range(num_columns) if groups[j] == group]
            for row in range(num_rows):
                scales[group, row], zeros[group, row] = fit_grid(W[row, members], scheme)
        scaled = W[:, i] / scales[group]
        integers[:, i] = np.clip(np.round(scaled) + zeros[group], 0, 2**scheme.bits - 1)
        distance[:, i] = np.abs(np.abs(scaled - np.floor(scaled)) - 0.5)
        q = scales[group] * (integers[:, i] - zeros[group])
        err = (W[:, i] - q) / Hinv[i, i]
        W[:, i:] -= np.outer(err, Hinv[i, i:])

    back = np.argsort(perm)
    return TextbookResult(
        integers=integers[:, back].astype(np.int64),
        scales=scales,
        zeros=zeros.astype(np.int64),
        g_idx=np.array(groups)[back],
        boundary_distance=distance[:, back],
        rounding_order=perm,
    )


def order_columns(diagonal: Floats, scheme: TextbookScheme) -> tuple[NDArray[np.int64], list[int]]:
    """Returns the column that is rounded k-th, and the group of the column rounded k-th."""
    columns = list(range(len(diagonal)))
    size = len(columns) if scheme.group_size == -1 else scheme.group_size
    by_diagonal = sorted(columns, key=lambda column: -diagonal[column])
    if scheme.order != "natural" and scheme.static_groups:
        return np.array(by_diagonal), [column // size for column in by_diagonal]
    if scheme.order == "desc_act":
        return np.array(by_diagonal), [position // size for position in columns]
    if scheme.order == "natural":
        return np.array(columns), [column // size for column in columns]
    members: dict[int, list[int]] = {}
    for column in by_diagonal:  # a group's first member here is the one with its peak
        members.setdefault(column // size, []).append(column)
    by_peak = sorted(sorted(members), key=lambda group: -diagonal[members[group][0]])
    perm = [column for group in by_peak for column in members[group]]
    return np.array(perm), [column // size for column in perm]


def fit_grid(weights: Floats, scheme: TextbookScheme) -> tuple[float, int]:
    """Returns scale and zero point of one row's group, the scale as it is stored."""
    grids = [span_range(weights, factor, scheme) for factor in list_factors(scheme)]
    errors = [weight_error(weights, *grid, scheme.bits) for grid in grids]
    return grids[errors.index(min(errors))]  # the first among equals


def list_factors(scheme: TextbookScheme) -> list[float]:
    """Returns the parts of the min-max range that are tried, the whole of it first."""
    if scheme.scale_search == "minmax":
        return [1.0]
    lowest, step = {2: (0.1, 0.02), 3: (0.2, 0.02), 4: (0.3, 0.02), 8: (0.9, 0.005)}[scheme.bits]
    factors = [1.0]
    while (factor := 1.1 - step * (len(factors) - 1)) > lowest - step / 2:
        factors.append(factor)
    return factors


def span_range(weights: Floats, factor: float, scheme: TextbookScheme) -> tuple[float, int]:
    """Returns scale and zero point of a grid over a part of the weights' range."""
    largest = 2**scheme.bits - 1
    if scheme.sym:
        scale, zero = 2 * max(abs(weights)) * factor / largest, 2 ** (scheme.bits - 1)
    else:
        low, high = min(0.0, *weights) * factor, max(0.0, *weights) * factor
        scale = (high - low) / largest
        zero = min(int(np.round(-low / max(scale, SMALLEST_HALF))), largest)
        if zero < 1:  # the format can't store 0, so one step of the grid goes unused
            scale, zero = high / (largest - 1), 1
    return store_scale(scale if scale != 0 else 1.0, scheme.scale_dtype), zero


def weight_error(weights: Floats, scale: float, zero: int, bits: int) -> float:
    """Returns the sum of squared errors of the weights rounded to a grid."""
    error = 0.0
    for weight in weights:
        integer = min(max(int(np.round(weight / scale)) + zero, 0), 2**bits - 1)
        error += (weight - scale * (integer - zero)) ** 2
    return error


def store_scale(scale: float, scale_dtype: str) -> float:
    """Rounds a scale to the served dtype, then to float16, but not down to zero."""
    value = np.float32(scale)
    if scale_dtype == "bfloat16":
        value = round_to_bfloat16(value)
    elif scale_dtype == "float16":
        value = np.float32(np.float16(value))
    return max(float(np.float16(value)), SMALLEST_HALF)


def round_to_bfloat16(value: np.float32) -> np.float32:
    """Keeps the upper 16 bits of a positive float32, to nearest, ties to even."""
    word = int(value.view(np.uint32))
    lower, upper = word & 0xFFFF, word >> 16
    if lower > 0x8000 or (lower == 0x8000 and upper & 1):
        upper += 1
    return np.uint32(upper << 16).view(np.float32)


def output_error(W: Floats, Q: Floats, H: Floats) -> float:
    """Returns tr((W - Q) H (W - Q)^T)."""
    difference = W - Q
    return float(np.trace(difference @ H @ difference.T))
