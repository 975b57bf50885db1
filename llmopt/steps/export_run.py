"""The run of `export.onnx`; imports torch, so only the step's `run()` imports it."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch

from llmopt.artifacts.onnx_description import DATA_NAME, MODEL_NAME, OnnxDescription
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.encoder_config import EncoderConfig, is_encoder, read_encoder_config
from llmopt.checkpoint.model_config import read_raw_config
from llmopt.checkpoint.sidecar_files import list_sidecars
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.export.decoder_export import ExportedModel, ExportOptions, export_decoder
from llmopt.export.encoder_export import (
    check_encoder,
    export_encoder,
    quantize_weights_dynamically,
)
from llmopt.export.model_file import check_model_file
from llmopt.export.parity import TOLERANCES, Parity, check_decoder
from llmopt.export.session import open_session
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.device import describe_device
from llmopt.steps.export_onnx import ExportOnnx

INT8_TOLERANCE = 0.1  # of weights and inputs in int8


def run_export(step: ExportOnnx, inputs: StepInputs, context: RunContext) -> Outcome:
    """Exports, checks the file against the standard and the model against PyTorch."""
    if context.threads is not None:
        torch.set_num_threads(context.threads)
    folder = inputs["model"].path
    started = time.perf_counter()
    if is_encoder(folder):
        exported = _export_encoder(step, read_encoder_config(folder), context)
    else:
        exported = _export_decoder(step, step.open_checkpoint(inputs), context)
    written = time.perf_counter()
    check_model_file(context.work_folder / MODEL_NAME)
    parity = _verify(step, inputs, exported.description, context)
    parity.require(_tolerance(step))
    _copy_sidecars(folder, context.work_folder)
    return Outcome(
        metrics={
            "max_abs_error": parity.max_abs_error,
            "relative_error": parity.relative_error,
            "top1_agreement": parity.top1_agreement,
            "compared_positions": parity.num_positions,
            "integer_layers": len(exported.integer_layers),
            "graph_bytes": (context.work_folder / MODEL_NAME).stat().st_size,
            "weights_bytes": (context.work_folder / DATA_NAME).stat().st_size,
        },
        machine=describe_device(torch.device("cpu")),
        timings={
            "export_s": round(written - started, 3),
            "verify_s": round(time.perf_counter() - written, 3),
        },
    )


def _options(step: ExportOnnx) -> ExportOptions:
    return ExportOptions(
        step.weights, step.dtype, step.opset, step.kv_cache, step.last_token_logits
    )


def _export_decoder(step: ExportOnnx, checkpoint: Checkpoint, context: RunContext) -> ExportedModel:
    return export_decoder(checkpoint, _options(step), context.work_folder, context.progress)


def _export_encoder(step: ExportOnnx, config: EncoderConfig, context: RunContext) -> ExportedModel:
    folder = context.work_folder
    if step.weights == "int8_dynamic":
        folder = _empty_folder(context.scratch_folder / "float32")
    task = step.task or config.task
    description = export_encoder(config, task, _options(step), folder, context.progress)
    if step.weights == "int8_dynamic":
        quantize_weights_dynamically(folder, context.work_folder, description)
        shutil.rmtree(folder)
    return ExportedModel(description, ())


def _verify(
    step: ExportOnnx, inputs: StepInputs, description: OnnxDescription, context: RunContext
) -> Parity:
    """Runs the export, or for bfloat16, which onnxruntime lacks on CPUs, its float32 twin."""
    context.progress.start("holding it against PyTorch", 1)
    folder, model = context.work_folder, inputs["model"].path
    if step.dtype == "bfloat16":
        twin = step.model_copy(update={"dtype": "float32"})
        folder = _empty_folder(context.scratch_folder / "twin")
        there = replace(context, work_folder=folder)
        export = (
            _export_encoder(twin, read_encoder_config(model), there)
            if is_encoder(model)
            else _export_decoder(twin, twin.open_checkpoint(inputs), there)
        )
        description = export.description
    session = open_session(folder, description, context.threads)
    if is_encoder(model):
        parity = check_encoder(session, description, read_encoder_config(model))
    else:
        checkpoint = step.open_checkpoint(inputs)
        streamed = StreamedModel(checkpoint, torch.device("cpu"), torch.float32)
        parity = check_decoder(session, description, streamed)
    if folder != context.work_folder:
        del session
        shutil.rmtree(folder)
    context.progress.advance()
    return parity


def _tolerance(step: ExportOnnx) -> float:
    if step.tolerance is not None:
        return step.tolerance
    return INT8_TOLERANCE if step.weights == "int8_dynamic" else TOLERANCES[step.dtype]


def _empty_folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _copy_sidecars(source: Path, folder: Path) -> None:
    config = {
        key: value
        for key, value in read_raw_config(source).items()
        if key not in ("quantization_config", "compression_config")
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    for path in list_sidecars(source):
        shutil.copyfile(path, folder / path.name)
