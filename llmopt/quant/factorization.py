"""The factorisation H = U D U^T that a solve runs on, and how far H is damped for it.

Shapes: I = in_features, B = columns of one block.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llmopt.errors import NumericalError

BLOCK_COLUMNS = 256
PERMUTED_ROWS = 512
DAMP_GROWTH = 2.0
FIRST_RAISED_DAMP = 1e-3  # where raising starts when no damping was asked for


@dataclass(frozen=True)
class Factor:
    """H + damping = U D U^T; `U_T` is U transposed, unit lower triangular."""

    U_T: Tensor
    D_I: Tensor
    damping: float
    damp_percent: float
    damp_retries: int


def factorize(
    copy_hessian: Callable[[], Tensor], damp_percent: float, max_damp_percent: float
) -> Factor:
    """Damps H until it is positive definite and factorises it.

    Args:
        copy_hessian: Gives H, symmetric [I, I], in memory that may be overwritten; asked for
            again where damping must be raised. So that beside H itself one copy is alive.
        damp_percent: Fraction of the mean diagonal that is added to the diagonal.
        max_damp_percent: How far that may be raised when H is not positive definite.

    Raises:
        NumericalError: Even `max_damp_percent` was not enough, or H is not finite.
    """
    damped = copy_hessian()
    if not is_finite(damped):
        raise NumericalError("the Hessian holds NaN or infinity")
    mean = float(damped.diagonal().mean())
    damp, retries = damp_percent, 0
    while True:
        damped.diagonal().add_(damp * mean)
        roots_I = _factorize_in_place(damped)
        if roots_I is not None:
            return Factor(damped, roots_I.square(), damp * mean, damp, retries)
        if damp >= max_damp_percent:
            raise NumericalError(
                f"the Hessian is not positive definite at damp_percent {damp:g} "
                f"(max_damp_percent is {max_damp_percent:g})",
                remedy="calibrate with more tokens, or raise max_damp_percent",
            )
        raised = max(damp * DAMP_GROWTH, FIRST_RAISED_DAMP)
        damp, retries = min(raised, max_damp_percent), retries + 1
        del damped  # before the next copy is made
        damped = copy_hessian()


def copy_with_living_diagonal(H_II: Tensor, perm_I: Tensor | None = None) -> Tensor:
    """Returns a copy of H, permuted if asked, whose zero diagonal entries are the others' mean.

    They belong to inputs that are always zero. Their own value matters to no weight, but the mean
    diagonal, which damping is a share of, must be that of the living inputs.
    """
    copy_II = H_II.clone() if perm_I is None else _permute_both(H_II, perm_I)
    diagonal_I = copy_II.diagonal()
    dead_I = diagonal_I == 0
    diagonal_I[dead_I] = 1 if bool(dead_I.all()) else diagonal_I[~dead_I].mean()
    return copy_II


def _permute_both(H_II: Tensor, perm_I: Tensor) -> Tensor:
    """Returns H[perm][:, perm], block by block, so that no second copy is alive."""
    permuted_II = torch.empty_like(H_II)
    for first in range(0, len(H_II), PERMUTED_ROWS):
        rows = slice(first, first + PERMUTED_ROWS)
        # Selecting twice is twice as fast as indexing.
        torch.index_select(H_II.index_select(0, perm_I[rows]), 1, perm_I, out=permuted_II[rows])
    return permuted_II


def is_finite(matrix: Tensor) -> bool:
    """Tells whether a matrix holds neither NaN nor infinity; a sum tells it ten times faster."""
    return bool(torch.isfinite(matrix.sum())) or bool(torch.isfinite(matrix).all())


def _factorize_in_place(A_II: Tensor) -> Tensor | None:
    """Turns A = R R^T (R upper triangular) into (R D^-1/2)^T; returns diag(R).

    A blocked Cholesky that starts at the last columns and works on rows of the lower triangle:
    no copy of A is flipped or transposed, as the LAPACK call with its columns reversed needs.

    Returns:
        diag(R), [I]; None if A is not positive definite (it is spoilt then).
    """
    roots_I = torch.empty_like(A_II.diagonal())
    for start in range((len(A_II) - 1) // BLOCK_COLUMNS * BLOCK_COLUMNS, -1, -BLOCK_COLUMNS):
        block = slice(start, min(start + BLOCK_COLUMNS, len(A_II)))
        L_BB, info = torch.linalg.cholesky_ex(A_II[block, block].flip(0, 1))
        if int(info):
            return None
        R_BB = L_BB.flip(0, 1)
        roots_I[block] = R_BB.diagonal()
        A_II[block, block] = R_BB.T
        if start:
            rows = torch.linalg.solve_triangular(R_BB, A_II[block, :start], upper=True)
            A_II[block, :start] = rows
            for first in range(0, start, BLOCK_COLUMNS):
                stop = first + BLOCK_COLUMNS
                A_II[first:stop, :stop].addmm_(rows[:, first:stop].T, rows[:, :stop], alpha=-1)
        A_II[block, : block.stop].div_(roots_I[block, None])
    A_II.tril_()
    return roots_I
