import pytest
import torch
from torch import Tensor

from llmopt.quant.asymmetric import AsymmetricOptions, CrossMoment, shift_targets
from llmopt.quant.gptq import solve_gptq
from tests.quant.layers import make_options

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def make_inputs(tokens: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns what a layer reads in the original and in the quantised model, [tokens, columns]."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mix = normal(columns, columns) / columns**0.5 + torch.eye(columns, dtype=torch.float64)
    original = normal(tokens, columns) @ mix
    return original, original + 0.2 * normal(tokens, columns) @ mix


def moments(original: Tensor, quantized: Tensor) -> tuple[Tensor, Tensor]:
    """Returns H and C in float64."""
    tokens = len(original)
    return quantized.T @ quantized / tokens, (original - quantized).T @ quantized / tokens


def output_distance(W: Tensor, original: Tensor, Q: Tensor, quantized: Tensor) -> float:
    """Returns the mean squared distance of the rounded layer's output from the original's."""
    return float((original @ W.T - quantized @ Q.T).square().sum(1).mean())


@pytest.mark.parametrize("columns", [5, 130, 300])
def test_is_the_least_squares_solution(columns: int) -> None:
    original, quantized = make_inputs(4 * columns, columns)
    W = torch.randn(7, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    H, C = moments(original, quantized)
    before = H.clone(), C.clone(), W.clone()
    found = shift_targets(W, H, C, AsymmetricOptions(1.0, 1e-12, 0.5))
    best = torch.linalg.lstsq(quantized, original @ W.T).solution.T
    torch.testing.assert_close(found, best, rtol=1e-3, atol=1e-6)
    half = shift_targets(W, H, C, AsymmetricOptions(0.5, 1e-12, 0.5))
    torch.testing.assert_close(half, (W + best) / 2, rtol=1e-3, atol=1e-6)
    for tensor, copy in zip((H, C, W), before, strict=True):
        assert torch.equal(tensor, copy)


def test_damping_is_that_of_the_mean_diagonal() -> None:
    original, quantized = make_inputs(200, 40)
    W = torch.randn(3, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    H, C = moments(original, quantized)
    damped = H + 0.3 * H.diagonal().mean() * torch.eye(40, dtype=torch.float64)
    torch.testing.assert_close(
        shift_targets(W, H, C, AsymmetricOptions(1, 0.3, 0.5)), W + W @ C @ damped.inverse()
    )


def test_equal_inputs_shift_nothing() -> None:
    original, _ = make_inputs(200, 40)
    W = torch.ones(3, 40, dtype=torch.float64)
    H, C = moments(original, original)
    assert torch.equal(shift_targets(W, H, C, AsymmetricOptions(1, 0.01, 0.5)), W)


def test_inputs_that_are_always_zero_keep_their_weights() -> None:
    original, quantized = make_inputs(200, 40)
    quantized[:, [3, 17]] = 0
    W = torch.randn(3, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = shift_targets(W, *moments(original, quantized), AsymmetricOptions(1, 0.01, 0.5))
    assert torch.equal(found[:, [3, 17]], W[:, [3, 17]])
    assert not torch.equal(found[:, 4], W[:, 4])


def test_gptq_on_shifted_targets_comes_nearer_to_the_original() -> None:
    original, quantized = make_inputs(2000, 128)
    W = torch.randn(16, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    H, C = moments(original, quantized)
    targets = (W, shift_targets(W, H, C, AsymmetricOptions(1, 0.01, 0.5)))
    plain, shifted = (
        solve_gptq(target, H, make_options()).weight.dequantize(torch.float64) for target in targets
    )
    distance = output_distance(W, original, shifted, quantized)
    assert distance < 0.95 * output_distance(W, original, plain, quantized)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_cross_moment_counts_real_tokens(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(5, 20, 30, generator=generator).to(dtype)
    quantized = (original + 0.1 * torch.randn(5, 20, 30, generator=generator)).to(dtype)
    lengths = torch.tensor([20, 3, 1])
    moment = CrossMoment(30, CPU)
    moment.add(original[:3], quantized[:3], lengths)
    moment.add(original[3:], quantized[3:])
    rows = [(k, int(n)) for k, n in enumerate(lengths)] + [(3, 20), (4, 20)]
    real, seen = (
        torch.cat([batch[k, :n] for k, n in rows]).double() for batch in (original, quantized)
    )
    expected = (real - seen).T @ seen / len(seen)
    # bf16 products lose bits of the difference, never of what H is made from.
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    size = float(expected.abs().max())
    torch.testing.assert_close(moment.finish().double(), expected, rtol=0, atol=tolerance * size)
