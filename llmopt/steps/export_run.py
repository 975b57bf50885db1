"""The run of `export.onnx` on a decoder; imports torch, so only the step's `run()` imports it."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import JsonValue

from llmopt.artifacts.files import clear_folder
from llmopt.artifacts.onnx_description import DATA_NAME, MODEL_NAME, OnnxDescription
from llmopt.artifacts.onnx_session import memory_errors, open_session
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.model_config import read_raw_config
from llmopt.checkpoint.sidecar_files import holds_vocabulary, list_sidecars
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.export.decoder_export import ExportedModel, ExportOptions, export_decoder
from llmopt.export.model_file import check_model_file
from llmopt.export.parity import TOLERANCES, Parity, check_decoder
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.device import describe_device
from llmopt.steps.export_onnx import ExportOnnx


def run_export(step: ExportOnnx, inputs: StepInputs, context: RunContext) -> Outcome:
    """Exports a decoder, checks the file against the standard and the model against PyTorch."""
    if context.threads is not None:
        torch.set_num_threads(context.threads)
    folder = inputs["model"].path
    started = time.perf_counter()
    exported = _export_decoder(step, step.open_checkpoint(inputs), context)
    written = time.perf_counter()
    check_model_file(context.work_folder / MODEL_NAME)
    parity = _verify(step, inputs, exported.description, context)
    parity.require(TOLERANCES[step.dtype] if step.tolerance is None else step.tolerance)
    copy_sidecars(folder, context.work_folder)
    degraded = [*_describe_gaps(parity), *describe_absences(folder)]
    for gap in degraded:
        context.progress.note(gap)
    return Outcome(
        metrics={
            "max_abs_error": parity.max_abs_error,
            "relative_error": parity.relative_error,
            "top1_agreement": parity.top1_agreement,
            "compared_positions": parity.num_positions,
            "checked_as": "float32" if step.dtype == "bfloat16" else step.dtype,
            "integer_layers": len(exported.integer_layers),
            **measure_files(context.work_folder),
        },
        machine=describe_device(torch.device("cpu")),
        timings={
            "export_s": round(written - started, 3),
            "verify_s": round(time.perf_counter() - written, 3),
        },
        degraded=degraded,
    )


def _describe_gaps(parity: Parity) -> Iterator[str]:
    """Yields what the comparison with PyTorch did not reach."""
    if parity.within_window is not None:
        yield (
            f"held against PyTorch within the sliding window of {parity.within_window} tokens, "
            "not past it"
        )


def read_options(step: ExportOnnx) -> ExportOptions:
    """Returns how a step wants its model exported."""
    return ExportOptions(
        step.weights,
        step.dtype,
        step.opset,
        step.kv_cache,
        step.last_token_logits,
        step.masked_positions,
    )


def _export_decoder(step: ExportOnnx, checkpoint: Checkpoint, context: RunContext) -> ExportedModel:
    return export_decoder(checkpoint, read_options(step), context.work_folder, context.progress)


def _verify(
    step: ExportOnnx, inputs: StepInputs, description: OnnxDescription, context: RunContext
) -> Parity:
    """Runs the export, or for bfloat16, which onnxruntime lacks on CPUs, its float32 twin."""
    context.progress.start("holding it against PyTorch", 1)
    checkpoint = step.open_checkpoint(inputs)
    if step.dtype == "bfloat16":
        with hold_folder(context.scratch_folder / "twin") as folder:
            twin = step.model_copy(update={"dtype": "float32"})
            there = replace(context, work_folder=folder)
            description = _export_decoder(twin, checkpoint, there).description
            parity = _hold_against_pytorch(checkpoint, description, there)
    else:
        parity = _hold_against_pytorch(checkpoint, description, context)
    context.progress.advance()
    return parity


def _hold_against_pytorch(
    checkpoint: Checkpoint, description: OnnxDescription, context: RunContext
) -> Parity:
    session = open_session(context.work_folder, description, context.threads)
    streamed = StreamedModel(checkpoint, torch.device("cpu"), torch.float32)
    with memory_errors():
        return check_decoder(session, description, streamed)


@contextmanager
def hold_folder(path: Path) -> Iterator[Path]:
    """Makes an empty folder that is gone again however the work in it ends.

    It is made anew each time: what it held must not be taken for work that can be gone on with.
    """
    clear_folder(path)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def measure_files(folder: Path) -> dict[str, JsonValue]:
    """Returns the sizes of a model's files, in bytes."""
    return {
        "graph_bytes": (folder / MODEL_NAME).stat().st_size,
        "weights_bytes": (folder / DATA_NAME).stat().st_size,
    }


def describe_absences(source: Path) -> Iterator[str]:
    """Yields what a served model needs and the exported one lacks, since its checkpoint does."""
    if not holds_vocabulary(source):
        yield "the model has no tokenizer, so the export has none either: it takes token ids alone"


def copy_sidecars(source: Path, folder: Path) -> None:
    """Copies tokenizer and config.json, so that AutoTokenizer loads from the exported folder."""
    config = {
        key: value
        for key, value in read_raw_config(source).items()
        if key not in ("quantization_config", "compression_config")
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    for path in list_sidecars(source):
        shutil.copyfile(path, folder / path.name)
