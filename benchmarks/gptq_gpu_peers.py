"""Holds llmopt's GPTQ against llm-compressor's on one GPU: whole processes, on the same ids.

    python benchmarks/gptq_gpu_peers.py [--blocks 4] [--samples 128] [--seq-len 2048] [--rounds 2]
        [--peer-python .venvs/llmcompressor/bin/python] [--batch-size 8] [--folder DIR] [--write]

Makes a random model in the shapes of Llama-3.1-8B, of so many blocks, and lets both tools quantise
it in turn on the same random ids: 4 bits, groups of 128, symmetric, all else at its default but for
llm-compressor's `batch_size` (its default of 1 is slower). Wall times run from a process's start
to the finished checkpoint; the peer's environment needs a CUDA build of torch. With
`--ours MODEL IDS OUT` it is the process in which llmopt works. Nothing is said of quality: a random
model has none to lose (gptq_peers.py measures that on a trained one).
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from gptq_gpu import LLAMA_8B, STEP, TINY, quantize_windows
from measured_process import MeasuredProcess, Usage
from random_llama import LlamaShape, make_model
from results_page import PAGE, format_table, write_between_markers

from llmopt import __version__
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.checkpoint_writer import write_quantized_checkpoint
from llmopt.checkpoint.gptq_config import build_gptq_config
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.steps.device import describe_device

REPOSITORY = Path(__file__).parent.parent
GB = 1e9


@dataclass(frozen=True)
class Result:
    """One process.

    Attributes:
        usage: What it took.
        tool: Its name and version.
        gpu_bytes: Peak of the GPU memory that its torch held.
    """

    usage: Usage
    tool: str
    gpu_bytes: int


def quantize_here(model: Path, ids: Path, output: Path) -> None:
    """Quantises and writes a checkpoint; prints what a peer's script does."""
    ids_NT = np.load(ids)
    windows = CalibrationWindows(ids_NT, np.full(len(ids_NT), ids_NT.shape[1], dtype=np.int64))
    checkpoint = Checkpoint.open(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    journal = quantize_windows(
        checkpoint, windows, output.with_suffix(".scratch"), [device], STEP.activation_memory_gb
    )
    config = build_gptq_config(
        STEP.plan(checkpoint.config), damp_percent=STEP.damp_percent, quantizer="llmopt"
    )
    output.mkdir()
    write_quantized_checkpoint(checkpoint, journal.packed_tensors(), config, output)
    peak = torch.cuda.max_memory_reserved() if device.type == "cuda" else 0
    print(json.dumps({"tool": f"llmopt {__version__}", "gpu_peak_bytes": peak}))


def run(command: list[str | Path], folder: Path) -> Result:
    """Runs a tool's process to its end in a folder of its own."""
    folder.mkdir()
    out = folder / "stdout"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.setdefault("CUDA_VISIBLE_DEVICES", "0")  # the peer's script would see none
    with MeasuredProcess(command, out, folder / "stderr", cwd=folder, env=environment) as process:
        usage = process.wait()
    said = json.loads(out.read_text(encoding="utf-8").splitlines()[-1])
    if torch.cuda.is_available() and not said["gpu_peak_bytes"]:
        raise SystemExit(f"{said['tool']} ran on the CPU: its torch sees no GPU")
    return Result(usage, said["tool"], said["gpu_peak_bytes"])


def measure(options: argparse.Namespace, shape: LlamaShape, work: Path) -> list[list[Result]]:
    """Returns each tool's rounds, ours first."""
    model, ids = work / "model", work / "ids.npy"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    make_model(model, shape, blocks_per_shard=1, device=device)
    size = (options.samples, options.seq_len)
    np.save(ids, np.random.default_rng(0).integers(0, shape.vocab, size, dtype=np.int64))
    here = [sys.executable, Path(__file__).resolve(), "--ours", model, ids]
    peer_script = REPOSITORY / "benchmarks" / "llmcompressor_quantize.py"
    peer: list[str | Path] = [options.peer_python.absolute(), peer_script, model, ids]
    results: list[list[Result]] = [[], []]
    for turn in range(options.rounds):
        for tool, command in enumerate((here, peer)):
            folder = work / f"{tool}-{turn}"
            size_option = ["--batch-size", str(options.batch_size)] if tool else []
            results[tool].append(run([*command, folder / "out", *size_option], folder))
            print(results[tool][-1], file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    return results


def describe(options: argparse.Namespace, shape: LlamaShape, results: list[list[Result]]) -> str:
    """Returns what goes on the page."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    walls = [statistics.median(each.usage.wall_s for each in tool) for tool in results]
    rows = [
        [
            tool[0].tool, f"{wall:.1f} s", f"{wall / walls[0]:.2f}",
            f"{max(each.gpu_bytes for each in tool) / GB:.2f} GB",
            f"{max(each.usage.peak_bytes for each in tool) / GB:.2f} GB",
        ]
        for tool, wall in zip(results, walls, strict=True)
    ]  # fmt: skip
    header = ["tool", "wall", "wall / llmopt's", "GPU, reserved", "peak RSS"]
    setting = (
        f"{describe_device(device)['name']}, torch {torch.__version__}; {shape.blocks} blocks of "
        f"hidden size {shape.hidden}, {options.samples} x {options.seq_len} tokens, medians of "
        f"{options.rounds}; llm-compressor with batch_size {options.batch_size}."
    )
    return f"{setting}\n\n{format_table(header, rows)}"


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    python = REPOSITORY / ".venvs" / "llmcompressor" / "bin" / "python"
    parser.add_argument("--peer-python", type=Path, default=python)
    parser.add_argument("--folder", type=Path, help="where to work; default a temporary folder")
    parser.add_argument("--tiny", action="store_true", help="tries the script out")
    parser.add_argument("--ours", type=Path, nargs=3, metavar=("MODEL", "IDS", "OUT"))
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measures, prints and perhaps writes."""
    options = parse_arguments()
    if options.ours:
        quantize_here(*options.ours)
        return
    shape = replace(TINY if options.tiny else LLAMA_8B, blocks=options.blocks)
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        text = describe(options, shape, measure(options, shape, Path(work)))
    print(text)
    if options.write:
        write_between_markers(PAGE, "gpu_peers", text)


if __name__ == "__main__":
    main()
