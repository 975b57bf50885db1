"""The inner loop of GPTQ: one block's columns rounded one after another.

Shapes: B = columns of the block, R = rows (out_features of all stacked layers).
"""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llmopt.quant.grid import Grid

SUB_COLUMNS = 32  # keeps what a column reads of its predecessors' errors in the L2 cache


@dataclass(frozen=True)
class ColumnGrids:
    """Each column's grid, [B, R]: the step, and the ends in signed steps from zero.

    Columns of one group share storage (expanded views).
    """

    scale_BR: Tensor
    lowest_BR: Tensor
    highest_BR: Tensor

    @classmethod
    def of_group(cls, grid: Grid, num_columns: int, max_q: int) -> "ColumnGrids":
        """Gives all columns one grid."""
        ends = (grid.scale_R, -grid.zero_R, max_q - grid.zero_R)
        return cls(*(end_R.expand(num_columns, -1) for end_R in ends))

    @classmethod
    def of_columns(cls, grids_GR: Grid, groups_B: Tensor, max_q: int) -> "ColumnGrids":
        """Gives each column the grid of its group."""
        scale_BR, zero_BR = grids_GR.scale_R[groups_B], grids_GR.zero_R[groups_B]
        return cls(scale_BR, -zero_BR, max_q - zero_BR)

    def __getitem__(self, columns: slice) -> "ColumnGrids":
        """Returns the grids of some of the columns."""
        ends = (self.scale_BR, self.lowest_BR, self.highest_BR)
        return ColumnGrids(*(end_BR[columns] for end_BR in ends))


# (W_BR, C_BR, E_BR, U_BB, grids) → steps, as `round_block`
BlockRounder = Callable[[Tensor, Tensor, Tensor, Tensor, ColumnGrids], Tensor]


@functools.cache  # asked for every block, and a look into a package's metadata takes 1 ms
def name_rounder(device: torch.device) -> str:
    """Names what rounds blocks on a device, as far as it decides the last bits."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return "plain"
    return f"triton {importlib.metadata.version('triton')}"


def choose_rounder(device: torch.device) -> BlockRounder:
    """Returns what rounds blocks on a device: on CUDA the Triton kernel, where triton is there."""
    if name_rounder(device) == "plain":
        return round_block
    from llmopt.quant import triton_block_solve  # noqa: PLC0415 - no CPU run needs it

    return triton_block_solve.round_block


def round_block(
    W_BR: Tensor, C_BR: Tensor, E_BR: Tensor, U_BB: Tensor, grids: ColumnGrids
) -> Tensor:
    """Rounds one block's columns in order, each after the errors before it are fed back.

    Args:
        W_BR: Weights; not modified.
        C_BR: Weights with the errors of earlier blocks fed back; becomes what was rounded.
        E_BR: Becomes W - Q.
        U_BB: The block of `Factor.U_T`, unit lower triangular.
        grids: What each column is rounded to.

    Returns:
        Signed steps q - zero, [B, R], in the dtype of the weights.
    """
    steps_BR = torch.empty_like(C_BR)
    for first in range(0, len(C_BR), SUB_COLUMNS):
        part = slice(first, first + SUB_COLUMNS)
        if first:
            C_BR[part].addmm_(U_BB[part, :first], E_BR[:first])
        U_SS = U_BB[part, part]
        _round_columns(W_BR[part], C_BR[part], E_BR[part], U_SS, grids[part], steps_BR[part])
    return steps_BR


def _round_columns(
    W_SR: Tensor, C_SR: Tensor, E_SR: Tensor, U_SS: Tensor, grids: ColumnGrids, steps_SR: Tensor
) -> None:
    E_RS = E_SR.T
    ends = zip(grids.scale_BR, grids.lowest_BR, grids.highest_BR, strict=True)
    rows = zip(W_SR, C_SR, E_SR, steps_SR, ends, strict=True)
    for k, (w_R, c_R, e_R, steps_R, (scale_R, lowest_R, highest_R)) in enumerate(rows):
        if k:
            c_R.addmv_(E_RS[:, :k], U_SS[k, :k])
        torch.div(c_R, scale_R, out=steps_R).round_()
        torch.clamp(steps_R, lowest_R, highest_R, out=steps_R)
        torch.addcmul(w_R, steps_R, scale_R, value=-1, out=e_R)
