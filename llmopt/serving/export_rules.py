"""What can't be exported to ONNX and TensorRT, as far as it is known.

2, 3, 4 and 8 bits, symmetric or not, act-order, lm_head, mixed layers: all have an exact form there
(docs/serving-preflight.md), so nothing is said of them here.
"""

from collections.abc import Iterator

from llmopt.serving.rule import Fault, Rule
from llmopt.serving.served_weights import ServedWeights
from llmopt.serving.target import Target

STORAGES = {"fp8": "FP8", "int8": "INT8"}


def rounded_inputs(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """Layers that round their inputs (W8A8) are not exported to ONNX.

    For: onnxruntime, tensorrt

    Source: export.onnx writes weights as integers, inputs stay as they are (llmopt.export)

    Proof: source
    """
    del target
    for storage in sorted(weights.storages() & STORAGES.keys()):
        yield Fault(
            f"{STORAGES[storage]} layers round their inputs, which is not exported to ONNX",
            "use quantize.gptq, or serve it with vLLM",
        )


def exported_experts(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """Mixtures of experts are not exported to ONNX.

    For: onnxruntime, tensorrt

    Source: export.onnx writes dense decoders and encoders only (llmopt.export)

    Proof: source
    """
    del target
    if weights.config.experts is not None:
        yield Fault(
            f"{weights.config.model_type} is a mixture of experts, which is not exported to ONNX",
            "serve it with vLLM",
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


ONNX_RULES: tuple[Rule, ...] = (rounded_inputs, exported_experts)
TENSORRT_RULES: tuple[Rule, ...] = (*ONNX_RULES, tensorrt_nf4)
