"""bert-base-japanese end to end: export by `llmopt export-onnx`, parity, size, speed.

    python benchmarks/bert_ja.py [--rounds 7] [--threads 2] [--folder DIR] [--write]

Makes a random BERT in its shape with a MeCab and WordPiece tokenizer (random_bert.py), exports it
for both tasks in float32 and in int8_dynamic, and takes what the manifests say of errors and
sizes. Then PyTorch and onnxruntime run the same texts, tokenised by the exported tokenizer, one
after another in every round; each first waits until the other's threads sleep, and runs once
unmeasured. Needs fugashi and unidic-lite. `--write` puts the tables into docs/benchmarks.md.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from measured_process import MeasuredProcess, Usage
from random_bert import base_config, build_vocabulary, make_bert, read_texts
from results_page import PAGE, format_table, write_between_markers
from transformers import AutoTokenizer

from llmopt.artifacts.files import format_bytes
from llmopt.artifacts.manifest import read_manifest
from llmopt.artifacts.onnx_description import read_onnx_description
from llmopt.artifacts.onnx_session import open_session
from llmopt.checkpoint.encoder_config import EncoderTask, read_encoder_config
from llmopt.export.encoder_export import load_encoder
from llmopt.export.encoder_session import OnnxEncoder

TASKS: tuple[EncoderTask, ...] = ("fill_mask", "embed")
WEIGHTS = ("plain", "int8_dynamic")
SHAPES = ((1, 32), (1, 128), (8, 32), (8, 128))  # rows, tokens
PYTORCH = "PyTorch"
SETTLE_S = 0.1  # idle threads of OpenMP and onnxruntime spin for some milliseconds
Inputs = Mapping[str, Any]
Runner = Callable[[Inputs], object]


@dataclass(frozen=True)
class Export:
    """One exported model and what its making took."""

    folder: Path
    usage: Usage
    metrics: Mapping[str, Any]


def export(model: Path, task: str, weights: str, threads: int) -> Export:
    """Exports by the real command.

    Raises:
        RuntimeError: It failed; the end of its log is shown.
    """
    folder = model.parent / f"{task}-{weights}"
    command = [sys.executable, "-m", "llmopt", "export-onnx", str(model), "-o", str(folder)]
    command += ["--task", task, "--weights", weights, "--threads", str(threads), "--quiet"]
    command += ["--store", str(model.parent / "store")]
    with MeasuredProcess(command, Path(os.devnull), model.parent / "log") as process:
        usage = process.wait()
    return Export(folder, usage, read_manifest(folder).metrics)


def tokenize_rows(folder: Path, texts: Sequence[str], rows: int, tokens: int) -> dict[str, Any]:
    """Returns rows that are full to the last token, int64 arrays [rows, tokens]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    joined = "".join(texts)
    piece = tokens * 8  # characters: more than enough for so many tokens
    pieces = [joined[row * piece : (row + 1) * piece] for row in range(rows)]
    found = tokenizer(pieces, truncation=True, max_length=tokens, return_tensors="np")
    inputs = {name: np.asarray(array, np.int64) for name, array in found.items()}
    assert inputs["input_ids"].shape == (rows, tokens)
    return inputs


def run_pytorch(model: Path, task: EncoderTask) -> Runner:
    """Returns transformers' model in float32."""
    reference = load_encoder(read_encoder_config(model), task)

    def run(inputs: Inputs) -> object:
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
            return reference(**tensors)[0].numpy()

    return run


def run_onnx(folder: Path, threads: int) -> Runner:
    """Returns an exported model in onnxruntime."""
    description = read_onnx_description(folder)
    encoder = OnnxEncoder(open_session(folder, description, threads), description)
    return lambda inputs: encoder.forward(
        inputs["input_ids"], inputs["attention_mask"], inputs.get("token_type_ids")
    )


def time_alternately(
    runners: Mapping[str, Runner], inputs: Inputs, rounds: int, settle_s: float = SETTLE_S
) -> dict[str, float]:
    """Runs each in turn, round by round; returns the median times in seconds."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            time.sleep(settle_s)
            run(inputs)
            started = time.perf_counter()
            run(inputs)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured) for name, measured in times.items()}


def tabulate_exports(exports: Mapping[tuple[str, str], Export], model_bytes: int) -> str:
    """Returns the table of errors, sizes and what exporting took."""
    rows = []
    for (task, weights), made in exports.items():
        metrics = made.metrics
        size = metrics["graph_bytes"] + metrics["weights_bytes"]
        top1 = metrics.get("top1_agreement")
        rows.append(
            [
                task,
                weights,
                format_bytes(size),
                f"{model_bytes / size:.2f}",
                f"{metrics['relative_error']:.1e}",
                f"{metrics['cosine_distance']:.1e}",
                "" if top1 is None else f"{100 * top1:.1f} %",
                f"{made.usage.wall_s:.1f} s",
                f"{made.usage.peak_bytes / model_bytes:.2f}",
            ]
        )
    header = ["task", "weights", "files", "checkpoint / files", "largest error / largest value"]
    header += ["mean cosine distance", "same top token", "export, wall", "peak RSS / checkpoint"]
    return format_table(header, rows)


def tabulate_speed(times: Mapping[tuple[str, int, int], Mapping[str, float]]) -> str:
    """Returns the table of times, PyTorch's over each of the others'."""
    rows = []
    for (task, batch, tokens), medians in times.items():
        reference = medians[PYTORCH]
        row = [task, f"{batch} × {tokens}", f"{1e3 * reference:.1f} ms"]
        for weights in WEIGHTS:
            row += [f"{1e3 * medians[weights]:.1f} ms", f"{reference / medians[weights]:.2f}"]
        rows.append(row)
    header = ["task", "rows × tokens", PYTORCH]
    for name in ("float32", "int8_dynamic"):
        header += [f"onnxruntime, {name}", f"{PYTORCH} / this"]
    return format_table(header, rows)


def measure(folder: Path, rounds: int, threads: int) -> str:
    """Makes, exports and times the model; returns both tables and what they are of."""
    texts = list(read_texts())
    vocabulary = build_vocabulary(texts, base_config().vocab_size)
    learned = sum(not token.startswith("[unused") for token in vocabulary)
    model = make_bert(folder / "model", base_config(), vocabulary)
    model_bytes = (model / "model.safetensors").stat().st_size
    exports = {(t, w): export(model, t, w, threads) for t in TASKS for w in WEIGHTS}
    print(tabulate_exports(exports, model_bytes), file=sys.stderr, flush=True)
    times = {}
    for task in TASKS:
        runners = {PYTORCH: run_pytorch(model, task)}
        runners |= {w: run_onnx(exports[task, w].folder, threads) for w in WEIGHTS}
        for rows, tokens in SHAPES:
            inputs = tokenize_rows(exports[task, "plain"].folder, texts, rows, tokens)
            times[task, rows, tokens] = time_alternately(runners, inputs, rounds)
    setting = (
        f"12 layers, hidden 768, vocabulary {len(vocabulary)}, {learned} tokens of it learned; "
        f"checkpoint {format_bytes(model_bytes)} in float32. {threads} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, onnxruntime "
        f"{ort.__version__}; medians of {rounds} rounds."
    )
    return "\n\n".join([setting, tabulate_exports(exports, model_bytes), tabulate_speed(times)])


def main() -> None:
    """Measures, prints the tables and perhaps writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work; default a temporary folder")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        text = measure(Path(name), given.rounds, given.threads)
    print(text)
    if given.write:
        write_between_markers(PAGE, "bert_ja", text)


if __name__ == "__main__":
    main()
