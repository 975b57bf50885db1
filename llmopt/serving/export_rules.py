"""What can't be exported to ONNX and TensorRT, as far as it is known.

Symmetric or not, act-order, lm_head, layers left out or mixed: all have an exact form in ONNX
(docs/serving-preflight.md), so nothing is said of them here.
"""

from collections.abc import Iterator

from llmopt.serving.rule import Fault, Rule
from llmopt.serving.served_weights import ServedWeights
from llmopt.serving.target import Target

ONNX_BITS = (2, 4, 8)
TENSORRT_BITS = (4, 8)


def onnx_bits(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """Integers that are exported to ONNX do not have 3 bits.

    For: onnxruntime

    Source: onnx, TensorProto.DataType: INT2, UINT2, INT4, UINT4, INT8, UINT8, none of 3 bits

    Proof: source
    """
    del target
    yield from _refuse_bits(weights, ONNX_BITS, "ONNX Runtime")


def tensorrt_bits(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """Integers that go into TensorRT engines have 4 or 8 bits.

    For: tensorrt

    Source: TensorRT's data types: INT4 and INT8 are the integers that weights may have; it takes
    neither uint4 (an asymmetric grid is rewritten) nor MatMulNBits (measured, TensorRT-RTX 1.7)

    Proof: source
    """
    del target
    yield from _refuse_bits(weights, TENSORRT_BITS, "TensorRT")


def _refuse_bits(weights: ServedWeights, served: tuple[int, ...], engine: str) -> Iterator[Fault]:
    for layer, scheme in weights.integers():
        if scheme.bits not in served:
            yield Fault(
                f"{engine} has no {scheme.bits}-bit integers, only {', '.join(map(str, served))}",
                "set bits: 4",
                layer.kind,
            )


def tensorrt_nf4(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """NF4 has no form in TensorRT.

    For: tensorrt

    Source: ONNX has no NF4 type; onnxruntime's operator for it (com.microsoft MatMulBnb4) is of a
    domain that TensorRT's parser does not take

    Proof: source
    """
    del target
    if "nf4" in weights.storages():
        yield Fault(
            "TensorRT has no NF4 weights",
            "use quantize.gptq with 4 bits, group_size 128, sym: true",
        )


ONNX_RULES: tuple[Rule, ...] = (onnx_bits,)
TENSORRT_RULES: tuple[Rule, ...] = (tensorrt_bits, tensorrt_nf4)
