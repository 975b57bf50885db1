"""What gptq_gpu.py was asked and what it saw, as tables in Markdown."""

from dataclasses import dataclass

import torch
from gptq_gpu_limit import PARTS, Rates, Work
from random_llama import LlamaShape
from results_page import format_table

from llmopt.steps.device import describe_device

GB = 1e9


@dataclass(frozen=True)
class Setting:
    """What is run.

    Attributes:
        shape: The model.
        samples: Calibration windows.
        seq_len: Tokens of each.
        devices: Where; the first one solves.
        activation_memory_gb: Activations beyond this go to disk.
    """

    shape: LlamaShape
    samples: int
    seq_len: int
    devices: list[torch.device]
    activation_memory_gb: float


@dataclass(frozen=True)
class Measured:
    """What one run took.

    Attributes:
        wall_s: From the opened checkpoint to the last block's journal entry.
        peak_rss_bytes: Peak resident memory of the process meanwhile.
        allocated_bytes: Peak of the memory that tensors took, per GPU.
        reserved_bytes: Peak of the memory that torch held, per GPU.
        packed_bytes: Size of the packed layers.
    """

    wall_s: float
    peak_rss_bytes: int
    allocated_bytes: list[int]
    reserved_bytes: list[int]
    packed_bytes: int


def format_parts(seconds: dict[str, float], work: dict[str, Work], rates: Rates) -> str:
    """Returns the table of parts: time, share, limit, and how many times the limit that is."""
    total, total_limit = sum(seconds.values()), 0.0
    rows = []
    for part in PARTS:
        took, limit, ratio = seconds.get(part, 0.0), "", ""
        if part in work:
            limit_s = work[part].limit_s(rates)
            total_limit += limit_s
            limit, ratio = f"{limit_s:.3f} s", f"{took / limit_s:.2f}"
        rows.append([part, f"{took:.3f} s", f"{took / total:.1%}", limit, ratio])
    ratio = f"{total / total_limit:.2f}"
    rows.append(["all", f"{total:.3f} s", "100.0%", f"{total_limit:.3f} s", ratio])
    return format_table(["part", "time", "share", "limit", "time / limit"], rows)


def format_runs(runs: dict[str, Measured]) -> str:
    """Returns the table of the runs that were left alone."""

    def list_gb(sizes: list[int]) -> str:
        return ", ".join(f"{size / GB:.2f} GB" for size in sizes) or "none"

    rows = [
        [
            name, f"{run.wall_s:.2f} s", list_gb(run.allocated_bytes),
            list_gb(run.reserved_bytes), f"{run.peak_rss_bytes / GB:.2f} GB",
        ]
        for name, run in runs.items()
    ]  # fmt: skip
    return format_table(["run", "wall", "GPU, allocated", "GPU, reserved", "peak RSS"], rows)


def describe_rates(rates: Rates) -> str:
    """Says what was measured of the device and the disk."""
    return (
        f"Measured: bf16 {rates.bf16 / 1e12:.2f} TFLOP/s, X^T X of bf16 values into float32 "
        f"{rates.gram / 1e12:.2f}, float32 {rates.float32 / 1e12:.2f}; the disk reads "
        f"{rates.read / GB:.2f} GB/s and writes {rates.write / GB:.2f} GB/s, flushed."
    )


def describe_setting(setting: Setting, weight_bytes: int) -> str:
    """Says what was run, and on what."""
    names = ", ".join(describe_device(device)["name"] for device in setting.devices)
    return (
        f"{names}, torch {torch.__version__}; {setting.shape.blocks} blocks of hidden size "
        f"{setting.shape.hidden}, {weight_bytes / GB:.2f} GB of bf16 weights, {setting.samples} x "
        f"{setting.seq_len} tokens, {setting.activation_memory_gb:g} GB for activations."
    )
