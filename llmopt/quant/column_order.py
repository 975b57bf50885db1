"""The order in which GPTQ rounds columns, and which columns share a grid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.packed_weight import monotonic_g_idx


@dataclass(frozen=True)
class ColumnOrder:
    """An order of columns and their groups.

    Attributes:
        perm_I: int64 [I]; perm_I[k] is the column that is rounded k-th.
        spans: (first, last, group) in rounding order, where a group's columns are consecutive
            there; none where act-order scatters static groups.
        g_idx_I: int32 [I]; the group of each column in its original place.
        is_identity: Whether columns are rounded as they stand.
    """

    perm_I: Tensor
    spans: tuple[tuple[int, int, int], ...]
    g_idx_I: Tensor
    is_identity: bool

    def restore(self, values_IR: Tensor) -> Tensor:
        """Puts rows of a result back into the columns' original order."""
        if self.is_identity:
            return values_IR
        restored = torch.empty_like(values_IR)
        restored[self.perm_I] = values_IR
        return restored


def order_columns(diagonal_I: Tensor, scheme: QuantScheme, act_group_aware: bool) -> ColumnOrder:  # noqa: FBT001
    """Orders columns by the Hessian's diagonal as the scheme asks.

    `desc_act` sorts all columns and groups them in that order. `act_group_aware` keeps every column
    in its own group, so nothing moves in the checkpoint and serving costs nothing: it sorts groups
    by their largest diagonal and columns inside a group. With `static_groups` either sorts all
    columns while each stays in its own group, whose columns are then not consecutive (no spans).
    Ties keep their order.
    """
    num_columns = len(diagonal_I)
    spans = tuple((a, b, g) for g, (a, b) in enumerate(scheme.group_bounds(num_columns)))
    g_idx_I = monotonic_g_idx(num_columns, scheme.group_size).to(diagonal_I.device)
    if scheme.static_groups and (scheme.desc_act or act_group_aware):
        perm_I = diagonal_I.argsort(descending=True, stable=True)
        return ColumnOrder(perm_I, (), g_idx_I, is_identity=False)
    if scheme.desc_act:
        perm_I = diagonal_I.argsort(descending=True, stable=True)
        by_column_I = torch.empty_like(g_idx_I)
        by_column_I[perm_I] = g_idx_I
        return ColumnOrder(perm_I, spans, by_column_I, is_identity=False)
    if not act_group_aware:
        identity_I = torch.arange(num_columns, device=diagonal_I.device)
        return ColumnOrder(identity_I, spans, g_idx_I, is_identity=True)
    perm_I, spans = _order_inside_groups(diagonal_I, spans)
    return ColumnOrder(perm_I, spans, g_idx_I, is_identity=False)


def _order_inside_groups(
    diagonal_I: Tensor, spans: tuple[tuple[int, int, int], ...]
) -> tuple[Tensor, tuple[tuple[int, int, int], ...]]:
    peaks_G = torch.stack([diagonal_I[a:b].amax() for a, b, _ in spans])
    pieces, ordered, position = [], [], 0
    for group in peaks_G.argsort(descending=True, stable=True).tolist():
        first, last, _ = spans[group]
        pieces.append(first + diagonal_I[first:last].argsort(descending=True, stable=True))
        ordered.append((position, position + last - first, group))
        position += last - first
    return torch.cat(pieces), tuple(ordered)
