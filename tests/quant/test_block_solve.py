import importlib.util
import re

import pytest
import torch

from llmopt.quant.block_solve import ColumnGrids, choose_rounder, round_block
from llmopt.quant.grid import Grid

pytestmark = pytest.mark.usefixtures("one_thread")


# 32 columns are worked on at a time.
@pytest.mark.parametrize("columns", [1, 31, 32, 33, 100])
def test_each_column_is_rounded_with_the_errors_before_it(columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    W = torch.randn(columns, 9, generator=generator, dtype=torch.float64)
    fed = W + 0.1 * torch.randn(columns, 9, generator=generator, dtype=torch.float64)
    U = (0.2 * torch.randn(columns, columns, generator=generator, dtype=torch.float64)).tril(-1)
    groups = torch.arange(columns) % 3
    grids_GR = Grid(
        torch.rand(3, 9, generator=generator, dtype=torch.float64) * 0.1 + 0.1,
        torch.full((3, 9), 7.0, dtype=torch.float64),
    )
    C, E = fed.clone(), torch.full_like(W, torch.nan)
    steps = round_block(W, C, E, U, ColumnGrids.of_columns(grids_GR, groups, 15))
    for k in range(columns):
        expected = fed[k] + sum((U[k, j] * E[j] for j in range(k)), torch.zeros(9).double())
        torch.testing.assert_close(C[k], expected)
        scale = grids_GR.scale_R[groups[k]]
        assert torch.equal(steps[k], torch.clamp(torch.round(C[k] / scale), -7, 8))
        torch.testing.assert_close(E[k], W[k] - steps[k] * scale)


def test_one_groups_columns_share_a_grid() -> None:
    grid = Grid(torch.tensor([0.5, 0.25]), torch.tensor([3.0, 8.0]))
    grids = ColumnGrids.of_group(grid, 40, 15)
    assert torch.equal(grids.scale_BR, grid.scale_R.repeat(40, 1))
    assert torch.equal(grids.lowest_BR, torch.tensor([[-3.0, -8.0]]).repeat(40, 1))
    assert torch.equal(grids[10:12].highest_BR, torch.tensor([[12.0, 7.0]] * 2))


def test_the_kernel_is_for_cuda_alone() -> None:
    assert choose_rounder(torch.device("cpu")) is round_block
    chosen = choose_rounder(torch.device("cuda"))
    module = "triton_block_solve" if importlib.util.find_spec("triton") else "block_solve"
    assert re.search(rf"\.{module}$", chosen.__module__)
