"""Holds llmopt's ONNX export against optimum-onnx and onnxruntime-genai's builder.

    python benchmarks/onnx_peers.py [--blocks 10] [--tools llmopt optimum-onnx onnxruntime-genai]
        [--engine] [--folder DIR] [--tiny] [--write]

Makes a random bf16 Llama (hidden 2048, intermediate 5632, 32 heads, 4 key-value heads, vocab 32000)
whose float32 export is larger than 2 GB, and exports it with each tool to float32 with a key-value
cache, each in an environment of its own (made here by environments/TOOL.sh). Takes each process's
time and peak memory, the size of what it wrote, and the largest error of its logits against PyTorch
(each row alone, in float32), for rows of equal length and for rows padded on the left. llmopt's
time includes its own check against PyTorch; the export alone is shown too. `--engine` also builds a
TensorRT-RTX engine of llmopt's export. Needs 12 GB of memory and 20 GB of disk.
"""

import argparse
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from measured_process import MeasuredProcess, Usage
from random_llama import LlamaShape, make_model
from results_page import PAGE, format_table, write_between_markers

from llmopt.artifacts.manifest import read_manifest
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.export.parity import read_reference_logits
from llmopt.export.session import Array, pad_left

REPOSITORY = Path(__file__).parent.parent
OURS, OPTIMUM, GENAI = "llmopt", "optimum-onnx", "onnxruntime-genai"
TOOLS = (OURS, OPTIMUM, GENAI)
ENGINE_PROFILES = (
    "prefill:batch=1:1:4,sequence=1:128:512,past_sequence=0",
    "decode:batch=1:1:4,sequence=1,past_sequence=1:128:511",
)
EQUAL_ROWS, PADDED_ROWS = (24, 24), (24, 9)
VOCAB = 32000
HEAD_DIM = 64  # of both shapes
GB = 1e9
RIGHT = 1e-3  # of the largest logit: an order of magnitude above float32's own error


@dataclass(frozen=True)
class Export:
    """What one tool did.

    Attributes:
        tool: Its name and version.
        usage: What its process took; None where it failed.
        detail: What is worth saying beside the figures: a part of the time, or the failure.
        num_bytes: Of the graph and its weights.
        equal_error: Of logits of rows of equal length, over the largest logit.
        padded_error: Of rows padded on the left.
    """

    tool: str
    usage: Usage | None
    detail: str
    num_bytes: int = 0
    equal_error: float = float("nan")
    padded_error: float = float("nan")


def shape_of(blocks: int, *, tiny: bool) -> LlamaShape:
    """Returns the model's sizes."""
    if tiny:
        return LlamaShape(256, 384, 4, 2, 320, blocks, ties_embeddings=False)
    return LlamaShape(2048, 5632, 32, 4, VOCAB, blocks, ties_embeddings=False)


def find_python(tool: str) -> Path:
    """Returns the interpreter in which a tool lives."""
    if tool == OURS:
        return Path(sys.executable)
    return REPOSITORY / ".venvs" / tool / "bin" / "python"


def list_command(tool: str, model: Path, output: Path) -> list[str | Path]:
    """Returns the command by which a tool exports to float32 with a cache."""
    python = find_python(tool)
    if tool == OURS:
        store = output.with_suffix(".store")
        options = ["--dtype", "float32", "--quiet", "--store", str(store)]
        return [python, "-m", "llmopt", "export-onnx", model, "-o", output, *options]
    if tool == OPTIMUM:
        script = [python, "-m", "optimum.commands.optimum_cli", "export", "onnx"]
        return [*script, "--model", model, "--task", "text-generation-with-past", output]
    cache = output.with_suffix(".cache")
    builder = [python, "-m", "onnxruntime_genai.models.builder", "-i", model, "-o", output]
    return [*builder, "-p", "fp32", "-e", "cpu", "-c", cache]


def run_measured(command: Sequence[str | Path], folder: Path) -> Usage:
    """Runs one process to its end.

    Raises:
        RuntimeError: It failed; the end of its log is shown.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if command[0] == Path(sys.executable):
        environment["PYTHONPATH"] = str(REPOSITORY)
    folder.mkdir(exist_ok=True)
    out, log = folder / "stdout", folder / "stderr"
    with MeasuredProcess(list(command), out, log, cwd=folder, env=environment) as process:
        return process.wait()


def find_version(tool: str) -> str:
    """Returns a tool's name and version."""
    package = tool if tool != OURS else "llmopt"
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run(
        [find_python(tool), "-c", code], check=True, capture_output=True, text=True
    )
    return f"{tool} {done.stdout.strip()}"


def export(tool: str, model: Path, references: dict[str, list[Array]], work: Path) -> Export:
    """Exports by one tool and judges what came out."""
    output = work / tool / "out"
    version = find_version(tool)
    try:
        usage = run_measured(list_command(tool, model, output), work / tool)
    except RuntimeError as error:
        return Export(version, None, f"failed: {str(error).splitlines()[-1][:120]}")
    detail = ""
    if tool == OURS:
        timings = read_manifest(output).timings
        detail = f"export {timings['export_s']:.1f} s, check {timings['verify_s']:.1f} s"
    size = sum(path.stat().st_size for path in output.glob("model.onnx*"))
    errors = {name: measure_error(output, rows, references[name]) for name, rows in ROWS.items()}
    return Export(version, usage, detail, size, errors["equal"], errors["padded"])


def draw_rows(lengths: Sequence[int], vocab: int) -> list[list[int]]:
    """Draws rows of random tokens."""
    generator = np.random.default_rng(7)
    return [generator.integers(3, vocab, length).tolist() for length in lengths]


ROWS: dict[str, list[list[int]]] = {}


def measure_error(folder: Path, rows: list[list[int]], references: list[Array]) -> float:
    """Returns the largest error of any real position's logits, over the largest logit.

    NaN where onnxruntime does not load or run the model; the reason goes to standard error.
    """
    ids_BT, mask_BT = pad_left(rows)
    try:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        path = str(folder / "model.onnx")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feeds = dict(make_feeds(session, ids_BT, mask_BT))
        logits_BTV = np.asarray(session.run(["logits"], feeds)[0], np.float32)
    except Exception as error:  # noqa: BLE001 - whatever a peer's graph does is its result
        print(f"{folder}: {error}", file=sys.stderr)
        return float("nan")
    del session
    gc.collect()
    pairs = [(logits_BTV[i, -len(row) :], references[i]) for i, row in enumerate(rows)]
    largest = max(float(np.abs(reference).max()) for _, reference in pairs)
    return max(float(np.abs(ours - reference).max()) for ours, reference in pairs) / largest


def make_feeds(
    session: ort.InferenceSession, ids_BT: Array, mask_BT: Array
) -> Iterator[tuple[str, Array]]:
    """Yields what a decoder reads with an empty cache, by the names that it has."""
    known = {
        "input_ids": ids_BT,
        "attention_mask": mask_BT,
        "position_ids": np.maximum(mask_BT.cumsum(1) - 1, 0),
    }
    for given in session.get_inputs():
        if given.name in known:
            yield given.name, known[given.name]
        else:  # a cache: [batch, heads, past, head_dim]
            _, heads, _, size = given.shape
            size = size if isinstance(size, int) else HEAD_DIM  # one tool leaves it open
            yield given.name, np.zeros((len(ids_BT), heads, 0, size), np.float32)


def compute_references(model: Path, vocab: int) -> dict[str, list[Array]]:
    """Returns PyTorch's logits of every row, each alone, in float32."""
    ROWS.update(equal=draw_rows(EQUAL_ROWS, vocab), padded=draw_rows(PADDED_ROWS, vocab))
    streamed = StreamedModel(Checkpoint.open(model), torch.device("cpu"), torch.float32)
    references = {
        name: [logits.numpy() for logits in read_reference_logits(streamed, rows)]
        for name, rows in ROWS.items()
    }
    streamed.close()
    return references


def build_engine(folder: Path, work: Path) -> str:
    """Builds an engine of an export; returns a sentence of its figures."""
    output = work / "engine"
    command: list[str | Path] = [Path(sys.executable), "-m", "llmopt", "build-trt", folder]
    command += ["-o", output, "--quiet", "--store", work / "engine.store"]
    for profile in ENGINE_PROFILES:
        command += ["--profile", profile]
    usage = run_measured(command, work / "engine-run")
    size = (output / "model.engine").stat().st_size
    return (
        f"TensorRT-RTX engine of llmopt's export, two profiles: {usage.wall_s:.0f} s, peak RSS "
        f"{usage.peak_bytes / GB:.1f} GB, {size / GB:.2f} GB. Built, not run: no GPU."
    )


def describe(exports: Sequence[Export]) -> str:
    """Returns the table."""
    header = [
        "tool", "wall", "peak RSS", "size", "RSS / size", "error, equal rows", "error, left-padded",
        "",
    ]  # fmt: skip
    rows = []
    for each in exports:
        if each.usage is None:
            rows.append([each.tool, *[""] * 6, each.detail])
            continue
        rows.append(
            [
                each.tool, f"{each.usage.wall_s:.1f} s", f"{each.usage.peak_bytes / GB:.2f} GB",
                f"{each.num_bytes / GB:.2f} GB", f"{each.usage.peak_bytes / each.num_bytes:.2f}",
                *(f"{e:.1e}{judge(e)}" for e in (each.equal_error, each.padded_error)), each.detail,
            ]
        )  # fmt: skip
    return format_table(header, rows)


def judge(error: float) -> str:
    """Says whether an error is one of rounding or of meaning."""
    return "" if error < RIGHT else " (wrong)"


def main() -> None:
    """Measures, prints and perhaps writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--engine", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to work; default a temporary folder")
    parser.add_argument("--tiny", action="store_true", help="tries the script out")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    for tool in given.tools:
        if tool != OURS:
            subprocess.run(["bash", f"environments/{tool}.sh"], cwd=REPOSITORY, check=True)
    shape = shape_of(given.blocks, tiny=given.tiny)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        work = Path(name)
        size = make_model(work / "model", shape, blocks_per_shard=4)
        references = compute_references(work / "model", shape.vocab)
        exports, texts = [], [f"{shape.blocks} blocks, {size / GB:.2f} GB of bf16 weights."]
        for tool in given.tools:
            exports.append(export(tool, work / "model", references, work))
            print(exports[-1], file=sys.stderr, flush=True)
            if tool != OURS or not given.engine:
                with suppress(FileNotFoundError):
                    shutil.rmtree(work / tool)
        texts.append(describe(exports))
        if given.engine:
            texts.append(build_engine(work / OURS / "out", work))
    text = "\n\n".join(texts)
    print(text)
    if given.write:
        write_between_markers(PAGE, "onnx_peers", text)


if __name__ == "__main__":
    main()
