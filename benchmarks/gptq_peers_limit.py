"""The shortest time in which a machine could run GPTQ on a Llama, from its measured matmul rates.

Counts the multiply-adds that GPTQ can't do without (twice that are FLOPs) and divides them by the
fastest exact way of computing each kind that was measured on the model's own shapes:

- each linear layer's forward pass over all calibration tokens, once: true-sequential order, staged
  inside a block, needs no second one, and nothing reads the last block's output;
- attention, the causal half of its two products, at the linear layers' fastest rate;
- the upper half of one Hessian per distinct input of a block's layers (q, k, v share one; gate and
  up): products of bf16 activations, which are exact in float32 accumulation;
- the solve: a Cholesky factor of each Hessian and the error's propagation over its half, float32.

Shapes: N = tokens, I = in_features, O = out_features.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

SECONDS_PER_RATE = 0.4
TOKENS_PER_PRODUCT = (2048, 8192)
GIGA = 1e9
PRECISIONS = ("medium", "highest")  # lowered to bf16 where oneDNN has it, and not


@dataclass(frozen=True)
class ModelShape:
    """A Llama and its calibration, as far as work depends on it."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    kv_heads: int = 4
    intermediate: int = 2048
    vocab: int = 6144
    samples: int = 64
    seq_len: int = 512

    @property
    def tokens(self) -> int:
        """How many tokens calibrate."""
        return self.samples * self.seq_len

    @property
    def kv_size(self) -> int:
        """Output features of k_proj and v_proj."""
        return self.hidden // self.heads * self.kv_heads

    def stages(self) -> list[tuple[int, int]]:
        """Lists a block's distinct inputs: (in_features, rows of all layers that read it)."""
        return [
            (self.hidden, self.hidden + 2 * self.kv_size),
            (self.hidden, self.hidden),
            (self.hidden, 2 * self.intermediate),
            (self.intermediate, self.hidden),
        ]

    def linear_shapes(self) -> list[tuple[int, int]]:
        """Lists (O, I) of a block's seven linear layers."""
        return [
            (self.hidden, self.hidden),
            (self.kv_size, self.hidden),
            (self.kv_size, self.hidden),
            (self.hidden, self.hidden),
            (self.intermediate, self.hidden),
            (self.intermediate, self.hidden),
            (self.hidden, self.intermediate),
        ]


@dataclass(frozen=True)
class Rates:
    """GFLOP/s of this machine on the model's shapes.

    Attributes:
        linear: (O, I) -> of x W^T with bf16 values, the fastest of bf16 arithmetic, bf16 products
            accumulated and kept in float32, and float32.
        hessian: I -> of X^T X with bf16 values and float32 accumulation, the faster way.
        solve: (rows, I) -> of a float32 product [rows, I] x [I, I] at full precision.
    """

    linear: dict[tuple[int, int], float]
    hessian: dict[int, float]
    solve: dict[tuple[int, int], float]

    def faster(self, other: "Rates") -> "Rates":
        """Returns the higher of two measurements of each rate: a limit is a lower bound."""
        return Rates(
            {key: max(rate, other.linear[key]) for key, rate in self.linear.items()},
            {key: max(rate, other.hessian[key]) for key, rate in self.hessian.items()},
            {key: max(rate, other.solve[key]) for key, rate in self.solve.items()},
        )


@dataclass(frozen=True)
class Limit:
    """Seconds that each kind of work takes at least."""

    linear_s: float
    attention_s: float
    hessian_s: float
    solve_s: float

    @property
    def total_s(self) -> float:
        """The sum: the kinds are done by the same cores."""
        return sum(asdict(self).values())


def compute_limit(shape: ModelShape, rates: Rates) -> Limit:
    """Divides the work by the rates."""
    return Limit(
        linear_s=sum(
            flops / GIGA / rates.linear[layer] for layer, flops in count_linear_flops(shape)
        ),
        attention_s=count_attention_flops(shape) / GIGA / max(rates.linear.values()),
        hessian_s=sum(
            flops / GIGA / rates.hessian[in_features]
            for in_features, flops in count_hessian_flops(shape)
        ),
        solve_s=sum(flops / GIGA / rates.solve[stage] for stage, flops in count_solve_flops(shape)),
    )


def count_linear_flops(shape: ModelShape) -> Iterator[tuple[tuple[int, int], float]]:
    """Yields (O, I) and FLOPs of each linear layer of the model; the last block's last has none."""
    for block in range(shape.layers):
        for position, (out_features, in_features) in enumerate(shape.linear_shapes()):
            if block < shape.layers - 1 or position < len(shape.linear_shapes()) - 1:
                yield (out_features, in_features), 2.0 * shape.tokens * out_features * in_features


def count_attention_flops(shape: ModelShape) -> float:
    """Returns FLOPs of scores and weighted values over the causal half."""
    pairs = shape.seq_len * (shape.seq_len + 1) / 2
    return 2 * 2.0 * shape.hidden * pairs * shape.samples * shape.layers


def count_hessian_flops(shape: ModelShape) -> Iterator[tuple[int, float]]:
    """Yields I and FLOPs of each Hessian's upper half."""
    for _ in range(shape.layers):
        for in_features, _rows in shape.stages():
            yield in_features, float(shape.tokens) * in_features * (in_features + 1)


def count_solve_flops(shape: ModelShape) -> Iterator[tuple[tuple[int, int], float]]:
    """Yields (rows, I) and FLOPs of each stage: Cholesky I^3 / 3, propagation rows x I^2."""
    for _ in range(shape.layers):
        for in_features, rows in shape.stages():
            yield (rows, in_features), in_features**3 / 3 + float(rows) * in_features**2


def measure_rates(shape: ModelShape) -> Rates:
    """Measures this machine on the model's shapes with the present number of threads."""
    stages = set(shape.stages())
    with torch.inference_mode():
        return Rates(
            {layer: _measure_linear(*layer) for layer in sorted(set(shape.linear_shapes()))},
            {size: _measure_hessian(size) for size in sorted({size for size, _ in stages})},
            {(rows, size): _measure_solve(rows, size) for size, rows in sorted(stages)},
        )


def _measure_linear(out_features: int, in_features: int) -> float:
    W_OI = torch.randn(out_features, in_features, dtype=torch.bfloat16)
    best = 0.0
    for tokens in TOKENS_PER_PRODUCT:
        X_NI = torch.randn(tokens, in_features, dtype=torch.bfloat16)
        flops = 2.0 * tokens * out_features * in_features
        best = max(best, _measure_rate(flops, _product(X_NI, W_OI.T)))
        for precision in PRECISIONS:
            with _precision(precision):
                best = max(best, _measure_rate(flops, _product(X_NI.float(), W_OI.T.float())))
    return best


def _measure_hessian(in_features: int) -> float:
    best = 0.0
    for tokens in TOKENS_PER_PRODUCT:
        X_NI = torch.randn(tokens, in_features, dtype=torch.bfloat16).float()
        for precision in PRECISIONS:
            with _precision(precision):
                rate = _measure_rate(2.0 * tokens * in_features**2, _product(X_NI.T, X_NI))
            best = max(best, rate)
    return best


def _measure_solve(rows: int, in_features: int) -> float:
    W_OI, H_II = torch.randn(rows, in_features), torch.randn(in_features, in_features)
    return _measure_rate(2.0 * rows * in_features**2, _product(W_OI, H_II))


def _product(left: Tensor, right: Tensor) -> Callable[[], object]:
    out = left @ right
    return lambda: torch.mm(left, right, out=out)


def _measure_rate(flops: float, run: Callable[[], object]) -> float:
    """Returns the highest GFLOP/s of repeated runs: what slowed the others is no limit."""
    times: list[float] = []
    run()
    end = time.perf_counter() + SECONDS_PER_RATE
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return flops / GIGA / min(times)


@contextmanager
def _precision(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
