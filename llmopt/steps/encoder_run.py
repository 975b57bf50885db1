"""The run of `export.onnx` on an encoder; imports torch, so only the step's `run()` imports it."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import JsonValue

from llmopt.artifacts.onnx_description import MODEL_NAME, OnnxDescription
from llmopt.artifacts.onnx_session import memory_errors, open_session
from llmopt.artifacts.tensor_spec import TensorDtype
from llmopt.checkpoint.encoder_config import EncoderConfig, EncoderTask
from llmopt.export.encoder_export import (
    export_encoder,
    load_encoder,
    quantize_weights_dynamically,
)
from llmopt.export.encoder_parity import EncoderParity, check_encoder
from llmopt.export.encoder_session import OnnxEncoder
from llmopt.export.model_file import check_model_file
from llmopt.export.parity import TOLERANCES
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.device import describe_device
from llmopt.steps.export_onnx import INT8_COSINE_DISTANCE, ExportOnnx
from llmopt.steps.export_run import (
    copy_sidecars,
    describe_absences,
    hold_folder,
    measure_files,
    read_options,
)


def run_encoder_export(step: ExportOnnx, inputs: StepInputs, context: RunContext) -> Outcome:
    """Exports an encoder, checks the file against the standard and the model against PyTorch."""
    if context.threads is not None:
        torch.set_num_threads(context.threads)
    config = step.open_encoder(inputs)
    started = time.perf_counter()
    job = _EncoderJob(step, config, config.choose_task(step.task), context)
    figures = job.export_int8() if step.weights == "int8_dynamic" else job.export_plain()
    check_model_file(context.work_folder / MODEL_NAME)
    copy_sidecars(config.folder, context.work_folder)
    degraded = list(describe_absences(config.folder))
    for absence in degraded:
        context.progress.note(absence)
    return Outcome(
        metrics={**figures, **measure_files(context.work_folder)},
        machine=describe_device(torch.device("cpu")),
        timings={"export_and_verify_s": round(time.perf_counter() - started, 3)},
        degraded=degraded,
    )


@dataclass(frozen=True)
class _EncoderJob:
    """One encoder on its way into the work folder; methods return figures for the manifest."""

    step: ExportOnnx
    config: EncoderConfig
    task: EncoderTask
    context: RunContext

    def export_plain(self) -> dict[str, JsonValue]:
        """Exports in the step's dtype; onnxruntime lacks bfloat16 on CPUs, so its twin is checked.

        Raises:
            NumericalError: The export is further from PyTorch than it may be.
        """
        dtype, folder = self.step.dtype, self.context.work_folder
        description = self._export(dtype, folder)
        has_twin = dtype == "bfloat16"
        parity = self._check_twin() if has_twin else self._check(folder, description)
        parity.require(self.step.tolerance or TOLERANCES[dtype])
        checked_as = "float32" if has_twin else dtype
        return {**parity.metrics(), "checked_as": checked_as, "integer_layers": 0}

    def export_int8(self) -> dict[str, JsonValue]:
        """Exports in float32, checks that, rounds it to int8 and checks what that cost.

        A wrong mask or position is found in the former, so that the latter need only judge noise.

        Raises:
            NumericalError: Either is further from PyTorch than it may be.
        """
        with hold_folder(self.context.scratch_folder / "float32") as folder:
            description = self._export("float32", folder)
            exact = self._check(folder, description)
            exact.require(TOLERANCES["float32"])
            layers = quantize_weights_dynamically(folder, self.context.work_folder, description)
        parity = self._check(self.context.work_folder, description)
        parity.require_cosine(self.step.tolerance or INT8_COSINE_DISTANCE)
        return {
            **parity.metrics(),
            "float32_relative_error": exact.relative_error,
            "integer_layers": layers,
        }

    def _check_twin(self) -> EncoderParity:
        with hold_folder(self.context.scratch_folder / "twin") as folder:
            return self._check(folder, self._export("float32", folder))

    def _export(self, dtype: TensorDtype, folder: Path) -> OnnxDescription:
        options = replace(read_options(self.step), dtype=dtype)
        return export_encoder(self.config, self.task, options, folder, self.context.progress)

    def _check(self, folder: Path, description: OnnxDescription) -> EncoderParity:
        self.context.progress.start("holding it against PyTorch", 1)
        encoder = OnnxEncoder(open_session(folder, description, self.context.threads), description)
        reference = load_encoder(self.config, self.task)
        with memory_errors():
            parity = check_encoder(encoder, description, self.config, reference)
        self.context.progress.advance()
        return parity
