import pytest
import torch
from torch import Tensor

from llmopt.errors import NumericalError
from llmopt.quant.hessian import Hessian
from llmopt.quant.matrix_units import has_matrix_units
from llmopt.quant.precision import bf16_matmul

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def make_activations(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Returns activations with outlier channels, as layers after a norm see them."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(shape[-1], generator=generator).exp()
    return (torch.randn(*shape, generator=generator) * spread).to(dtype)


def compute_directly(rows: list[Tensor]) -> Tensor:
    """Returns X^T X / tokens in float64."""
    X = torch.cat([row.double() for row in rows])
    return X.T @ X / len(X)


def assert_close(H: Tensor, expected: Tensor, tolerance: float = 5e-6) -> None:
    """Compares each entry on the scale of its two columns."""
    roots = expected.diagonal().sqrt()
    error = (H.double() - expected).abs() / (roots[:, None] * roots)
    assert float(error.max()) < tolerance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("in_features", [1, 96, 255, 256, 257, 600])
def test_is_the_mean_outer_product(in_features: int, dtype: torch.dtype) -> None:
    hessian = Hessian(in_features, CPU)
    batches = [
        make_activations(2, 37, in_features, dtype=dtype, seed=1),
        make_activations(3, 20, in_features, dtype=dtype, seed=2),
    ]
    for batch in batches:
        hessian.add(batch)
    H = hessian.finish()
    assert H.dtype == torch.float32
    assert_close(H, compute_directly([batch.flatten(0, 1) for batch in batches]))
    torch.testing.assert_close(H, H.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_does_not_count(dtype: torch.dtype) -> None:
    X_BTI = make_activations(4, 30, 300, dtype=dtype)
    lengths = [30, 1, 17, 2]
    hessian = Hessian(300, CPU)
    for row, length in enumerate(lengths):
        X_BTI[row, length:] = 1e4
    hessian.add(X_BTI[:3], torch.tensor(lengths[:3]))
    hessian.add(X_BTI[3:], torch.tensor(lengths[3:]))
    real = [X_BTI[row, :length] for row, length in enumerate(lengths)]
    assert_close(hessian.finish(), compute_directly(real))


def test_full_lengths_equal_no_lengths() -> None:
    X_BTI = make_activations(3, 20, 64, dtype=torch.bfloat16)
    with_lengths, without = Hessian(64, CPU), Hessian(64, CPU)
    with_lengths.add(X_BTI, torch.tensor([20, 20, 20]))
    without.add(X_BTI)
    assert torch.equal(with_lengths.finish(), without.finish())


def test_activations_are_not_modified() -> None:
    X_BTI = make_activations(2, 20, 300, dtype=torch.float32)
    before = X_BTI.clone()
    Hessian(300, CPU).add(X_BTI)
    assert torch.equal(X_BTI, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(value: float) -> None:
    hessian = Hessian(64, CPU)
    X_BTI = make_activations(1, 20, 64, dtype=torch.float32)
    X_BTI[0, 3, 5] = value
    hessian.add(X_BTI)
    with pytest.raises(NumericalError, match="activations hold NaN or infinity"):
        hessian.finish()


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_global_precision_is_put_back(before: str) -> None:
    found = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        with bf16_matmul(CPU):
            inside = "medium" if has_matrix_units() else before
            assert torch.get_float32_matmul_precision() == inside
        with bf16_matmul(torch.device("cuda")):
            assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_float32_matmul_precision() == before
        Hessian(64, CPU).add(make_activations(1, 20, 64, dtype=torch.bfloat16))
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(found)


def test_global_precision_is_put_back_after_an_exception() -> None:
    before = torch.get_float32_matmul_precision()
    assert before == "highest"
    with pytest.raises(RuntimeError, match="size"):
        Hessian(64, CPU).add(make_activations(1, 20, 65, dtype=torch.bfloat16))
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_multiplies_exactly(dtype: torch.dtype) -> None:
    hessian = Hessian(600, torch.device("cuda"))
    batches = [make_activations(4, 500, 600, dtype=dtype, seed=seed) for seed in range(3)]
    for batch in batches:
        hessian.add(batch.cuda())
    expected = compute_directly([b.flatten(0, 1) for b in batches])
    # Products are exact there, but sums on an H200's matrix units are cut, not rounded: 1.1e-5.
    tolerance = 5e-6 if dtype == torch.float32 else 5e-5
    assert_close(hessian.finish().cpu(), expected, tolerance)
