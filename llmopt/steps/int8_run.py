"""The run of `quantize.int8` with data; imports torch, so only the step's `run()` imports it."""

from llmopt.checkpoint.checkpoint_writer import write_quantized_checkpoint
from llmopt.checkpoint.w8a8_config import build_w8a8_config
from llmopt.quant.expert_policy import ExpertPolicy
from llmopt.quant.gptq import GptqOptions, make_gptq_solver
from llmopt.quant.quantize_checkpoint import quantize_blocks
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.quantize_int8 import QuantizeInt8
from llmopt.steps.quantize_run import (
    QuantizationInput,
    Stopwatch,
    describe_outcome,
    make_job,
    torch_dtype,
)
from llmopt.steps.w8a8_run import list_ignored, write_w8a8_card


def run_calibrated_int8(step: QuantizeInt8, inputs: StepInputs, context: RunContext) -> Outcome:
    """Rounds every block by GPTQ to int8 and writes the checkpoint with its card."""
    watch = Stopwatch()
    given = _describe_input(step, inputs)
    job = make_job(given, context)
    watch.lap("prepare_s")
    journal = quantize_blocks(job)
    watch.lap("quantize_s")
    config = build_w8a8_config(step.format, list_ignored(step, given.checkpoint))
    tensors = journal.packed_tensors()
    write_quantized_checkpoint(given.checkpoint, tensors, config, context.work_folder)
    write_w8a8_card(step, given.checkpoint, context)
    watch.lap("write_s")
    return describe_outcome(job, journal, context, watch)


def _describe_input(step: QuantizeInt8, inputs: StepInputs) -> QuantizationInput:
    checkpoint = step.open_checkpoint(inputs)
    plan, dtype = step.plan(checkpoint), torch_dtype(checkpoint)
    options = GptqOptions(
        scheme=plan.base,
        act_group_aware=True,
        damp_percent=step.damp_percent,
        max_damp_percent=step.max_damp_percent,
        scale_dtype=dtype,
    )
    return QuantizationInput(
        checkpoint=checkpoint,
        plan=plan,
        solve=make_gptq_solver(options),
        data=inputs["data"],
        format="compressed-tensors",
        activation_memory_gb=step.activation_memory_gb,
        experts=ExpertPolicy(step.experts.min_tokens, step.experts.starved, dtype),
        packs_words=False,
    )
