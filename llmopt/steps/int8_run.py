"""The run of `quantize.int8` with data; imports torch, so only the step's `run()` imports it."""

import time
from dataclasses import replace

import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint_writer import write_quantized_checkpoint
from llmopt.checkpoint.w8a8_config import build_w8a8_config
from llmopt.quant.gptq import GptqOptions, solve_gptq
from llmopt.quant.quantize_checkpoint import QuantizeJob, choose_compute_dtype, quantize_blocks
from llmopt.quant.solution import Solution
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.device import describe_device, select_device
from llmopt.steps.quantize_int8 import QuantizeInt8
from llmopt.steps.quantize_run import BYTES_PER_GB, describe_raised_damp, load_windows, torch_dtype
from llmopt.steps.w8a8_run import list_ignored, write_w8a8_card


def run_calibrated_int8(step: QuantizeInt8, inputs: StepInputs, context: RunContext) -> Outcome:
    """Rounds every block by GPTQ to int8 and writes the checkpoint with its card."""
    device = select_device(context)
    started = time.perf_counter()
    checkpoint = step.open_checkpoint(inputs)
    plan = step.plan(checkpoint)
    windows = load_windows(checkpoint, inputs["data"])
    options = GptqOptions(
        scheme=plan.base,
        act_group_aware=True,
        damp_percent=step.damp_percent,
        max_damp_percent=step.max_damp_percent,
        scale_dtype=torch_dtype(checkpoint),
    )

    def solve(W_RI: Tensor, H_II: Tensor | None, scheme: QuantScheme) -> Solution:
        assert H_II is not None
        return solve_gptq(W_RI, H_II, replace(options, scheme=scheme))

    journal = quantize_blocks(
        QuantizeJob(
            checkpoint=checkpoint,
            plan=plan,
            solve=solve,
            format="compressed-tensors",
            windows=windows,
            scratch=context.scratch_folder,
            device=device,
            processor=describe_device(device)["name"],
            activation_budget_bytes=int(step.activation_memory_gb * BYTES_PER_GB),
            progress=context.progress,
            packs_words=False,
        )
    )
    quantized = time.perf_counter()
    config = build_w8a8_config(step.format, list_ignored(step, checkpoint))
    write_quantized_checkpoint(checkpoint, journal.packed_tensors(), config, context.work_folder)
    write_w8a8_card(step, checkpoint, context)
    worst = min(journal.errors, key=lambda e: float("inf") if e.snr_db is None else e.snr_db)
    compute_dtype: torch.dtype = choose_compute_dtype(checkpoint, device)
    return Outcome(
        metrics={
            "weights_bytes": sum(
                path.stat().st_size for path in context.work_folder.glob("*.safetensors")
            ),
            "source_weights_bytes": checkpoint.weight_bytes(),
            "calibration_tokens": windows.num_tokens,
            "lowest_snr_db": worst.snr_db,
            "lowest_snr_layer": worst.layer,
        },
        layers=journal.errors,
        machine={
            **describe_device(device),
            "compute_dtype": str(compute_dtype).removeprefix("torch."),
        },
        degraded=describe_raised_damp(journal.errors),
        timings={
            "quantize_s": round(quantized - started, 3),
            "write_s": round(time.perf_counter() - quantized, 3),
        },
    )
