"""GPTQ: rounds weights column by column, each column making up for the errors before it.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", arXiv 2210.17323. Solved in the LDL^T form, which Chee et al., "QuIP",
arXiv 2307.13304, section 3 and appendix, show to give the same integers: with H = U D U^T
(U unit upper triangular) column k is rounded from

    W_k + sum_{j<k} (W_j - Q_j) U_jk

so one Cholesky of H suffices, no inverse is formed, and the output error is
sum_k D_k (rounding error of column k)^2. Rows are independent given H: layers that read the
same input are solved as one.

Shapes: I = in_features, R = rows (out_features of all stacked layers), G = groups,
C = columns of one group, B = columns of one block.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme, ScaleSearch
from llmopt.checkpoint.packed_weight import PackedWeight
from llmopt.quant.block_solve import ColumnGrids, choose_rounder
from llmopt.quant.column_order import ColumnOrder, order_columns
from llmopt.quant.factorization import Factor, copy_with_living_diagonal, factorize
from llmopt.quant.grid import Grid, fit_grid
from llmopt.quant.precision import bf16_matmul
from llmopt.quant.solution import Solution

BLOCK_COLUMNS = 128
POWER_COLUMNS = 256


@dataclass(frozen=True)
class GptqOptions:
    """Settings of a solve.

    Attributes:
        scheme: Bits, groups, symmetry, act-order.
        act_group_aware: Round by falling Hessian diagonal without moving a column to another
            group: all columns on static grids, else groups and columns inside a group.
        damp_percent: Fraction of the mean diagonal that is added to the diagonal.
        max_damp_percent: How far damping may be raised when H is not positive definite.
        scale_dtype: The dtype that the model is served in.
        scale_search: How the range of a group's grid is found.
    """

    scheme: QuantScheme
    act_group_aware: bool
    damp_percent: float
    max_damp_percent: float
    scale_dtype: torch.dtype
    scale_search: ScaleSearch = "minmax"


def make_gptq_solver(
    options: GptqOptions,
) -> Callable[[Tensor, Tensor | None, QuantScheme], Solution]:
    """Returns `solve_gptq` for layers of any scheme: that of `options` has no say."""

    def solve(W_RI: Tensor, H_II: Tensor | None, scheme: QuantScheme) -> Solution:
        assert H_II is not None
        return solve_gptq(W_RI, H_II, replace(options, scheme=scheme))

    return solve


def solve_gptq(W_RI: Tensor, H_II: Tensor, options: GptqOptions) -> Solution:
    """Rounds stacked weights to integers.

    Args:
        W_RI: Weights [R, I], any floating dtype. Not modified.
        H_II: Hessian X^T X / tokens, symmetric; its dtype is the one computed in.
        options: How to round.

    Raises:
        NumericalError: H holds NaN or infinity, or is not positive definite even at
            `max_damp_percent`.
    """
    W_IR = W_RI.T.clone(memory_format=torch.contiguous_format).to(H_II.dtype)
    dead_I = H_II.diagonal() == 0
    dropped_R = W_IR[dead_I].square().sum(0)
    W_IR[dead_I] = 0  # an input that is always zero: its weights are free, as in the paper's code
    order = order_columns(H_II.diagonal(), options.scheme, options.act_group_aware)
    signal_R = _output_power(W_IR, H_II)
    perm_I = None if order.is_identity else order.perm_I
    factor = factorize(
        partial(copy_with_living_diagonal, H_II, perm_I),
        options.damp_percent,
        options.max_damp_percent,
    )
    # Before the columns are permuted: in their own order they need no second copy.
    static = _fit_static_grids(W_IR, options) if options.scheme.static_groups else None
    W_IR = W_IR if order.is_identity else W_IR.index_select(0, order.perm_I)
    solution = _round_columns(W_IR, factor, order, options, static, signal_R)
    return replace(solution, squared_error_R=solution.squared_error_R + dropped_R)


def _output_power(W_IR: Tensor, H_II: Tensor) -> Tensor:
    """Returns diag(W H W^T), [R]; a figure for the ledger, so bf16 products will do.

    Each block left of the diagonal stands for its mirror image too.
    """
    power_R = W_IR.new_zeros(W_IR.shape[1])
    with bf16_matmul(W_IR.device):
        for first in range(0, len(W_IR), POWER_COLUMNS):
            last = min(first + POWER_COLUMNS, len(W_IR))
            product_BR = H_II[first:last, first:last] @ W_IR[first:last]
            if first:
                product_BR.addmm_(H_II[first:last, :first], W_IR[:first], alpha=2)
            power_R += product_BR.mul_(W_IR[first:last]).sum(0)
    return power_R


def _round_columns(
    W_IR: Tensor,
    factor: Factor,
    order: ColumnOrder,
    options: GptqOptions,
    static: Grid | None,
    signal_R: Tensor,
) -> Solution:
    """Rounds columns in order, on `static` grids by group or on grids fitted in turn."""
    state = _Rounding.start(W_IR, factor, static or _make_grids(W_IR, options.scheme))
    if static is not None:
        _round_on_static_grids(state, order, options)
    else:
        for start, stop, group in order.spans:
            _round_span(state, start, stop, group, options)
    squared_error_R = state.E_IR.square_().sum(0)
    return Solution(
        weight=PackedWeight(
            q_IO=order.restore(state.q_IR), scales_GO=state.grids_GR.scale_R,
            zeros_GO=state.grids_GR.zero_R.to(torch.uint8),
            g_idx_I=order.g_idx_I, scheme=options.scheme,
        ),
        squared_error_R=squared_error_R,
        # Without the damping's share, what is left is the error on the calibration data.
        loss_R=(state.loss_R - factor.damping * squared_error_R).clamp(min=0),
        signal_R=signal_R,
        damp_percent=factor.damp_percent,
        damp_retries=factor.damp_retries,
    )  # fmt: skip


@dataclass(frozen=True)
class _Rounding:
    """A solve under way: what is rounded, in rounding order, and the results so far."""

    W_IR: Tensor
    factor: Factor
    E_IR: Tensor  # W - Q of the columns rounded so far
    q_IR: Tensor
    grids_GR: Grid
    loss_R: Tensor

    @classmethod
    def start(cls, W_IR: Tensor, factor: Factor, grids_GR: Grid) -> "_Rounding":
        return cls(
            W_IR,
            factor,
            E_IR=torch.empty_like(W_IR),
            q_IR=torch.empty(W_IR.shape, dtype=torch.uint8, device=W_IR.device),
            grids_GR=grids_GR,
            loss_R=W_IR.new_zeros(W_IR.shape[1]),
        )

    def round_block(self, first: int, last: int, C_BR: Tensor, grids: ColumnGrids) -> None:
        """Rounds columns first..last, given with all earlier errors fed back."""
        U_BB = self.factor.U_T[first:last, first:last]
        W_BR, E_BR = self.W_IR[first:last], self.E_IR[first:last]
        steps_BR = choose_rounder(W_BR.device)(W_BR, C_BR, E_BR, U_BB, grids)
        self.q_IR[first:last] = (steps_BR - grids.lowest_BR).to(torch.uint8)
        residual_BR = C_BR.sub_(steps_BR.mul_(grids.scale_BR))
        self.loss_R.addmv_(residual_BR.square_().T, self.factor.D_I[first:last])


def _round_span(state: _Rounding, start: int, stop: int, group: int, options: GptqOptions) -> None:
    """Fits a group's grid to its weights as the errors so far have moved them; rounds to it."""
    W_IR, E_IR, U_T = state.W_IR, state.E_IR, state.factor.U_T
    C_CR = _feed_back(W_IR, E_IR, U_T, start, stop)
    weights_CR = _spread_inside(W_IR, C_CR, U_T, start, stop)
    grid = fit_grid(weights_CR, options.scheme, options.scale_dtype, options.scale_search)
    state.grids_GR.scale_R[group], state.grids_GR.zero_R[group] = grid.scale_R, grid.zero_R
    for first in range(start, stop, BLOCK_COLUMNS):
        last = min(first + BLOCK_COLUMNS, stop)
        C_BR = C_CR[: last - first]
        if first > start:
            C_BR = _feed_back(W_IR, E_IR, U_T, first, last)
        grids = ColumnGrids.of_group(grid, last - first, options.scheme.max_q)
        state.round_block(first, last, C_BR, grids)


def _make_grids(W_IR: Tensor, scheme: QuantScheme) -> Grid:
    """Makes room for the grids of all groups."""
    shape = (scheme.num_groups(len(W_IR)), W_IR.shape[1])
    return Grid(*(W_IR.new_empty(shape) for _ in range(2)))


def _fit_static_grids(W_IR: Tensor, options: GptqOptions) -> Grid:
    """Fits every group's grid to the weights as they came, in the columns' own order.

    As `static_groups` in the authors' code (IST-DASLab/gptq, gptq.py).
    """
    scheme = options.scheme
    grids_GR = _make_grids(W_IR, scheme)
    for group, (first, last) in enumerate(scheme.group_bounds(len(W_IR))):
        grid = fit_grid(W_IR[first:last], scheme, options.scale_dtype, options.scale_search)
        grids_GR.scale_R[group], grids_GR.zero_R[group] = grid.scale_R, grid.zero_R
    return grids_GR


def _round_on_static_grids(state: _Rounding, order: ColumnOrder, options: GptqOptions) -> None:
    """Rounds all columns, each to the grid of its own group."""
    W_IR, scheme = state.W_IR, options.scheme
    groups_I = order.g_idx_I.long()[order.perm_I]
    for first in range(0, len(W_IR), BLOCK_COLUMNS):
        last = min(first + BLOCK_COLUMNS, len(W_IR))
        C_BR = _feed_back(state.W_IR, state.E_IR, state.factor.U_T, first, last)
        grids = ColumnGrids.of_columns(state.grids_GR, groups_I[first:last], scheme.max_q)
        state.round_block(first, last, C_BR, grids)


def _feed_back(W_IR: Tensor, E_IR: Tensor, U_T: Tensor, first: int, last: int) -> Tensor:
    """Returns columns first..last of W with the errors of all earlier columns fed back."""
    if first == 0:
        return W_IR[first:last].clone()
    return torch.addmm(W_IR[first:last], U_T[first:last, :first], E_IR[:first])


def _spread_inside(W_IR: Tensor, C_CR: Tensor, U_T: Tensor, first: int, last: int) -> Tensor:
    """Returns a group's weights as the paper has them when its first column is reached.

    There, the errors so far are spread over all columns not yet rounded as is best for them
    together. C_CR lacks what the group's own columns, moved by that, mean for those after them.
    """
    if first == 0:
        return C_CR
    W_CR, U_CC = W_IR[first:last], U_T[first:last, first:last]
    change_CR: Tensor = torch.linalg.solve_triangular(
        U_CC, C_CR - W_CR, upper=False, unitriangular=True
    )
    return change_CR.add_(W_CR)
