import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme, ScaleSearch
from llmopt.errors import NumericalError
from llmopt.quant.grid import MIN_SCALE, Grid, fit_grid
from tests.quant.textbook_gptq import TextbookScheme, weight_error
from tests.quant.textbook_gptq import fit_grid as fit_textbook_grid

SCALE_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SMALLEST_NORMAL_HALF = 2.0**-14  # below it a float16 scale loses digits

schemes = st.builds(
    QuantScheme, bits=st.sampled_from((2, 3, 4, 8)), group_size=st.just(-1), sym=st.booleans()
)
dtypes = st.sampled_from(SCALE_DTYPES)
magnitudes = st.floats(-10, 4).map(lambda exponent: 10.0**exponent)


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Draws one row's group, [C, 1] float64: any mix of signs, zeros and magnitudes."""
    size = draw(magnitudes)
    low, high = draw(st.sampled_from(((-1, 1), (0, 1), (-1, 0), (-1, 0.03), (-0.001, 1))))
    values = st.one_of(st.floats(low, high), st.just(0.0))
    group = draw(st.lists(values, min_size=1, max_size=12))
    return torch.tensor(group, dtype=torch.float64)[:, None] * size


@given(weights(), schemes, dtypes)
def test_scale_is_what_a_checkpoint_can_store(
    W_CR: Tensor, scheme: QuantScheme, dtype: torch.dtype
) -> None:
    scale = fit_grid(W_CR, scheme, dtype).scale_R
    assert MIN_SCALE <= float(scale) < math.inf
    assert torch.equal(scale.to(dtype).to(torch.float16).double(), scale)
    assert torch.equal(scale.to(torch.float16).to(dtype).double(), scale)


@given(weights(), schemes, dtypes)
def test_zero_point_is_storable(W_CR: Tensor, scheme: QuantScheme, dtype: torch.dtype) -> None:
    zero = float(fit_grid(W_CR, scheme, dtype).zero_R)
    assert zero == round(zero)
    assert 1 <= zero <= scheme.max_q
    assert not scheme.sym or zero == scheme.midpoint


@given(weights(), schemes, dtypes)
def test_every_weight_is_within_half_a_step_unless_clipped(
    W_CR: Tensor, scheme: QuantScheme, dtype: torch.dtype
) -> None:
    grid = fit_grid(W_CR, scheme, dtype)
    steps = grid.round_to_steps(W_CR, scheme.max_q)
    stored = steps + grid.zero_R
    assert float(stored.min()) >= 0
    assert float(stored.max()) <= scheme.max_q
    assert torch.equal(stored, stored.round())
    error = (W_CR - steps * grid.scale_R).abs() / grid.scale_R
    clipped = (stored == 0) | (stored == scheme.max_q)
    assert float(error[~clipped].amax() if (~clipped).any() else 0) <= 0.5 + 1e-9
    if float(grid.scale_R) >= SMALLEST_NORMAL_HALF:
        # A symmetric grid ends half a step short; rounding a scale down costs 2^-8 of the range.
        assert float(error.max()) <= 0.5 + 0.5 + scheme.max_q * 2**-8


@given(weights(), schemes, dtypes)
def test_zero_stays_zero(W_CR: Tensor, scheme: QuantScheme, dtype: torch.dtype) -> None:
    grid = fit_grid(W_CR, scheme, dtype)
    assert float(grid.round_to_steps(torch.zeros(1, 1, dtype=W_CR.dtype), scheme.max_q)) == 0


@given(weights(), schemes, dtypes)
def test_is_the_textbooks_grid(W_CR: Tensor, scheme: QuantScheme, dtype: torch.dtype) -> None:
    grid = fit_grid(W_CR, scheme, dtype)
    name = str(dtype).removeprefix("torch.")
    textbook = TextbookScheme(scheme.bits, -1, scheme.sym, scale_dtype=name)
    scale, zero = fit_textbook_grid(W_CR[:, 0].numpy(), textbook)
    assert (float(grid.scale_R), int(grid.zero_R)) == (scale, zero)


@given(weights(), schemes, dtypes)
def test_mse_search_is_the_textbooks(W_CR: Tensor, scheme: QuantScheme, dtype: torch.dtype) -> None:
    grid = fit_grid(W_CR, scheme, dtype, "mse")
    found = weight_error(W_CR[:, 0].numpy(), float(grid.scale_R), int(grid.zero_R), scheme.bits)
    name = str(dtype).removeprefix("torch.")
    textbook = TextbookScheme(scheme.bits, -1, scheme.sym, scale_dtype=name, scale_search="mse")
    scale, zero = fit_textbook_grid(W_CR[:, 0].numpy(), textbook)
    # Two grids may fit a tiny group as well but for the last bit of a sum.
    best = weight_error(W_CR[:, 0].numpy(), scale, zero, scheme.bits)
    assert found == pytest.approx(best, rel=1e-9, abs=0)


@given(
    st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**32), schemes, dtypes,
    st.sampled_from((torch.float32, torch.float64)),
)  # fmt: skip
def test_mse_search_is_never_worse_than_minmax(
    columns: int, rows: int, seed: int, scheme: QuantScheme, dtype: torch.dtype, work: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes_R = torch.randn(rows, generator=generator, dtype=work).exp()
    W_CR = torch.randn(columns, rows, generator=generator, dtype=work) ** 3 * sizes_R
    nearest, searched = (
        squared_error(W_CR, fit_grid(W_CR, scheme, dtype, search), scheme.max_q)
        for search in ("minmax", "mse")
    )
    slack = 1e-12 if work == torch.float64 else 1e-5  # of sums that are compared in `work`
    assert bool((searched <= nearest * (1 + slack)).all())


def squared_error(W_CR: Tensor, grid: Grid, max_q: int) -> Tensor:
    """Returns each row's squared weight error, [R], summed in float64."""
    steps = grid.round_to_steps(W_CR, max_q).double()
    return (W_CR.double() - steps * grid.scale_R.double()).square().sum(0)


def test_mse_search_keeps_a_group_that_lies_on_the_grid() -> None:
    W_CR = torch.linspace(-1.5, 6, 16)[:, None]
    grid = fit_grid(W_CR, QuantScheme(4, 32, sym=False), torch.bfloat16, "mse")
    assert (float(grid.scale_R), float(grid.zero_R)) == (0.5, 3.0)


def test_mse_search_clips_a_lone_outlier() -> None:
    W_CR = torch.cat([torch.linspace(-1, 1, 1999), torch.tensor([3.0])])[:, None]
    nearest, searched = (
        fit_grid(W_CR, QuantScheme(4, -1), torch.bfloat16, search) for search in ("minmax", "mse")
    )
    assert float(searched.scale_R) < 0.5 * float(nearest.scale_R)


@pytest.mark.parametrize("search", ["minmax", "mse"])
@pytest.mark.parametrize("sym", [True, False])
def test_rows_are_independent(sym: bool, search: ScaleSearch) -> None:
    generator = torch.Generator().manual_seed(0)
    W_CR = torch.randn(32, 5, generator=generator) * torch.tensor([1e-4, 1e-2, 1.0, 3.0, 100.0])
    scheme = QuantScheme(4, 32, sym)
    together = fit_grid(W_CR, scheme, torch.bfloat16, search)
    for row in range(5):
        alone = fit_grid(W_CR[:, row : row + 1], scheme, torch.bfloat16, search)
        assert float(alone.scale_R) == float(together.scale_R[row])
        assert float(alone.zero_R) == float(together.zero_R[row])


@pytest.mark.parametrize(("bits", "lowest", "highest"), [(2, -2, 1), (3, -4, 3), (4, -8, 7)])
def test_symmetric_grid_has_one_step_more_below(bits: int, lowest: int, highest: int) -> None:
    W_CR = torch.linspace(-1, 1, 1001)[:, None]
    grid = fit_grid(W_CR, QuantScheme(bits, 32), torch.bfloat16)
    steps = grid.round_to_steps(3 * W_CR, 2**bits - 1)[:, 0]
    assert sorted(set(steps.tolist())) == list(range(lowest, highest + 1))


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_all_zero_group_has_scale_one(bits: int, sym: bool) -> None:
    scheme = QuantScheme(bits, 32, sym)
    grid = fit_grid(torch.zeros(32, 3), scheme, torch.bfloat16)
    assert grid.scale_R.tolist() == [1.0] * 3
    assert grid.zero_R.tolist() == [scheme.midpoint if sym else 1] * 3
    assert not grid.round_to_steps(torch.zeros(32, 3), scheme.max_q).any()


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("size", [1e-9, 1e-20, 1e-38, 1e-45])
def test_weights_below_every_scale_round_to_zero(size: float, sym: bool) -> None:
    W_CR = torch.tensor([[size], [-size], [0.0]])
    scheme = QuantScheme(4, 32, sym)
    grid = fit_grid(W_CR, scheme, torch.bfloat16)
    # A subnormal weight's scale is 0 before it is raised: the group counts as all zero.
    assert float(grid.scale_R) == (MIN_SCALE if size > 1e-40 else 1.0)
    assert not grid.round_to_steps(W_CR, scheme.max_q).any()


@pytest.mark.parametrize("dtype", SCALE_DTYPES)
def test_largest_weights_that_fit(dtype: torch.dtype) -> None:
    W_CR = torch.tensor([[-60000.0 * 7.5], [60000.0 * 7.5]])
    grid = fit_grid(W_CR, QuantScheme(4, 32), dtype)
    assert float(grid.scale_R) == pytest.approx(60000, rel=2**-8)


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("dtype", SCALE_DTYPES)
@pytest.mark.parametrize("size", [1e6, 1e30, 3e38])
def test_weights_beyond_float16_scales_are_refused(
    size: float, dtype: torch.dtype, sym: bool
) -> None:
    W_CR = torch.tensor([[size, 1.0], [-size, 1.0]])
    message = f"a weight of {size:g} needs a scale beyond float16"
    with pytest.raises(NumericalError, match=re.escape(message)):
        fit_grid(W_CR, QuantScheme(4, 32, sym), dtype)


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(value: float, sym: bool) -> None:
    W_CR = torch.ones(32, 2)
    W_CR[7, 1] = value
    with pytest.raises(NumericalError, match=r"a weight of (nan|inf)"):
        fit_grid(W_CR, QuantScheme(4, 32, sym), torch.bfloat16)


def test_grid_of_a_known_group() -> None:
    # -1.5..6 in 4 bits: a step of 0.5, zero at 3.
    W_CR = torch.linspace(-1.5, 6, 16)[:, None]
    grid = fit_grid(W_CR, QuantScheme(4, 32, sym=False), torch.bfloat16)
    assert (float(grid.scale_R), float(grid.zero_R)) == (0.5, 3.0)
    steps = grid.round_to_steps(W_CR, 15)
    np.testing.assert_array_equal(steps[:, 0].numpy(), np.arange(-3, 13))
