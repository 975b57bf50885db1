"""Shows that memory does not grow with the model: a random Llama of more than 4 GB, quantised.

    python benchmarks/memory.py [--blocks 46] [--limit-gb 2.5] [--keep-model DIR] [--write]
        [--only gptq|nf4|scaling]

Makes a random bf16 Llama (hidden 2048, intermediate 5632, 32 heads of 64, 4 key-value heads, vocab
6144 of the tiny model's tokenizer), sharded, without ever holding it in memory. Quantises it with
GPTQ (16 x 512 tokens) and with NF4, each freely and in a memory cgroup, and watches the process:
its peak resident memory, and for GPTQ the peak of every block. Fails where the peak exceeds 1.5 GB
+ activations, where it grows by 1 MB per block or more from the third block on, or where the run
in the cgroup does not end well. `scaling` repeats GPTQ with fewer blocks and with other numbers of
tokens. `--write` puts the tables into docs/benchmarks.md. Needs 8 GB of disk, and root for the
cgroup.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from measured_process import MeasuredProcess
from random_llama import LlamaShape, make_model
from results_page import PAGE, format_table, write_between_markers

REPOSITORY = Path(__file__).parent.parent
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCAB = 2048, 5632, 32, 4, 6144
SAMPLES, SEQ_LEN = 16, 512
ALLOWED_BYTES = 1_500_000_000  # beside the activations
ALLOWED_GROWTH_BYTES = 1_000_000  # per block
FIRST_WATCHED_BLOCK = 3
SAMPLING_S = 0.02
CGROUP_ROOTS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))


@dataclass(frozen=True)
class Watched:
    """What was seen of one process.

    Attributes:
        wall_s: From its start to its end.
        peak_bytes: Peak resident memory.
        block_peaks: Peak resident bytes between one finished block and the next.
    """

    wall_s: float
    peak_bytes: int
    block_peaks: list[int]

    def growth_bytes(self) -> float:
        """Returns the slope of the blocks' peaks from the third on, by least squares."""
        peaks = self.block_peaks[FIRST_WATCHED_BLOCK - 1 :]
        return statistics.linear_regression(range(len(peaks)), peaks).slope


def shape_of(num_blocks: int) -> LlamaShape:
    """Returns the model's sizes."""
    return LlamaShape(HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCAB, num_blocks)


def activation_bytes(samples: int) -> int:
    """Returns what the calibration data takes between a block's stages, in bf16."""
    return samples * SEQ_LEN * (2 * HIDDEN + INTERMEDIATE) * 2


class MemoryCgroup:
    """A control group with a limit of memory, of version 1 or 2, removed at the end."""

    def __init__(self, limit_bytes: int) -> None:
        root = next((root for root in CGROUP_ROOTS if (root / "cgroup.procs").exists()), None)
        if root is None or not os.access(root, os.W_OK):
            raise SystemExit("no memory cgroup can be made here: it takes root and cgroup v1 or v2")
        self._folder = root / f"llmopt-memory-{os.getpid()}"
        self._folder.mkdir()
        names = ("memory.limit_in_bytes", "memory.max")
        limit = next(self._folder / name for name in names if (self._folder / name).exists())
        limit.write_text(str(limit_bytes))
        swap = self._folder / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")

    def wrap(self, command: list[str]) -> list[str]:
        """Returns the command that enters the group and becomes `command`."""
        enter = 'echo $$ > "$0" && exec "$@"'
        return ["sh", "-c", enter, str(self._folder / "cgroup.procs"), *command]

    def remove(self) -> None:
        """Removes the group, which must be empty."""
        self._folder.rmdir()


def watch(command: list[str], unfinished: Path, limit_bytes: int | None) -> Watched:
    """Runs a command, freely or within a limit, and watches its memory block by block.

    Raises:
        RuntimeError: It failed; the end of its log is shown.
    """
    group = None if limit_bytes is None else MemoryCgroup(limit_bytes)
    peaks, done, peak = [], 0, 0
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "stderr"
        entering = command if group is None else group.wrap(command)
        try:
            with MeasuredProcess(entering, Path(os.devnull), log) as process:
                for resident, blocks in sample(process.pid, unfinished):
                    if blocks > done:
                        peaks, done, peak = [*peaks, peak], blocks, 0
                    peak = max(peak, resident)
                took = process.wait()
        finally:
            if group is not None:
                group.remove()
    return Watched(took.wall_s, took.peak_bytes, peaks)


def sample(pid: int, unfinished: Path) -> Iterator[tuple[int, int]]:
    """Yields resident bytes and finished blocks until the process has ended."""
    with suppress(psutil.NoSuchProcess):
        watched = psutil.Process(pid)
        while watched.status() != psutil.STATUS_ZOMBIE:
            yield watched.memory_info().rss, count_blocks(unfinished)
            time.sleep(SAMPLING_S)


def count_blocks(unfinished: Path) -> int:
    """Returns how many blocks the unfinished work holds."""
    return sum(1 for _ in unfinished.rglob("block-*.safetensors"))


def quantize(
    model: Path, arguments: list[str], limit_bytes: int | None = None, samples: int = SAMPLES
) -> Watched:
    """Quantises by llmopt into a store that is thrown away."""
    with tempfile.TemporaryDirectory(dir=model.parent) as name:
        folder = Path(name)
        command = [sys.executable, "-m", "llmopt", "quantize", *arguments, str(model), "--quiet"]
        command += ["-o", str(folder / "out"), "--store", str(folder / "store")]
        if arguments[0] == "gptq":
            command += ["--samples", str(samples), "--seq-len", str(SEQ_LEN)]
        return watch(command, folder / "out" / ".llmopt-partial", limit_bytes)


def measure_method(model: Path, method: str, limit_bytes: int) -> Iterator[list[str]]:
    """Yields a row for the free run and one for the limited run.

    Raises:
        SystemExit: The peak, its growth, or the limited run fails the aim.
    """
    arguments = {"gptq": ["gptq"], "nf4": ["nf4"]}[method]
    allowed = ALLOWED_BYTES + (activation_bytes(SAMPLES) if method == "gptq" else 0)
    for limit in (None, limit_bytes):
        seen = quantize(model, arguments, limit)
        growth = "" if len(seen.block_peaks) < 2 + FIRST_WATCHED_BLOCK else seen.growth_bytes()
        print(f"{method}, limit {limit}: {seen}", file=sys.stderr, flush=True)
        yield [
            method,
            "none" if limit is None else f"{limit / 1e9:.1f} GB",
            f"{seen.wall_s:.0f} s",
            f"{seen.peak_bytes / 1e9:.2f} GB",
            f"{allowed / 1e9:.2f} GB",
            growth if isinstance(growth, str) else f"{growth / 1e6:+.3f} MB",
        ]
        if seen.peak_bytes > allowed:
            raise SystemExit(f"{method}: peak {seen.peak_bytes / 1e9:.2f} GB")
        if not isinstance(growth, str) and growth >= ALLOWED_GROWTH_BYTES:
            raise SystemExit(f"{method}: the peak grows by {growth / 1e6:.2f} MB per block")


def measure_scaling(folder: Path) -> Iterator[list[str]]:
    """Yields the time of GPTQ over blocks and over tokens, each against its first row."""
    walls: dict[tuple[int, int], float] = {}
    for blocks in (4, 8, 16):
        model = folder / f"blocks-{blocks}"
        make_model(model, shape_of(blocks))
        for samples in (16, 32, 64) if blocks == 8 else (16,):
            walls[blocks, samples] = quantize(model, ["gptq"], samples=samples).wall_s
        shutil.rmtree(model)
    for (blocks, samples), wall in walls.items():
        yield [str(blocks), f"{samples} x {SEQ_LEN}", f"{wall:.1f} s"]


def main() -> None:
    """Measures what was asked for, prints the tables and perhaps writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=46)
    parser.add_argument("--limit-gb", type=float, default=2.5)
    parser.add_argument("--folder", type=Path, help="where to work; default a temporary folder")
    parser.add_argument("--only", choices=["gptq", "nf4", "scaling"])
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    parts = ["gptq", "nf4", "scaling"] if given.only is None else [given.only]
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        texts = []
        methods = [part for part in parts if part != "scaling"]
        if methods:
            total = make_model(folder / "model", shape_of(given.blocks))
            texts.append(f"{given.blocks} blocks, {total / 1e9:.2f} GB of weights.")
            limit = int(given.limit_gb * 1e9)
            rows = [r for m in methods for r in measure_method(folder / "model", m, limit)]
            header = ["method", "cgroup limit", "wall", "peak RSS", "allowed", "growth per block"]
            texts.append(format_table(header, rows))
            shutil.rmtree(folder / "model")
        if "scaling" in parts:
            rows = list(measure_scaling(folder))
            texts.append(format_table(["blocks", "tokens", "GPTQ, wall"], rows))
    text = "\n\n".join(texts)
    print(text)
    if given.write:
        write_between_markers(PAGE, "memory", text)


if __name__ == "__main__":
    main()
