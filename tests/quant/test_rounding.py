import numpy as np
import pytest
import torch

from llmopt.artifacts.quant_scheme import ScaleSearch
from llmopt.quant.rounding import solve_rtn
from llmopt.quant.solution import split_solution
from tests.quant.layers import make_layer, make_options
from tests.quant.textbook_gptq import TextbookScheme, fit_grid, output_error

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("scale_search", ["minmax", "mse"])
@pytest.mark.parametrize("group_size", [-1, 32, 128])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounds_each_weight_to_its_own_grid(
    bits: int, sym: bool, group_size: int, scale_search: ScaleSearch
) -> None:
    W, H = make_layer(5, 200)
    scheme = make_options(bits, group_size, sym=sym).scheme
    weight = solve_rtn(W, H, scheme, torch.bfloat16, scale_search).weight
    textbook = TextbookScheme(bits, group_size, sym, scale_search=scale_search)
    size = 200 if group_size == -1 else group_size
    for row in range(5):
        for group, start in enumerate(range(0, 200, size)):
            values = W[row, start : start + size].numpy()
            scale, zero = fit_grid(values, textbook)
            expected = np.clip(np.round(values / scale) + zero, 0, 2**bits - 1)
            found = weight.q_IO[start : start + size, row].numpy()
            np.testing.assert_array_equal(found, expected)
            assert float(weight.scales_GO[group, row]) == scale
            assert int(weight.zeros_GO[group, row]) == zero
            assert set(weight.g_idx_I[start : start + size].tolist()) == {group}


@pytest.mark.parametrize("dead", [(), (4, 90)])
def test_ledger_states_the_errors_of_what_is_stored(dead: tuple[int, ...]) -> None:
    W, H = make_layer(12, 130, dead=dead)
    solution = solve_rtn(W, H, make_options().scheme, torch.bfloat16)
    ((weight, error),) = split_solution(solution, ["layer"], [12])
    Q = weight.dequantize(torch.float64).numpy()
    loss = output_error(W.numpy(), Q, H.numpy())
    signal = output_error(W.numpy(), np.zeros_like(Q), H.numpy())
    assert error.loss == pytest.approx(loss, rel=1e-9)
    assert error.snr_db == pytest.approx(10 * np.log10(signal / loss), abs=1e-3)
    assert error.weight_mse == pytest.approx(np.mean((W.numpy() - Q) ** 2), rel=1e-9)
    assert (error.damp_percent, error.damp_retries) == (None, 0)


def test_without_data_only_the_weights_error_is_known() -> None:
    W, H = make_layer(6, 96)
    scheme = make_options().scheme
    without, with_data = (solve_rtn(W, h, scheme, torch.bfloat16) for h in (None, H))
    ((weight, error),) = split_solution(without, ["layer"], [6])
    assert torch.equal(weight.q_IO, with_data.weight.q_IO)
    assert (error.loss, error.snr_db) == (None, None)
    assert error.weight_mse > 0


def test_weights_that_lie_on_the_grid_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(-7, 8, (4, 64), generator=generator).double()
    steps[:, [0, 32]] = -7.5  # the grid's range, so that its scale is what it was
    W = steps * 0.25
    solution = solve_rtn(W, None, make_options().scheme, torch.bfloat16)
    Q = solution.weight.dequantize(torch.float64)
    ends = torch.zeros_like(steps, dtype=torch.bool)
    ends[:, [0, 32]] = True
    assert torch.equal(Q[~ends], W[~ends])
    assert (Q - W)[ends].abs().tolist() == [0.125] * 8


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_search_lowers_the_weights_error(bits: int, sym: bool) -> None:
    W, _ = make_layer(16, 200)
    scheme = make_options(bits, 128, sym=sym).scheme
    nearest, searched = (
        solve_rtn(W, None, scheme, torch.bfloat16, search).squared_error_R
        for search in ("minmax", "mse")
    )
    assert bool((searched <= nearest).all())
    assert float(searched.sum()) < (0.99 if bits == 8 else 0.95) * float(nearest.sum())
