"""What vLLM's kernels for a way of storing weights ask of the GPU, and of their number."""

from collections.abc import Iterator

from llmopt.serving.rule import Fault, Rule
from llmopt.serving.served_weights import ServedWeights, Storage
from llmopt.serving.target import Target

BLACKWELL = 100
MIN_CAPABILITY: dict[Storage, int] = {"integer": 75, "fp8": 75, "int8": 75, "nf4": 70}


def nf4_tensor_parallel(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """NF4 is served on one GPU.

    For: vllm with vllm-bnb-plugin, bitsandbytes

    Source: vllm_bnb_plugin 0.0.3, bitsandbytes_loader.py, _verify_model_compatibility: "Prequant
    BitsAndBytes models with tensor parallelism is not supported"

    Proof: source
    """
    if target.tp > 1 and "nf4" in weights.storages():
        yield Fault(
            f"bitsandbytes weights can't be shared by tp {target.tp} GPUs",
            "set tp: 1, or use quantize.gptq, quantize.fp8 or quantize.int8",
        )


def gpu_capability(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """The GPU is new enough: 7.5 for integers, FP8 (weight-only below 8.9) and INT8, 7.0 for NF4.

    For: vllm, device cuda with a named gpu

    Source: marlin_utils.py, query_marlin_supported_quant_types (75); compressed_tensors/schemes/:
    compressed_tensors_wNa16.py, _w8a16_fp8.py, _w8a8_int8.py (75), _w8a8_fp8.py (89);
    marlin_utils_fp8.py, is_fp8_marlin_supported (75); vllm_bnb_plugin, quantization/config.py (70)

    Proof: kernel choice
    """
    capability = target.capability
    if target.device == "cpu" or capability is None:
        return
    for storage in sorted(weights.storages()):
        least = MIN_CAPABILITY[storage]
        if capability < least:
            yield Fault(
                f"{storage} weights need compute capability {least / 10}, {target.gpu} has "
                f"{capability / 10}",
                "name a newer gpu",
            )


def int8_blackwell(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """INT8 W8A8 is not served on Blackwell.

    For: vllm, device cuda, capability 10.0 and later

    Source: csrc/libtorch_stable/quantization/w8a8/cutlass/c3x/scaled_mm_helper.hpp: "Int8 not
    supported on SM120. Use FP8 quantization instead, or run on older arch (SM < 100)"

    Proof: source
    """
    capability = target.capability
    if capability is not None and capability >= BLACKWELL and "int8" in weights.storages():
        yield Fault(
            f"INT8 W8A8 has no kernel on {target.gpu} (compute capability {capability / 10})",
            "use quantize.fp8",
        )


GPU_RULES: tuple[Rule, ...] = (nf4_tensor_parallel, gpu_capability, int8_blackwell)
