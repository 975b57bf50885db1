import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import ScaleSearch
from llmopt.errors import NumericalError
from llmopt.quant.gptq import GptqOptions, solve_gptq
from llmopt.quant.rounding import solve_rtn
from llmopt.quant.solution import Solution, split_solution
from tests.quant.layers import make_indefinite, make_layer, make_options
from tests.quant.textbook_gptq import (
    Order,
    TextbookResult,
    TextbookScheme,
    output_error,
    textbook_gptq,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ORDERS = ("natural", "desc_act", "act_group_aware")
BITS = (2, 3, 4, 8)
GROUP_SIZES = (-1, 32, 64, 128)
# 96: no multiple of 64 and 128; 130 and 200: a last group that is short, a second block.
SHAPES = ((1, 96), (7, 130), (24, 200), (33, 256), (33, 128))
TIE = 1e-9  # in steps of the grid; the two solvers' float64 sums differ by far less


def solve_textbook(W: Tensor, H: Tensor, options: GptqOptions) -> TextbookResult:
    """Solves by the oracle what `solve_gptq` is given."""
    order: Order = "desc_act" if options.scheme.desc_act else "natural"
    if options.act_group_aware:
        order = "act_group_aware"
    scheme = TextbookScheme(
        bits=options.scheme.bits,
        group_size=options.scheme.group_size,
        sym=options.scheme.sym,
        order=order,
        damp_percent=options.damp_percent,
        scale_dtype=str(options.scale_dtype).removeprefix("torch."),
        scale_search=options.scale_search,
        static_groups=options.scheme.static_groups,
    )
    return textbook_gptq(W.numpy(), H.numpy(), scheme)


def assert_same(solution: Solution, textbook: TextbookResult) -> None:
    """Same groups; same integers, scales and zeros in every row up to that row's first tie."""
    weight = solution.weight
    np.testing.assert_array_equal(weight.g_idx_I.numpy(), textbook.g_idx)
    integers = weight.q_IO.T.numpy().astype(np.int64)
    scales = weight.scales_GO.double().numpy()
    zeros = weight.zeros_GO.numpy().astype(np.int64)
    for row in range(len(integers)):
        (where,) = np.nonzero((integers[row] != textbook.integers[row])[textbook.rounding_order])
        if len(where):  # a tie may fall to either side, and all that follows depends on it
            first = textbook.rounding_order[where[0]]
            distance = textbook.boundary_distance[row, first]
            assert distance < TIE, f"row {row} column {first}: {distance} from a boundary"
            continue
        np.testing.assert_array_equal(scales[:, row], textbook.scales[:, row])
        np.testing.assert_array_equal(zeros[:, row], textbook.zeros[:, row])


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_gives_the_textbooks_integers(bits: int, sym: bool, order: str, group_size: int) -> None:
    options = make_options(bits, group_size, sym=sym, order=order)
    for seed, (rows, columns) in enumerate(SHAPES):
        W, H = make_layer(rows, columns, seed=seed)
        assert_same(solve_gptq(W, H, options), solve_textbook(W, H, options))


@pytest.mark.parametrize("static_groups", [False, True])
@pytest.mark.parametrize("scale_search", ["minmax", "mse"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_every_variant_gives_the_textbooks_integers(
    bits: int, sym: bool, order: str, scale_search: ScaleSearch, static_groups: bool
) -> None:
    options = make_options(
        bits, 64, sym=sym, order=order, scale_search=scale_search, static_groups=static_groups
    )
    W, H = make_layer(3, 150, seed=bits)
    assert_same(solve_gptq(W, H, options), solve_textbook(W, H, options))


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("order", ORDERS)
def test_static_groups_give_the_textbooks_integers(order: str, group_size: int) -> None:
    options = make_options(3, group_size, order=order, static_groups=True)
    for seed, (rows, columns) in enumerate(SHAPES):
        W, H = make_layer(rows, columns, seed=seed, dead=(1, 70))
        assert_same(solve_gptq(W, H, options), solve_textbook(W, H, options))


@pytest.mark.parametrize("order", ORDERS)
def test_static_groups_keep_the_originals_grids(order: str) -> None:
    W, H = make_layer(6, 200, seed=3)
    options = make_options(4, 64, order=order, static_groups=True, scale_search="mse")
    weight = solve_gptq(W, H, options).weight
    nearest = solve_rtn(W, None, make_options(4, 64).scheme, torch.bfloat16, "mse").weight
    assert weight.g_idx_I.tolist() == [column // 64 for column in range(200)]
    assert torch.equal(weight.scales_GO.float(), nearest.scales_GO)
    assert not weight.scheme.has_moved_groups


@pytest.mark.full
@pytest.mark.parametrize("columns", [96, 128, 130, 200, 256])
@pytest.mark.parametrize("rows", [1, 7, 24, 33])
def test_gives_the_textbooks_integers_over_the_whole_grid(rows: int, columns: int) -> None:
    cases = itertools.product(BITS, GROUP_SIZES, (True, False), ORDERS)
    for seed, (bits, group_size, sym, order) in enumerate(cases):
        options = make_options(bits, group_size, sym=sym, order=order)
        W, H = make_layer(rows, columns, seed=1000 + seed)
        assert_same(solve_gptq(W, H, options), solve_textbook(W, H, options))


@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("damp_percent", [0.001, 0.1])
def test_follows_damping_and_scale_dtype(scale_dtype: torch.dtype, damp_percent: float) -> None:
    options = make_options(damp_percent=damp_percent, scale_dtype=scale_dtype)
    W, H = make_layer(9, 130, seed=5)
    assert_same(solve_gptq(W, H, options), solve_textbook(W, H, options))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sym", [True, False])
def test_dead_columns_are_the_textbooks(order: str, sym: bool) -> None:
    # Half are dead and damping is strong: what a dead one adds to the mean diagonal matters.
    dead = [*range(0, 130, 2), 129]
    W, H = make_layer(8, 130, dead=tuple(dead))
    sizes = torch.linspace(1.01, 1.5, 130, dtype=torch.float64) / H.diagonal().sqrt()
    sizes[dead] = 0
    H *= sizes[:, None] * sizes
    options = make_options(sym=sym, order=order, damp_percent=0.3)
    solution = solve_gptq(W, H, options)
    assert_same(solution, solve_textbook(W, H, options))
    assert not solution.weight.dequantize(torch.float64)[:, dead].any()


@pytest.mark.parametrize("order", ["desc_act", "act_group_aware"])
def test_dead_columns_come_last_whatever_the_activations_scale(order: str) -> None:
    options = make_options(order=order)
    dead = (3, 40, 95)
    W, H = make_layer(6, 96, dead=dead, scale=1e-2)
    assert float(H.diagonal().mean()) < 1
    # The dead may be anything: what the living round to is the same.
    other = W.clone()
    other[:, list(dead)] = 1000
    first, second = solve_gptq(W, H, options), solve_gptq(other, H, options)
    assert torch.equal(first.weight.q_IO, second.weight.q_IO)
    if order == "desc_act":
        assert first.weight.g_idx_I[list(dead)].tolist() == [2, 2, 2]


def test_all_columns_dead_gives_zeros() -> None:
    W, H = make_layer(4, 64, dead=tuple(range(64)))
    solution = solve_gptq(W, H, make_options())
    assert not solution.weight.dequantize(torch.float64).any()
    assert float(solution.loss_R.sum()) == 0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("bits", "sym"), [(4, True), (4, False), (8, True)])
def test_float32_loses_nothing_that_matters(bits: int, sym: bool, order: str) -> None:
    W, H = make_layer(24, 256, seed=3)
    options = make_options(bits, 64, sym=sym, order=order)
    exact = solve_textbook(W, H, options).dequantize()
    solution = solve_gptq(W.float(), H.float(), options)
    rounded = solution.weight.dequantize(torch.float64).numpy()
    loss = output_error(W.numpy(), rounded, H.numpy())
    assert loss == pytest.approx(output_error(W.numpy(), exact, H.numpy()), rel=0.01)


@pytest.mark.parametrize("static_groups", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_stacked_layers_round_as_they_do_alone(order: str, static_groups: bool) -> None:
    W, H = make_layer(33, 130, seed=8)
    options = make_options(order=order, static_groups=static_groups)
    sizes = [1, 24, 8]
    names = ["q", "k", "v"]
    stacked = split_solution(solve_gptq(W, H, options), names, sizes)
    for name, rows, (weight, error) in zip(names, W.split(sizes), stacked, strict=True):
        ((alone, own),) = split_solution(solve_gptq(rows, H, options), [name], [len(rows)])
        assert torch.equal(weight.q_IO, alone.q_IO)
        assert torch.equal(weight.scales_GO, alone.scales_GO)
        assert torch.equal(weight.zeros_GO, alone.zeros_GO)
        assert torch.equal(weight.g_idx_I, alone.g_idx_I)
        assert error.layer == name
        assert error.loss == pytest.approx(own.loss, rel=1e-9)
        assert error.snr_db == pytest.approx(own.snr_db, abs=1e-3)
        assert error.weight_mse == pytest.approx(own.weight_mse, rel=1e-9)


@pytest.mark.parametrize("static_groups", [False, True])
@pytest.mark.parametrize("dead", [(), (5, 33, 100)])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-2)])
def test_ledger_states_the_errors_of_what_is_stored(
    dtype: torch.dtype,
    tolerance: float,
    order: str,
    dead: tuple[int, ...],
    static_groups: bool,
) -> None:
    W, H = make_layer(12, 130, seed=4, dead=dead)
    options = make_options(order=order, static_groups=static_groups)
    solution = solve_gptq(W.to(dtype), H.to(dtype), options)
    ((weight, error),) = split_solution(solution, ["layer"], [12])
    Q = weight.dequantize(torch.float64).numpy()
    loss = output_error(W.numpy(), Q, H.numpy())
    signal = output_error(W.numpy(), np.zeros_like(Q), H.numpy())
    assert error.loss == pytest.approx(loss, rel=tolerance)
    assert error.snr_db == pytest.approx(10 * np.log10(signal / loss), abs=max(tolerance, 1e-3))
    assert error.weight_mse == pytest.approx(np.mean((W.numpy() - Q) ** 2), rel=tolerance)
    assert (error.damp_percent, error.damp_retries) == (0.01, 0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [3, 4, 8])  # at 2 bits the clipping of a min-max grid decides
def test_beats_round_to_nearest_on_correlated_data(bits: int, order: str) -> None:
    W, H = make_layer(32, 256, seed=6)
    options = make_options(bits, 64, order=order)
    scheme = make_options(bits, 64).scheme
    nearest = solve_rtn(W, H, scheme, torch.bfloat16)
    share = 0.8 if bits == 3 else 0.7
    assert float(solve_gptq(W, H, options).loss_R.sum()) < share * float(nearest.loss_R.sum())


def test_uncorrelated_inputs_make_it_round_to_nearest() -> None:
    W, _ = make_layer(16, 96, seed=2)
    H = torch.eye(96, dtype=torch.float64)
    options = make_options()
    nearest = solve_rtn(W, H, options.scheme, torch.bfloat16)
    solution = solve_gptq(W, H, options)
    assert torch.equal(solution.weight.q_IO, nearest.weight.q_IO)
    assert float(solution.loss_R.sum()) == pytest.approx(float(nearest.loss_R.sum()))


@pytest.mark.parametrize(
    ("smallest", "asked", "used", "retries"),
    [
        (0.1, 0.01, 0.01, 0),
        (-0.05, 0.01, 0.08, 3),
        (-0.015, 0.01, 0.02, 1),
        (-0.0005, 0.0, 0.001, 1),
        (-0.1, 0.0, 0.128, 8),
        (-0.4, 0.01, 0.5, 6),  # the last try is the whole budget, not a power of two below it
    ],
)
def test_damping_is_raised_until_the_hessian_factorises(
    smallest: float, asked: float, used: float, retries: int
) -> None:
    H = make_indefinite(64, smallest)
    W, _ = make_layer(4, 64)
    solution = solve_gptq(W, H, make_options(damp_percent=asked))
    assert solution.damp_percent == pytest.approx(used)
    assert solution.damp_retries == retries
    ((_, error),) = split_solution(solution, ["layer"], [4])
    assert (error.damp_percent, error.damp_retries) == (solution.damp_percent, retries)


def test_singular_float32_hessian_raises_damp() -> None:
    row = torch.linspace(1, 2, 128)[None]
    H = row.T @ row  # rank 1
    W, _ = make_layer(4, 128)
    solution = solve_gptq(W.float(), H, make_options(damp_percent=1e-9))
    assert solution.damp_retries > 0
    assert 1e-9 < solution.damp_percent <= 0.5
    assert bool(torch.isfinite(solution.weight.dequantize(torch.float32)).all())


def test_beyond_the_damping_budget_is_an_error_with_the_numbers() -> None:
    W, _ = make_layer(4, 64)
    options = make_options(damp_percent=0.02, max_damp_percent=0.3)
    pattern = r"not positive definite at damp_percent 0\.3 \(max_damp_percent is 0\.3\)"
    with pytest.raises(NumericalError, match=pattern) as caught:
        solve_gptq(W, make_indefinite(64, -0.35), options)
    assert "max_damp_percent" in str(caught.value.remedy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [(3, 3), (2, 7)])
def test_hessian_that_is_not_finite_is_refused(value: float, place: tuple[int, int]) -> None:
    W, H = make_layer(4, 64)
    H[place] = H[place[::-1]] = value
    with pytest.raises(NumericalError, match="NaN or infinity"):
        solve_gptq(W, H, make_options())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", ["rows", "one row", "transposed"])
def test_inputs_are_not_modified(order: str, layout: str) -> None:
    W, H = make_layer(1 if layout == "one row" else 6, 96, dead=(1, 50))
    if layout == "transposed":  # weights that already lie in the solver's own layout
        W = W.T.contiguous().T
    before = W.clone(), H.clone()
    options = make_options(order=order)
    solve_gptq(W, H, options)
    solve_rtn(W, H, make_options().scheme, torch.bfloat16)
    assert torch.equal(W, before[0])
    assert torch.equal(H, before[1])
