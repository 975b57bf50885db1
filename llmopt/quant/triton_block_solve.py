"""`block_solve.round_block` as one kernel in Triton (the language, not the server), for CUDA.

The plain path launches five small kernels a column; this one keeps a block of columns for some
rows in registers and rounds all of them in one launch. Rows are independent, so that programs
never talk. Only this module imports triton, which CUDA builds of torch bring along.

Shapes: B = columns of the block, R = rows.
"""

import triton
import triton.language as tl
from torch import Tensor, cuda, dtype, empty_like, float32, float64

from llmopt.quant.block_solve import ColumnGrids

ROWS = 32  # of one program: 128 columns x 32 rows of float32 are 32 registers a thread
# Adding and subtracting 1.5 * 2^mantissa rounds to nearest, ties to even, as torch.round does.
ROUNDERS: dict[dtype, float] = {float32: 1.5 * 2**23, float64: 1.5 * 2**52}


def round_block(
    W_BR: Tensor, C_BR: Tensor, E_BR: Tensor, U_BB: Tensor, grids: ColumnGrids
) -> Tensor:
    """Rounds one block's columns in order; arguments and result as `block_solve.round_block`.

    Sums are taken in another order than there: a weight on a rounding boundary may differ.
    """
    num_columns, num_rows = C_BR.shape
    steps_BR = empty_like(C_BR)
    tensors = (W_BR, C_BR, E_BR, steps_BR, grids.scale_BR, grids.lowest_BR, grids.highest_BR)
    assert all(tensor.stride(1) == 1 for tensor in (*tensors, U_BB))
    assert W_BR.stride(0) == C_BR.stride(0) == E_BR.stride(0) == steps_BR.stride(0)
    with cuda.device(C_BR.get_device()):  # triton launches on the current one, not the tensors'
        round_rows[(triton.cdiv(num_rows, ROWS),)](
            *tensors, U_BB, num_columns, num_rows,
            C_BR.stride(0), grids.scale_BR.stride(0), grids.lowest_BR.stride(0),
            grids.highest_BR.stride(0), U_BB.stride(0),
            ROUNDER=ROUNDERS[C_BR.dtype], COLUMNS=triton.next_power_of_2(num_columns), ROWS=ROWS,
        )  # fmt: skip
    return steps_BR


def _round_rows(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
    W, C, E, steps, scale, lowest, highest, U, num_columns, num_rows,
    row_stride, scale_stride, lowest_stride, highest_stride, U_stride,
    ROUNDER: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = rows < num_rows
    in_tile = (columns[:, None] < num_columns) & inside[None, :]
    tile = tl.load(C + columns[:, None] * row_stride + rows[None, :], mask=in_tile, other=0.0)
    for k in range(num_columns):
        value = tl.sum(tl.where(columns[:, None] == k, tile, 0.0), axis=0)
        tl.store(C + k * row_stride + rows, value, mask=inside)
        size = tl.load(scale + k * scale_stride + rows, mask=inside, other=1.0)
        low = tl.load(lowest + k * lowest_stride + rows, mask=inside, other=0.0)
        high = tl.load(highest + k * highest_stride + rows, mask=inside, other=0.0)
        ratio = tl.div_rn(value, size) if value.dtype == tl.float32 else value / size
        # The ends are whole numbers: clamping before rounding gives what clamping after it does.
        step = (tl.minimum(tl.maximum(ratio, low), high) + ROUNDER) - ROUNDER
        weight = tl.load(W + k * row_stride + rows, mask=inside, other=0.0)
        error = weight - step * size
        tl.store(steps + k * row_stride + rows, step, mask=inside)
        tl.store(E + k * row_stride + rows, error, mask=inside)
        is_later = (columns > k) & (columns < num_columns)
        share = tl.load(U + columns * U_stride + k, mask=is_later, other=0.0)
        tile += share[:, None] * error[None, :]


round_rows = triton.jit(_round_rows)
