"""What each part of GPTQ must do at least, and how fast a device and its disk do such work.

FLOPs are those of gptq_peers_limit.py, with the solve in three: the factorisation, the columns of
a block one after another, and the feeding back of errors between blocks. Bytes are those of the
checkpoint that is read, and of the blocks that the journal writes; how often it writes the data
between blocks too is a choice.

Shapes: N = tokens, I = in_features, O = out_features, R = rows that are solved as one.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from gptq_peers_limit import (
    ModelShape,
    count_attention_flops,
    count_hessian_flops,
    count_linear_flops,
)
from random_llama import LlamaShape

from llmopt.artifacts.files import flush_file
from llmopt.checkpoint.tensor_files import write_tensors
from llmopt.quant.gptq import BLOCK_COLUMNS
from llmopt.quant.precision import bf16_matmul

LINEAR, ATTENTION, HESSIAN = "forward linears", "attention", "Hessian"
FACTORISATION, COLUMNS, FEEDBACK = "factorisation", "column rounding", "error feedback, grids"
LOADING, PACKING, JOURNAL = "loading", "packing", "journal"
ACTIVATIONS, REST = "activations to and from disk", "rest"
PARTS = (
    LINEAR, ATTENTION, HESSIAN, FACTORISATION, COLUMNS, FEEDBACK, LOADING, PACKING, JOURNAL,
    ACTIVATIONS, REST,
)  # fmt: skip
RATE_TOKENS = 4096  # as many as the engine takes through a layer at once
RATE_REPEATS = 10
CHUNK_BYTES = 1 << 24
WRITTEN_BYTES = 1 << 30
BF16_BYTES = 2
GIGA = 1e9


@dataclass(frozen=True)
class Rates:
    """What was measured on the device and the disk.

    Attributes:
        bf16: FLOP/s of a forward product with bf16 values, the best of the model's shapes.
        gram: FLOP/s of X^T X with bf16 values and float32 accumulation, likewise.
        float32: FLOP/s of a float32 product at full precision, likewise.
        read: Bytes/s of reading a file that is not in the page cache.
        write: Bytes/s of writing tensors and flushing them to the disk.
    """

    bf16: float
    gram: float
    float32: float
    read: float
    write: float


@dataclass(frozen=True)
class Work:
    """What a part must do at least.

    Attributes:
        amount: FLOPs or bytes.
        rate: The field of `Rates` that bounds it.
    """

    amount: float
    rate: str

    def limit_s(self, rates: Rates) -> float:
        """Returns the shortest time, on one device."""
        return self.amount / float(getattr(rates, self.rate))


def describe_shape(shape: LlamaShape, samples: int, seq_len: int) -> ModelShape:
    """Returns the shape as gptq_peers_limit.py counts it."""
    return ModelShape(
        hidden=shape.hidden, layers=shape.blocks, heads=shape.heads, kv_heads=shape.kv_heads,
        intermediate=shape.intermediate, vocab=shape.vocab, samples=samples, seq_len=seq_len,
    )  # fmt: skip


def count_work(shape: ModelShape, read_bytes: int, packed_bytes: int) -> dict[str, Work]:
    """Counts what every bounded part must do.

    Args:
        shape: The model and its calibration.
        read_bytes: Size of the checkpoint's weights.
        packed_bytes: Size of all packed layers.
    """
    return {
        LINEAR: Work(sum(flops for _, flops in count_linear_flops(shape)), "bf16"),
        ATTENTION: Work(count_attention_flops(shape), "bf16"),
        HESSIAN: Work(sum(flops for _, flops in count_hessian_flops(shape)), "gram"),
        FACTORISATION: Work(count_factorisation_flops(shape), "float32"),
        COLUMNS: Work(count_column_flops(shape), "float32"),
        FEEDBACK: Work(count_feedback_flops(shape), "float32"),
        LOADING: Work(read_bytes, "read"),
        JOURNAL: Work(packed_bytes, "write"),
    }


def stream_bytes(shape: ModelShape) -> int:
    """Returns the size of the residual stream of all windows."""
    return shape.tokens * shape.hidden * BF16_BYTES


def count_factorisation_flops(shape: ModelShape) -> float:
    """Counts the Cholesky factorisations, I^3 / 3 each."""
    return shape.layers * sum(in_features**3 / 3 for in_features, _ in shape.stages())


def count_column_flops(shape: ModelShape) -> float:
    """Counts the multiply-adds, two FLOPs each, by which columns of a block correct each other."""
    return sum(
        2.0 * shape.layers * rows * width * (width - 1) / 2
        for in_features, rows in shape.stages()
        for width in _block_widths(in_features)
    )


def count_feedback_flops(shape: ModelShape) -> float:
    """Counts the multiply-adds, two FLOPs each, by which columns correct those of later blocks."""
    total = 0.0
    for in_features, rows in shape.stages():
        first = 0
        for width in _block_widths(in_features):
            total += 2.0 * shape.layers * rows * width * first
            first += width
    return total


def _block_widths(in_features: int) -> list[int]:
    starts = range(0, in_features, BLOCK_COLUMNS)
    return [min(BLOCK_COLUMNS, in_features - start) for start in starts]


def measure_rates(shape: ModelShape, device: torch.device, file: Path, scratch: Path) -> Rates:
    """Measures the device on the model's shapes, and the disk.

    Args:
        shape: The model.
        device: Where products are computed.
        file: A file of the checkpoint, to be read.
        scratch: An existing folder on the disk that is written to.
    """
    with torch.inference_mode():
        return Rates(
            bf16=max(_measure_linear(o, i, device) for o, i in set(shape.linear_shapes())),
            gram=max(_measure_gram(i, device) for i in {i for i, _ in shape.stages()}),
            float32=max(_measure_float32(r, i, device) for i, r in set(shape.stages())),
            read=measure_read_rate(file),
            write=measure_write_rate(scratch, min(WRITTEN_BYTES, stream_bytes(shape))),
        )


def _measure_linear(out_features: int, in_features: int, device: torch.device) -> float:
    W_OI = torch.randn(out_features, in_features, device=device).bfloat16()
    X_NI = torch.randn(RATE_TOKENS, in_features, device=device).bfloat16()
    flops = 2.0 * X_NI.numel() * out_features
    return flops / _time_call(lambda: X_NI @ W_OI.T, device)


def _measure_gram(in_features: int, device: torch.device) -> float:
    """Takes the fastest exact way that there is, not that of the engine."""
    X_NI = torch.randn(RATE_TOKENS, in_features, device=device).bfloat16()
    widened_NI = X_NI.float()
    flops = 2.0 * X_NI.numel() * in_features
    with bf16_matmul(device):
        seconds = _time_call(lambda: widened_NI.T @ widened_NI, device)
    if device.type == "cuda":
        mixed = _time_call(lambda: torch.mm(X_NI.T, X_NI, out_dtype=torch.float32), device)
        seconds = min(seconds, mixed)
    return flops / seconds


def _measure_float32(rows: int, in_features: int, device: torch.device) -> float:
    E_IR = torch.randn(in_features, rows, device=device)
    U_BI = torch.randn(BLOCK_COLUMNS, in_features, device=device)
    flops = 2.0 * E_IR.numel() * BLOCK_COLUMNS
    return flops / _time_call(lambda: U_BI @ E_IR, device)


def _time_call(call: Callable[[], object], device: torch.device) -> float:
    call()
    best = float("inf")
    for _ in range(RATE_REPEATS):
        synchronize([device])
        started = time.perf_counter()
        call()
        synchronize([device])
        best = min(best, time.perf_counter() - started)
    return best


def measure_read_rate(file: Path) -> float:
    """Reads a file that is put out of the page cache first; returns bytes/s."""
    forget_pages(file)
    buffer = bytearray(CHUNK_BYTES)
    started = time.perf_counter()
    done = 0
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            done += count
    return done / (time.perf_counter() - started)


def measure_write_rate(folder: Path, num_bytes: int) -> float:
    """Writes and flushes a file of tensors as the journal does; returns bytes/s."""
    path = folder / "write-rate.safetensors"
    tensors = {"written": torch.zeros(num_bytes, dtype=torch.uint8)}
    started = time.perf_counter()
    write_tensors(path, tensors)
    flush_file(path)
    seconds = time.perf_counter() - started
    path.unlink()
    return num_bytes / seconds


def forget_pages(file: Path) -> None:
    """Puts a file out of the page cache, so that it is read from the disk again."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())  # only clean pages can be let go
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def synchronize(devices: list[torch.device]) -> None:
    """Waits for what the devices were told to do."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
