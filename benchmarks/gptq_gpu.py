"""Holds GPTQ on a GPU against the limits of its arithmetic and of the disk, part by part.

    python benchmarks/gptq_gpu.py [--device cuda|cuda:0,cuda:1|cpu] [--blocks 32] [--samples 128]
        [--seq-len 2048] [--activation-memory-gb 5] [--folder DIR] [--plain-solve] [--tiny]
        [--write]

Makes random bf16 weights in the shapes of Llama-3.1-8B and random token ids, and quantises them in
this process: 4 bits, groups of 128, symmetric, all else as `llmopt quantize gptq` has it. The
checkpoint is put out of the page cache before each run, since it was just written. A first, small
run warms up what is compiled and allocated once. The second is left alone and gives the wall time
and the peaks of memory; in the third the engine's functions are wrapped and the device waited for
around each, which costs time (and lets several GPUs work one after another), but tells the parts
apart. Limits are FLOPs and bytes over rates that were measured just before on the same device and
disk. `--plain-solve` runs once more without the Triton kernel, and compares the integers of both on
one layer. `--write` puts the result into docs/benchmarks.md. The full size needs about 30 GB of
disk.
"""

import argparse
import shutil
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from gptq_gpu_limit import (
    count_work,
    describe_shape,
    forget_pages,
    measure_rates,
    synchronize,
)
from gptq_gpu_parts import PartClock, plain_solve, time_parts
from gptq_gpu_report import (
    Measured,
    Setting,
    describe_rates,
    describe_setting,
    format_parts,
    format_runs,
)
from random_llama import LlamaShape, make_model
from results_page import PAGE, write_between_markers
from torch import Tensor

from llmopt.artifacts.progress import SilentProgress
from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.quant import gptq
from llmopt.quant.block_solve import choose_rounder, round_block
from llmopt.quant.journal import Journal
from llmopt.quant.quantize_checkpoint import QuantizeJob, quantize_blocks
from llmopt.quant.solution import Solution
from llmopt.steps.device import describe_device
from llmopt.steps.quantize_gptq import QuantizeGptq
from llmopt.steps.quantize_run import BYTES_PER_GB, GPU_COMMIT_INTERVAL_S, torch_dtype

STEP = QuantizeGptq(uses="quantize.gptq", model="random", data="random")
LLAMA_8B = LlamaShape(4096, 14336, 32, 8, 128256, 32, ties_embeddings=False)
TINY = LlamaShape(256, 512, 4, 2, 512, 2, ties_embeddings=False)
WARM_UP = (2, 64)  # windows x tokens
MIN_EQUAL = 0.99  # of the integers of two ways of solving: sums in another order move ties
PEAK_LINE = "VmHWM:"


def choose_devices(names: str) -> list[torch.device]:
    """Returns the devices of `cuda:0,cuda:1` or the like.

    Raises:
        SystemExit: A GPU is asked for and torch sees none.
    """
    devices = [torch.device(name) for name in names.split(",")]
    if any(device.type == "cuda" for device in devices) and not torch.cuda.is_available():
        raise SystemExit(
            f"--device {names}: torch {torch.__version__} sees no GPU; try --device cpu"
        )
    return devices


def draw_windows(setting: Setting) -> CalibrationWindows:
    """Draws ids [N, T], each token of the vocabulary equally likely."""
    shape = (setting.samples, setting.seq_len)
    ids_NT = np.random.default_rng(0).integers(0, setting.shape.vocab, shape, dtype=np.int64)
    return CalibrationWindows(ids_NT, np.full(setting.samples, setting.seq_len, dtype=np.int64))


def solve(W_RI: Tensor, H_II: Tensor | None, scheme: QuantScheme) -> Solution:
    """Solves with the step's default options for a bf16 model."""
    assert H_II is not None
    options = gptq.GptqOptions(
        scheme=scheme,
        act_group_aware=STEP.act_group_aware,
        damp_percent=STEP.damp_percent,
        max_damp_percent=STEP.max_damp_percent,
        scale_dtype=torch.bfloat16,
        scale_search=STEP.scale_search,
    )
    return gptq.solve_gptq(W_RI, H_II, options)  # looked up now: it may be wrapped


def quantize(setting: Setting, model: Path, scratch: Path) -> Journal:
    """Quantises a model on random ids as the step does, in this process."""
    checkpoint, memory_gb = Checkpoint.open(model), setting.activation_memory_gb
    return quantize_windows(checkpoint, draw_windows(setting), scratch, setting.devices, memory_gb)


def quantize_windows(
    checkpoint: Checkpoint,
    windows: CalibrationWindows,
    scratch: Path,
    devices: list[torch.device],
    activation_memory_gb: float,
) -> Journal:
    """Quantises a bf16 checkpoint as the step does, in this process."""
    assert torch_dtype(checkpoint) == torch.bfloat16
    device, *others = devices
    return quantize_blocks(
        QuantizeJob(
            checkpoint=checkpoint,
            plan=STEP.plan(checkpoint.config),
            solve=solve,
            format=STEP.format,
            windows=windows,
            scratch=scratch,
            device=device,
            processor=describe_device(device)["name"],
            activation_budget_bytes=int(activation_memory_gb * BYTES_PER_GB),
            progress=SilentProgress(),
            more_devices=tuple(others),
            reads_ahead=device.type == "cuda",
            recomputes=device.type == "cuda",
            commit_interval_s=GPU_COMMIT_INTERVAL_S if device.type == "cuda" else 0.0,
        )
    )


def measure(
    setting: Setting, model: Path, around: AbstractContextManager[None] | None = None
) -> Measured:
    """Runs once, inside `around`, with a checkpoint that is not in the page cache."""
    gpus = [device for device in setting.devices if device.type == "cuda"]
    for file in model.glob("*.safetensors"):
        forget_pages(file)
    for gpu in gpus:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(gpu)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        started = time.perf_counter()
        with around or nullcontext():
            journal = quantize(setting, model, Path(scratch))
            synchronize(setting.devices)
        wall_s = time.perf_counter() - started
        packed_bytes = sum(entry.num_bytes for entry in journal.packed_tensors().values())
    return Measured(
        wall_s,
        read_peak_rss(),
        [torch.cuda.max_memory_allocated(gpu) for gpu in gpus],
        [torch.cuda.max_memory_reserved(gpu) for gpu in gpus],
        packed_bytes,
    )


def read_peak_rss() -> int:
    """Returns the peak of this process's resident bytes since it was set back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(PEAK_LINE))


def compare_solves(shape: LlamaShape, device: torch.device) -> float:
    """Returns the share of one layer's integers that the device's rounder and the plain one share.

    Raises:
        SystemExit: They differ by more than ties do.
    """
    generator = torch.Generator().manual_seed(0)
    size = shape.hidden
    W_RI = torch.randn(size, size, generator=generator).mul_(0.02).to(device)
    X_NI = torch.randn(4 * size, size, generator=generator)
    X_NI = X_NI.mul_(torch.randn(size, generator=generator).exp()).to(device)
    H_II = X_NI.T @ X_NI / len(X_NI)
    with torch.inference_mode():
        chosen = solve(W_RI, H_II, STEP.scheme).weight
        with plain_solve():
            plain = solve(W_RI, H_II, STEP.scheme).weight
    equal = float((chosen.q_IO == plain.q_IO).double().mean())
    if equal < MIN_EQUAL:
        raise SystemExit(f"only {equal:.4%} of the integers are those of the plain solve")
    return equal


def run_all(setting: Setting, folder: Path, *, with_plain: bool) -> str:
    """Makes the model, measures everything; returns what goes on the page."""
    model, first = folder / "model", setting.devices[0]
    weight_bytes = make_model(model, setting.shape, blocks_per_shard=1, device=str(first))
    file = max(model.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    shape = describe_shape(setting.shape, setting.samples, setting.seq_len)
    rates = measure_rates(shape, first, file, folder)
    warm_up(setting, folder)
    runs = {"as it is": measure(setting, model)}
    clock = PartClock(setting.devices)
    measure(setting, model, time_parts(clock))
    work = count_work(shape, weight_bytes, runs["as it is"].packed_bytes)
    texts = [
        describe_setting(setting, weight_bytes),
        describe_rates(rates),
        format_parts(clock.seconds, work, rates),
    ]
    if with_plain:
        with plain_solve():
            runs["without the Triton kernel"] = measure(setting, model)
        equal = compare_solves(setting.shape, first)
        kernel = "no Triton here: plain" if choose_rounder(first) is round_block else "Triton"
        texts.append(f"Integers of one layer shared by kernel ({kernel}) and plain: {equal:.5%}.")
    texts.insert(2, format_runs(runs))
    shutil.rmtree(model)
    return "\n\n".join(texts)


def warm_up(setting: Setting, folder: Path) -> None:
    """Quantises one block with few tokens: libraries load, kernels are compiled."""
    small = replace(setting.shape, blocks=1)
    make_model(folder / "warm-up", small, device=str(setting.devices[0]))
    samples, seq_len = WARM_UP
    samples = max(samples, len(setting.devices))
    measure(replace(setting, shape=small, samples=samples, seq_len=seq_len), folder / "warm-up")
    shutil.rmtree(folder / "warm-up")


def main() -> None:
    """Measures, prints and perhaps writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--seq-len", type=int)
    parser.add_argument("--activation-memory-gb", type=float, default=STEP.activation_memory_gb)
    parser.add_argument("--folder", type=Path, help="where to work; default a temporary folder")
    parser.add_argument("--plain-solve", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="tries the script out in seconds")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    shape = TINY if given.tiny else LLAMA_8B
    setting = Setting(
        shape=replace(shape, blocks=given.blocks or shape.blocks),
        samples=given.samples or (4 if given.tiny else 128),
        seq_len=given.seq_len or (64 if given.tiny else 2048),
        devices=choose_devices(given.device),
        activation_memory_gb=given.activation_memory_gb,
    )
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        text = run_all(setting, Path(folder), with_plain=given.plain_solve)
    print(text)
    if given.write:
        write_between_markers(PAGE, "gpu", text)


if __name__ == "__main__":
    main()
