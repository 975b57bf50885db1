"""What vLLM takes of bits, grids and orders of weight-only integers, by format and device."""

from collections.abc import Iterator

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.serving.rule import Fault, Rule
from llmopt.serving.served_weights import ServedWeights
from llmopt.serving.target import Target

SERVED_BITS = (4, 8)
HOPPER = 90
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

    Source: gptq: auto_gptq.py, TYPE_MAP. compressed-tensors: the scheme knows 2 and 3 bits
    (compressed_tensors_wNa16.py, WNA16_SUPPORTED_TYPES_MAP) and reads them as they are packed, but
    no kernel's list of types holds them (kernels/linear/mixed_precision/: marlin.py, machete.py,
    exllama.py, conch.py, triton_w4a16.py, cpu.py); humming.py refuses no width, but needs the
    package Humming and a GPU: not tried

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
    shapes = weights.loaded_shapes(target.tp)
    for layer, scheme in weights.integers():
        if weights.format == "gptq" or scheme.sym or scheme.bits != 8:
            continue
        if target.capability != HOPPER or not _machete_takes(scheme, *shapes[layer.name]):
            yield Fault(
                "an asymmetric grid must have 4 bits, not 8",
                "set sym: true, or bits: 4",
                layer.kind,
            )


def _machete_takes(scheme: QuantScheme, out_features: int, in_features: int) -> bool:
    return (
        scheme.group_size in MACHETE_GROUPS
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


SCHEME_RULES: tuple[Rule, ...] = (
    gptq_symmetric,
    served_bits,
    asymmetric_bits,
    act_order,
    cpu_bits,
)
