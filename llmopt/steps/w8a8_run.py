"""The run of the 8-bit steps; imports torch, so only a step's `run()` imports it."""

import torch

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.linear_weights import list_kept_linears
from llmopt.checkpoint.model_card import write_model_card
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, OUTPUT_WEIGHT
from llmopt.checkpoint.w8a8_config import build_w8a8_config
from llmopt.checkpoint.w8a8_format import W8A8Format
from llmopt.quant.channel_codec import ChannelCodec
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.device import select_device
from llmopt.steps.stream_run import run_stream
from llmopt.steps.w8a8_fields import W8A8Fields

SERVING: dict[W8A8Format, str] = {
    "float-quantized": """## What serves it

vLLM (`vllm serve FOLDER`). Ada and Hopper GPUs (RTX 4090, L40S, H100) multiply float8 with float8
(W8A8); Ampere (A100, RTX 3090) has no float8 units and computes in 16 bits (W8A16), where
`quantize.int8` is the faster choice. transformers reads it with `pip install compressed-tensors`.
""",
    "int-quantized": """## What serves it

vLLM (`vllm serve FOLDER`), on GPUs from Turing on and on CPUs: int8 weights times int8 activations.
On Ampere (A100, RTX 3090) it is the fast 8-bit choice; on Ada and Hopper `quantize.fp8` is.
transformers reads it with `pip install compressed-tensors`.
""",
}
TITLES: dict[W8A8Format, str] = {"float-quantized": "FP8 W8A8", "int-quantized": "INT8 W8A8"}


def run_w8a8(step: W8A8Fields, inputs: StepInputs, context: RunContext) -> Outcome:
    """Quantises the model and writes the checkpoint with its card."""
    device = select_device(context)
    checkpoint = step.open_checkpoint(inputs)
    scale_dtype: torch.dtype = getattr(torch, checkpoint.dtype)
    codec = ChannelCodec(step.format, scale_dtype, device)
    config = build_w8a8_config(step.format, list_ignored(step, checkpoint))
    outcome = run_stream(step, checkpoint, codec, config, device, context)
    write_w8a8_card(step, checkpoint, context)
    return outcome


def list_ignored(step: W8A8Fields, checkpoint: Checkpoint) -> list[str]:
    """Lists the modules that loaders must not take for quantised ones."""
    rounded = step.select_weights(checkpoint)
    head = [] if OUTPUT_WEIGHT in rounded else [OUTPUT_LAYER]
    return [*head, *list_kept_linears(checkpoint.tensors, rounded)]


def write_w8a8_card(step: W8A8Fields, checkpoint: Checkpoint, context: RunContext) -> None:
    """Writes the model card."""
    title = f"{checkpoint.config.model_type}, {TITLES[step.format]} (compressed-tensors)"
    tags = ("compressed-tensors", TITLES[step.format].split()[0].lower())
    settings = step.identity_settings()
    write_model_card(context.work_folder, title, tags, settings, SERVING[step.format])
