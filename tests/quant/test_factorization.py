import pytest
import torch

from llmopt.errors import NumericalError
from llmopt.quant.factorization import factorize, is_finite
from tests.quant.layers import make_indefinite, make_layer

pytestmark = pytest.mark.usefixtures("one_thread")


# 256 columns are one block.
@pytest.mark.parametrize("columns", [1, 130, 256, 257, 600])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_rebuilds_the_damped_hessian(columns: int, dtype: torch.dtype, tolerance: float) -> None:
    _, H = make_layer(1, columns, seed=9)
    H /= H.diagonal().mean()
    before = H.to(dtype)
    given = before.clone()
    factor = factorize(given.clone, 0.05, 0.5)
    assert torch.equal(given, before)
    U = factor.U_T.double().T
    damped = H + 0.05 * torch.eye(columns, dtype=torch.float64)
    torch.testing.assert_close(U * factor.D_I.double() @ U.T, damped, rtol=0, atol=tolerance)
    assert torch.equal(U, U.triu())
    assert torch.equal(U.diagonal(), torch.ones(columns, dtype=torch.float64))
    assert factor.damping == pytest.approx(0.05)
    assert (factor.damp_percent, factor.damp_retries) == (0.05, 0)


@pytest.mark.parametrize("place", [0, 300, 599])
def test_a_bad_pivot_in_any_block_raises_damping(place: int) -> None:
    H = torch.eye(600, dtype=torch.float64)
    H[place, place] = -0.05
    factor = factorize(H.clone, 0.01, 0.5)
    assert factor.damp_percent == pytest.approx(0.08)
    assert factor.damp_retries == 3


def test_beyond_the_budget_is_refused() -> None:
    with pytest.raises(NumericalError, match=r"at damp_percent 0\.3 \(max_damp_percent is 0\.3"):
        factorize(make_indefinite(64, -0.35).clone, 0.02, 0.3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_is_finite_sees_one_bad_value(value: float) -> None:
    matrix = torch.ones(40, 40)
    assert is_finite(matrix)
    matrix[3, 7] = value
    assert not is_finite(matrix)


def test_is_finite_bears_a_sum_that_overflows() -> None:
    assert is_finite(torch.full((8, 8), 3e38))
