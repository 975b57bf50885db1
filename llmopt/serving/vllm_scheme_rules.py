"""What vLLM takes of integers, floats and formats, whatever the model's shape."""

from collections.abc import Iterator

from llmopt.serving.rule import Fault, Rule
from llmopt.serving.served_weights import ServedLayer, ServedWeights, Storage
from llmopt.serving.target import Target

SERVED_BITS = (4, 8)
HOPPER = 90
BLACKWELL = 100
MIN_CAPABILITY: dict[Storage, int] = {"integer": 75, "fp8": 75, "int8": 75, "nf4": 70}
MACHETE_IN, MACHETE_OUT, MACHETE_GROUPS = 64, 128, (-1, 64, 128)


def gptq_symmetric(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """Format gptq holds symmetric grids only.

    For: vllm, format gptq

    Source: layers/quantization/auto_gptq.py, AutoGPTQConfig.TYPE_MAP, and override_config in
    utils/gptq_utils.py for single layers: "Unsupported quantization config: bits=4, sym=False"

    Proof: cpu
    """
    del target
    for layer, scheme in weights.integers():
        if weights.format == "gptq" and not scheme.sym:
            yield Fault(
                "format gptq must be symmetric",
                "set sym: true, or format: compressed-tensors",
                layer.kind,
            )


def served_bits(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """Weight-only integers have 4 or 8 bits.

    For: vllm

    Source: gptq: auto_gptq.py, TYPE_MAP. compressed-tensors: none of vLLM's own kernels takes 2
    bits (kernels/linear/mixed_precision/: marlin.py, machete.py, exllama.py, triton_w4a16.py,
    cpu.py); the Humming kernel, a package of its own, says that it does, which nobody here has
    seen. 3 bits: compressed-tensors 0.17 packs 10 to a word, compressed_tensors_wNa16.py expects
    ceil(I * 3 / 32) words

    Proof: cpu, kernel choice
    """
    del target
    for layer, scheme in weights.integers():
        if scheme.bits not in SERVED_BITS:
            yield Fault(
                f"{scheme.bits} bits are not served, only 4 and 8",
                "set bits: 4, or leave out target to quantise for other servers",
                layer.kind,
            )


def asymmetric_bits(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """An asymmetric grid has 4 bits; 8 only on Hopper, where Machete takes the shape.

    For: vllm, format compressed-tensors

    Source: layers/quantization/utils/marlin_utils.py, query_marlin_supported_quant_types;
    machete_utils.py: 8 bits with zero points, capability 9.0, groups of 64, 128 or a channel,
    in_features % 64, out_features % 128

    Proof: cpu, kernel choice
    """
    for layer, scheme in weights.integers():
        if weights.format == "gptq" or scheme.sym or scheme.bits != 8:
            continue
        if not _machete_takes(weights, layer, target):
            yield Fault(
                "an asymmetric grid must have 4 bits, not 8",
                "set sym: true, or bits: 4",
                layer.kind,
            )


def _machete_takes(weights: ServedWeights, layer: ServedLayer, target: Target) -> bool:
    out_features, in_features = weights.shard_shape(layer, target.tp)
    return (
        target.capability == HOPPER
        and layer.scheme is not None
        and layer.scheme.group_size in MACHETE_GROUPS
        and in_features % MACHETE_IN == 0
        and out_features % MACHETE_OUT == 0
    )


def act_order(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """Groups do not move with act-order.

    For: vllm

    Source: layers/quantization/utils/gptq_utils.py: "GPTQ group activation ordering
    (desc_act=True) is no longer supported"; compressed_tensors.py says the same of
    actorder='group'

    Proof: cpu
    """
    del target
    for layer, scheme in weights.integers():
        if scheme.has_moved_groups:
            yield Fault(
                "act-order with groups is no longer served",
                "set desc_act: false, static_groups: true, or group_size: -1",
                layer.kind,
            )


def cpu_bits(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """On a CPU weight-only integers have 4 bits.

    For: vllm, device cpu

    Source: kernels/linear/mixed_precision/cpu.py, _CPUWNA16_SUPPORTED_QUANT_TYPES: "Quant type
    (uint8b128) not supported by CPUWNA16"

    Proof: cpu
    """
    for layer, scheme in weights.integers():
        if target.device == "cpu" and scheme.bits == 8:
            yield Fault(
                "weight-only kernels on a CPU take 4 bits, not 8", "set bits: 4", layer.kind
            )


def fused_alike(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """q, k and v, and gate and up, are stored alike: they are loaded as one layer.

    For: vllm

    Source: models/llama.py, packed_modules_mapping; gptq: utils/gptq_utils.py, "Detected some but
    not all shards of ... are quantized"; compressed-tensors: compressed_tensors/utils.py, "Found
    different quantization schemes for the shards"

    Proof: cpu
    """
    del target
    for place, layers in weights.fused():
        if len({(layer.storage, layer.scheme) for layer in layers}) > 1:
            names = ", ".join(layer.part for layer in layers)
            yield Fault(
                f"{names} are loaded as one and must be alike",
                "let an override name all of them or none",
                place,
            )


def experts_alike(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """All experts of a block, and their projections, are stored alike.

    For: vllm, mixtures of experts

    Source: compressed_tensors/compressed_tensors_moe/compressed_tensors_moe.py: "All MoE
    projections need to have same quantization scheme but found multiple"; auto_gptq.py,
    get_moe_quant_method, asks `dynamic` once, by the name of the whole

    Proof: source
    """
    del target
    kinds: dict[str, set[object]] = {}
    for layer in weights.layers:
        if layer.experts is not None:
            kinds.setdefault(layer.experts, set()).add((layer.storage, layer.scheme))
    for experts, found in kinds.items():
        if len(found) > 1:
            yield Fault(
                "a block's experts are loaded as one and must be alike",
                "let an override name all of a block's experts (*.experts.*) or none",
                experts,
            )


def gptq_experts_base(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """In format gptq experts have the base scheme.

    For: vllm, mixtures of experts, format gptq

    Source: auto_gptq.py, get_moe_quant_method: `dynamic` is asked by the name of the whole
    (...mlp.experts), which entries for single experts do not match

    Proof: source
    """
    del target
    for layer in weights.layers:
        if weights.format == "gptq" and layer.experts and layer.scheme != weights.base:
            yield Fault(
                "format gptq can't say that experts differ from other layers",
                "set format: compressed-tensors, or leave experts out of overrides",
                layer.experts,
            )


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


SCHEME_RULES: tuple[Rule, ...] = (
    gptq_symmetric,
    served_bits,
    asymmetric_bits,
    act_order,
    cpu_bits,
    fused_alike,
    experts_alike,
    gptq_experts_base,
    nf4_tensor_parallel,
    gpu_capability,
    int8_blackwell,
)
