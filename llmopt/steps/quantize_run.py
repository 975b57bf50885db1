"""The run of every integer quantisation; imports torch, so only a step's `run()` imports it."""

import math
import time
from dataclasses import dataclass, replace

import torch

from llmopt import __version__
from llmopt.artifacts.manifest import LayerError
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.checkpoint_writer import write_quantized_checkpoint
from llmopt.checkpoint.compressed_tensors_config import build_compressed_tensors_config
from llmopt.checkpoint.gptq_config import build_gptq_config
from llmopt.checkpoint.packed_size import planned_layers
from llmopt.checkpoint.quant_plan import QuantPlan
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.data.mixture import build_mixed_windows
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import InputError
from llmopt.quant.asymmetric import AsymmetricOptions
from llmopt.quant.block_pass import Solver
from llmopt.quant.block_solve import name_rounder
from llmopt.quant.expert_policy import ExpertPolicy, describe_starved
from llmopt.quant.journal import Journal
from llmopt.quant.quantize_checkpoint import (
    QuantizeJob,
    choose_compute_dtype,
    quantize_blocks,
)
from llmopt.quant.sensitivity import Budget, allocate_bits
from llmopt.steps.base import Outcome, ResolvedInput, RunContext
from llmopt.steps.dataset_input import load_parts
from llmopt.steps.device import describe_device, describe_devices, note_idle, select_devices
from llmopt.steps.quantize_fields import QuantizeFields, check_data

BYTES_PER_GB = 1_000_000_000
# A GPU is done with a block sooner than a disk with the data after it.
GPU_COMMIT_INTERVAL_S = 30.0


def torch_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Returns the checkpoint's dtype as torch's."""
    dtype: torch.dtype = getattr(torch, checkpoint.dtype)
    return dtype


@dataclass(frozen=True)
class QuantizationInput:
    """What is quantised, and how.

    Attributes:
        checkpoint: The model.
        plan: How each layer is rounded.
        solve: Rounds stacked rows.
        data: The calibration set; None rounds without looking at data.
        format: What the layers are written as.
        activation_memory_gb: Activations beyond this go to disk.
        experts: What becomes of experts that see few tokens; None treats all alike.
        budget: Bounds the size; the widths of its free layers are chosen.
        asymmetric: Aims at the original model's outputs.
        packs_words: Whether integers share 32-bit words.
    """

    checkpoint: Checkpoint
    plan: QuantPlan
    solve: Solver
    data: ResolvedInput | None
    format: QuantFormat
    activation_memory_gb: float
    experts: ExpertPolicy | None = None
    budget: Budget | None = None
    asymmetric: AsymmetricOptions | None = None
    packs_words: bool = True


class Stopwatch:
    """Times the parts of a run, one after the other."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends a part, in seconds, and begins the next."""
        now = time.perf_counter()
        self.laps[name] = round(now - self._since, 3)
        self._since = now


def run_quantization(
    step: QuantizeFields, given: QuantizationInput, context: RunContext
) -> Outcome:
    """Quantises every block and writes the checkpoint."""
    watch = Stopwatch()
    job = make_job(given, context)
    watch.lap("prepare_s")
    if given.budget is not None:
        job = replace(job, plan=allocate_bits(job, given.budget))
        watch.lap("allocate_s")
    journal = quantize_blocks(job)
    watch.lap("quantize_s")
    config = build_compressed_tensors_config(job.plan)
    if step.format == "gptq":
        damp = getattr(step, "damp_percent", None)
        config = build_gptq_config(job.plan, damp_percent=damp, quantizer=f"llmopt:{__version__}")
    tensors = journal.packed_tensors()
    write_quantized_checkpoint(given.checkpoint, tensors, config, context.work_folder)
    watch.lap("write_s")
    return describe_outcome(job, journal, context, watch)


def make_job(given: QuantizationInput, context: RunContext) -> QuantizeJob:
    """Picks the devices and tokenises the data.

    Raises:
        CapabilityError: A device that is asked for is not there.
        InputError: The data can't calibrate this model.
    """
    device, *others = select_devices(context)
    is_gpu = device.type == "cuda"
    job = QuantizeJob(
        checkpoint=given.checkpoint,
        plan=given.plan,
        solve=given.solve,
        format=given.format,
        windows=None if given.data is None else load_windows(given.checkpoint, given.data),
        scratch=context.scratch_folder,
        device=device,
        processor=describe_device(device)["name"],
        activation_budget_bytes=int(given.activation_memory_gb * BYTES_PER_GB),
        progress=context.progress,
        experts=given.experts,
        asymmetric=given.asymmetric,
        packs_words=given.packs_words,
        more_devices=tuple(others),
        reads_ahead=is_gpu,
        recomputes=is_gpu,
        commit_interval_s=GPU_COMMIT_INTERVAL_S if is_gpu else 0.0,
    )
    note_idle((device, *others), job.devices, context.progress)
    return job


def describe_outcome(
    job: QuantizeJob, journal: Journal, context: RunContext, watch: Stopwatch
) -> Outcome:
    """Reports a finished quantisation whose checkpoint is in the work folder."""
    size_bytes = sum(path.stat().st_size for path in context.work_folder.glob("*.safetensors"))
    worst = min(journal.errors, key=lambda e: float("inf") if e.snr_db is None else e.snr_db)
    compute_dtype = choose_compute_dtype(job.checkpoint, job.device)
    return Outcome(
        metrics={
            "weights_bytes": size_bytes,
            "source_weights_bytes": job.checkpoint.weight_bytes(),
            "bits_per_weight": round(_measure_bits_per_weight(job, journal), 4),
            "calibration_tokens": 0 if job.windows is None else job.windows.num_tokens,
            "lowest_snr_db": worst.snr_db,
            "lowest_snr_layer": None if worst.snr_db is None else worst.layer,
        },
        layers=journal.errors,
        machine={
            **describe_devices(job.devices),
            "rounder": name_rounder(job.device),
            "compute_dtype": str(compute_dtype).removeprefix("torch."),
        },
        degraded=[
            *describe_raised_damp(journal.errors),
            *describe_starved(journal.errors, job.experts),
        ],
        timings=watch.laps,
    )


def _measure_bits_per_weight(job: QuantizeJob, journal: Journal) -> float:
    """Returns the bits per weight of the plan's layers, from the tensors that were written."""
    checkpoint, plan = job.checkpoint, job.plan
    written = sum(entry.num_bytes for entry in journal.packed_tensors().values())
    kept = sum(
        checkpoint.tensors[f"{name}.weight"].num_bytes
        for name, scheme in plan.schemes.items()
        if scheme is None
    )
    weights = sum(math.prod(shape) for _, shape in planned_layers(checkpoint.config, plan))
    return 8 * (written + kept) / weights


def describe_raised_damp(errors: list[LayerError]) -> list[str]:
    """Says of each layer whose damping was raised how far."""
    return [
        f"{error.layer}: damp_percent raised to {error.damp_percent:g}, its Hessian was not "
        "positive definite before"
        for error in errors
        if error.damp_retries and error.damp_percent is not None
    ]


def load_windows(checkpoint: Checkpoint, data: ResolvedInput) -> CalibrationWindows:
    """Reads and tokenises a calibration set with the model's own tokenizer."""
    assert data.dataset is not None
    checkpoint.require_tokenizer()
    check_data(checkpoint.config, data)
    tokenizer = DocumentTokenizer(checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code)
    parts = load_parts(data, tokenizer)
    try:
        return build_mixed_windows(parts, tokenizer, data.dataset)
    except InputError as error:
        message = f"data set {data.name} ({data.path}): {error.message}"
        raise InputError(message, remedy=error.remedy) from None
