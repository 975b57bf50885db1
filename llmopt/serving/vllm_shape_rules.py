"""What vLLM's tensor parallelism and kernels ask of a model's shapes."""

from collections.abc import Iterator

from llmopt.checkpoint.model_config import ModelConfig
from llmopt.checkpoint.packed_words import WORD_BITS
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER
from llmopt.serving.rule import Fault, Rule
from llmopt.serving.served_weights import (
    KEY_VALUE,
    ROW_PARALLEL,
    VOCABULARY_MULTIPLE,
    ServedWeights,
    longest_context,
)
from llmopt.serving.target import Target

CPU_MULTIPLE = 32
USUAL_TP = (1, 2, 4, 8, 16)
GROUP_SIZES = (128, 64, 32)


def heads_per_gpu(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """Attention heads divide by tp.

    For: vllm, tp

    Source: vllm/config/model.py, verify_with_parallel_config: "Total number of attention heads
    (4) must be divisible by tensor parallel size (3)"

    Proof: cpu (configuration)
    """
    heads = weights.config.num_attention_heads
    if heads % target.tp:
        yield Fault(
            f"{heads} attention heads do not divide by tp {target.tp}", _other_tp(weights.config)
        )


def key_value_heads_per_gpu(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """Key-value heads divide by tp, or tp by them: a head may be held by several GPUs.

    For: vllm, tp

    Source: models/llama.py, LlamaAttention: assert total_num_kv_heads % tp_size == 0, or the other
    way round

    Proof: source
    """
    kv_heads = weights.config.num_key_value_heads
    if kv_heads % target.tp and target.tp % kv_heads:
        yield Fault(
            f"{kv_heads} key-value heads neither divide by tp {target.tp} nor it by them",
            _other_tp(weights.config),
        )


def features_per_gpu(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """The features that a layer is cut along divide by tp.

    For: vllm, tp

    Source: layers/linear.py, divide(output_size, tp_size) and divide(input_size, tp_size);
    vocab_parallel_embedding.py pads the vocabulary to 64 first

    Proof: source
    """
    for layer in weights.layers:
        if layer.part in KEY_VALUE:
            continue  # their heads have a rule of their own
        by_row = layer.part in ROW_PARALLEL
        count, side = layer.shape_OI[by_row], "input" if by_row else "output"
        if layer.name == OUTPUT_LAYER:
            count += -count % VOCABULARY_MULTIPLE
        if count % target.tp:
            yield Fault(
                f"{layer.kind} has {count} {side} features, which do not divide by tp {target.tp}",
                _other_tp(weights.config),
            )


def group_per_gpu(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """No group of input features lies on two GPUs.

    For: vllm

    Source: kernels/linear/mixed_precision/marlin.py, can_implement: "A group straddling TP ranks
    cannot be fixed by padding"; vllm/distributed/utils.py, verify_group_size_divides_partition,
    asked by compressed_tensors_wNa16.py. Machete (Hopper) does not look, and auto_gptq.py would
    then cut the scales at wrong places

    Proof: kernel choice
    """
    for layer, scheme in weights.integers():
        in_features = weights.shard_shape(layer, target.tp)[1]
        if scheme.group_size > 0 and in_features % scheme.group_size:
            fitting = [size for size in GROUP_SIZES if in_features % size == 0]
            size = fitting[0] if fitting else -1
            yield Fault(
                f"{layer.kind} has {in_features} input features per GPU, not a multiple of "
                f"group_size {scheme.group_size}",
                f"set group_size: {size} for these layers (overrides), or another tp",
            )


def words_per_gpu(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """A GPU's part of a layer is whole 32-bit words of integers.

    For: vllm, tp

    Source: layers/quantization/auto_gptq.py, create_weights: input_size_per_partition //
    pack_factor, and output_size_per_partition // pack_factor for zero points; vllm
    model_executor/parameter.py cuts packed parameters at such places

    Proof: source
    """
    if target.tp == 1:
        return  # the checkpoint's own words
    for layer, scheme in weights.integers():
        shard_OI = weights.shard_shape(layer, target.tp)
        by_row = layer.part in ROW_PARALLEL
        has_zero_points = weights.format == "gptq" or not scheme.sym
        if not by_row and not has_zero_points:
            continue
        count, side = shard_OI[by_row], "input" if by_row else "output"
        if count * scheme.bits % WORD_BITS:
            yield Fault(
                f"{layer.kind} has {count} {side} features per GPU, not a multiple of "
                f"{WORD_BITS // scheme.bits}, as {scheme.bits}-bit integers need",
                "set another tp, or leave these layers out (overrides, skip: true)",
            )


def cpu_shapes(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """On a CPU input and output features, of fused layers together, are multiples of 32.

    For: vllm, device cpu

    Source: kernels/linear/mixed_precision/cpu.py, can_implement: "Input size (528) not supported
    by CPUWNA16, supported sizes are multiples of 32"

    Proof: cpu
    """
    if target.device != "cpu":
        return
    shapes = weights.loaded_shapes(target.tp)
    for layer, _ in weights.integers():
        for side, count in zip(("output", "input"), shapes[layer.name], strict=True):
            if count % CPU_MULTIPLE:
                yield Fault(
                    f"{count} {side} features, of fused layers together, are not a multiple of "
                    f"{CPU_MULTIPLE}",
                    "leave these layers out (overrides, skip: true), or set device: cuda",
                    layer.kind,
                )


def gptq_vocabulary(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """In format gptq a quantised lm_head has a vocabulary of whole 64s.

    For: vllm, format gptq, lm_head

    Source: layers/vocab_parallel_embedding.py, weight_loader: a padded vocabulary is filled up
    along the first axis, which in gptq's qweight is the input

    Proof: cpu
    """
    del target
    for layer, _ in weights.integers():
        vocabulary = layer.shape_OI[0]
        if (
            weights.format == "gptq"
            and layer.name == OUTPUT_LAYER
            and vocabulary % VOCABULARY_MULTIPLE
        ):
            yield Fault(
                f"lm_head: a vocabulary of {vocabulary} is not a multiple of "
                f"{VOCABULARY_MULTIPLE}, as format gptq needs",
                "set lm_head: false, or format: compressed-tensors",
            )


def context_length(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """max_model_len is no longer than the model's positions, linear and dynamic RoPE stretched.

    For: all runtimes

    Source: vllm/config/model.py, _get_and_verify_max_len; ONNX graphs and engines are built beyond
    them without a word (measured with TensorRT-RTX 1.7)

    Proof: cpu (configuration)
    """
    limit = longest_context(weights.config)
    if target.max_model_len is not None and target.max_model_len > limit:
        yield Fault(
            f"max_model_len {target.max_model_len} exceeds the model's {limit} positions",
            f"set max_model_len: {limit} or less",
        )


def _other_tp(config: ModelConfig) -> str:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    fitting = [tp for tp in USUAL_TP if not heads % tp and (not kv_heads % tp or not tp % kv_heads)]
    return f"set tp: {' or '.join(map(str, fitting))}"


SHAPE_RULES: tuple[Rule, ...] = (
    context_length,
    heads_per_gpu,
    key_value_heads_per_gpu,
    features_per_gpu,
    group_per_gpu,
    words_per_gpu,
    cpu_shapes,
    gptq_vocabulary,
)
