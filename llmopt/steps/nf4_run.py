"""The run of `quantize.nf4`; imports torch, so only the step's `run()` imports it."""

from dataclasses import replace

import torch

from llmopt.checkpoint.bitsandbytes_config import build_bitsandbytes_config
from llmopt.checkpoint.linear_weights import (
    is_expert,
    is_linear_weight,
    list_kept_linears,
)
from llmopt.checkpoint.model_card import write_model_card
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, OUTPUT_WEIGHT
from llmopt.quant.nf4 import Nf4Codec
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.device import select_device
from llmopt.steps.quantize_nf4 import QuantizeNf4
from llmopt.steps.stream_run import run_stream

SERVING = """## What loads it

* **transformers**, on CPU and GPU: `pip install transformers bitsandbytes accelerate`, then
  `AutoModelForCausalLM.from_pretrained(FOLDER)`. Fine-tuning with adapters (QLoRA) starts here.
* **vLLM** only through its plugin, `pip install vllm-bnb-plugin`: bitsandbytes left vLLM's core in
  0.28. To serve with vLLM, take `quantize.gptq`, `quantize.fp8` or `quantize.int8` instead.
* TensorRT-LLM, ONNX Runtime and llama.cpp don't read it.
"""


def run_nf4(step: QuantizeNf4, inputs: StepInputs, context: RunContext) -> Outcome:
    """Quantises the model and writes the checkpoint with its card."""
    device = select_device(context)
    checkpoint = step.open_checkpoint(inputs)
    dtype: torch.dtype = getattr(torch, checkpoint.dtype)
    codec = Nf4Codec(step.scheme, dtype, device)
    rounded = step.select_weights(checkpoint)
    experts = [name for name in checkpoint.tensors if is_linear_weight(name) and is_expert(name)]
    kept = [
        module
        for module in list_kept_linears(checkpoint.tensors, rounded.union(experts))
        if is_linear_weight(f"{module}.weight")
    ]
    head_kept = OUTPUT_WEIGHT not in rounded
    named = None if head_kept and not kept else [*([OUTPUT_LAYER] if head_kept else []), *kept]
    config = build_bitsandbytes_config(step.scheme, step.compute_dtype, named)
    outcome = run_stream(step, checkpoint, codec, config, device, context)
    title = f"{checkpoint.config.model_type}, {step.quant_type.upper()} by bitsandbytes"
    tags = ("bitsandbytes", "4-bit")
    write_model_card(context.work_folder, title, tags, step.identity_settings(), SERVING)
    if not experts:
        return outcome
    kept_experts = (
        f"{len(experts)} weights of experts stay in {checkpoint.dtype}: transformers loads no "
        "4-bit experts in bitsandbytes' format"
    )
    context.progress.note(kept_experts)
    return replace(outcome, degraded=[*outcome.degraded, kept_experts])
