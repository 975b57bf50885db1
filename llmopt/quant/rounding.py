"""Round-to-nearest: the baseline that every calibrated method must beat.

Shapes: I = in_features, R = rows (out_features of all stacked layers), G = groups.
"""

import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme, ScaleSearch
from llmopt.checkpoint.packed_weight import PackedWeight
from llmopt.quant.column_order import order_columns
from llmopt.quant.grid import fit_grid
from llmopt.quant.solution import Solution


def solve_rtn(
    W_RI: Tensor,
    H_II: Tensor | None,
    scheme: QuantScheme,
    scale_dtype: torch.dtype,
    scale_search: ScaleSearch = "minmax",
) -> Solution:
    """Rounds each weight to its grid, on its own.

    Args:
        W_RI: Weights [R, I], any floating dtype. Not modified.
        H_II: Hessian X^T X / tokens, only to report the output error; may be None.
        scheme: Bits, groups, symmetry.
        scale_dtype: The dtype that the model is served in.
        scale_search: How the range of a group's grid is found.
    """
    W_IR = W_RI.T.to(torch.float32 if H_II is None else H_II.dtype).contiguous()
    order = order_columns(W_IR[:, 0], scheme, act_group_aware=False)
    q_IR = torch.empty(W_IR.shape, dtype=torch.uint8, device=W_IR.device)
    E_IR = torch.empty_like(W_IR)
    scales, zeros = [], []
    for first, last, _ in order.spans:
        grid = fit_grid(W_IR[first:last], scheme, scale_dtype, scale_search)
        steps = grid.round_to_steps(W_IR[first:last], scheme.max_q)
        q_IR[first:last] = (steps + grid.zero_R).to(torch.uint8)
        E_IR[first:last] = W_IR[first:last] - steps * grid.scale_R
        scales.append(grid.scale_R)
        zeros.append(grid.zero_R.to(torch.uint8))
    loss_R = None if H_II is None else (H_II @ E_IR).mul_(E_IR).sum(0).clamp(min=0)
    signal_R = None if H_II is None else (H_II @ W_IR).mul_(W_IR).sum(0)
    weight = PackedWeight(q_IR, torch.stack(scales), torch.stack(zeros), order.g_idx_I, scheme)
    return Solution(weight, E_IR.square().sum(0), loss_R, signal_R)
