"""Runs the Triton kernel in triton's interpreter beside the plain path; a script of its own."""

import itertools

import torch

from llmopt.quant import triton_block_solve
from llmopt.quant.block_solve import ColumnGrids, round_block
from llmopt.quant.grid import Grid

CASES = tuple(
    itertools.product(
        (torch.float32, torch.float64), ((128, 70), (37, 33), (1, 5), (128, 32)), (True, False)
    )
)


def compare(
    dtype: torch.dtype, columns: int, rows: int, *, one_group: bool, device: str = "cpu"
) -> None:
    """Asserts that both give the same steps, errors and fed-back weights."""
    generator = torch.Generator().manual_seed(columns * rows)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    W = normal(columns, rows)
    C = W + 0.1 * normal(columns, rows)
    U = (0.2 * normal(columns + 3, columns + 5)).tril(-1)[:columns, :columns]  # a strided view
    scales = Grid(normal(3, rows).abs() * 0.1 + 0.1, normal(3, rows).sign() * 2 + 8)
    grids = ColumnGrids.of_columns(scales, torch.arange(columns, device=device) % 3, 15)
    if one_group:
        grids = ColumnGrids.of_group(Grid(scales.scale_R[0], scales.zero_R[0]), columns, 15)
    results = []
    for solve in (round_block, triton_block_solve.round_block):
        fed, errors = C.clone(), torch.empty_like(W)
        results.append((solve(W, fed, errors, U, grids), errors, fed))
    assert torch.equal(results[0][0], results[1][0]), "other steps"
    assert len(results[0][0].unique()) > (3 if columns > 1 else 0)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    for plain, kernel in zip(*(result[1:] for result in results), strict=True):
        torch.testing.assert_close(kernel, plain, rtol=0, atol=tolerance)


if __name__ == "__main__":
    for dtype, (columns, rows), one_group in CASES:
        compare(dtype, columns, rows, one_group=one_group)
    print(f"{len(CASES)} cases agree")  # noqa: T201
