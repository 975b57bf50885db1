"""Whether a quantised model could be served by vLLM as asked, from config.json's shapes alone.

Rules and their source, vllm-project/vllm:
  - GPTQ checkpoints are symmetric (config time, vLLM 0.32: "Unsupported quantization config:
    bits=4, sym=False"); an asymmetric grid in compressed-tensors is 4 bits
    (utils/marlin_utils.py, query_marlin_supported_quant_types)
  - act-order with groups is refused in both formats (config time, vLLM 0.32: "GPTQ group
    activation ordering (desc_act=True) is no longer supported", the same for actorder='group')
  - on a CPU weight-only kernels take 4 bits (load time, vLLM 0.32: "Quant type (uint8b128) not
    supported by CPUWNA16")
  - per tensor-parallel shard: out_features % 64 == 0, in_features % 128 == 0, and
    in_features % group_size == 0 (utils/marlin_utils.py, verify_marlin_supports_shape)
  - heads must divide by the tensor-parallel size (config/model.py), key-value heads by it or it
    by them (model_executor/models/llama.py, LlamaAttention), and intermediate_size by it
  - all experts of a block are loaded as one (compressed_tensors_moe.py: "All MoE projections need
    to have same quantization scheme"; auto_gptq.py, get_moe_quant_method, asks by one name)
"""

from collections.abc import Iterator

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import linear_names
from llmopt.checkpoint.experts_config import EXPERT_NAMES, EXPERT_NUMBER, mask_expert
from llmopt.checkpoint.model_config import DECODER_STAGES, ModelConfig, describe_kind
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, QuantPlan
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.errors import IncompatibleError
from llmopt.serving.target import Target

OUT_ALIGNMENT = 64
IN_ALIGNMENT = 128
SERVED_BITS = (4, 8)
FUSED_LAYERS = tuple(stage.layers for stage in DECODER_STAGES if len(stage.layers) > 1)
# Sharded along the input; others along the output.
ROW_PARALLEL = (
    "self_attn.o_proj",
    "mlp.down_proj",
    *(mask_expert(names.down_of(0)) for names in EXPERT_NAMES.values()),
)


def check_servable(
    config: ModelConfig, plan: QuantPlan, quant_format: QuantFormat, target: Target
) -> None:
    """Refuses a quantisation that the target could not load.

    Raises:
        IncompatibleError: Names every rule that is broken.
    """
    if target.runtime != "vllm":
        return
    schemes = dict.fromkeys(scheme for _, scheme in plan.rounded())
    faults = dict.fromkeys(
        [
            *(fault for s in schemes for fault in _scheme_faults(s, quant_format, target)),
            *_model_faults(config, target),
            *_fused_faults(plan),
            *_expert_faults(plan),
            *_shard_faults(config, plan, target.tp),
        ]
    )
    if faults:
        place = f"vLLM on {target.gpu or target.device} with tp {target.tp}"
        raise IncompatibleError(f"{place} could not serve this: " + "; ".join(faults))


def _scheme_faults(scheme: QuantScheme, quant_format: QuantFormat, target: Target) -> Iterator[str]:
    if quant_format == "gptq" and not scheme.sym:
        yield "format gptq must be symmetric (set sym: true, or format: compressed-tensors)"
    if quant_format == "compressed-tensors" and not scheme.sym and scheme.bits != 4:
        yield f"an asymmetric grid must have 4 bits, not {scheme.bits}"
    if scheme.has_moved_groups:
        yield "act-order with groups is no longer served (set desc_act: false, or group_size: -1)"
    if scheme.bits not in SERVED_BITS:
        yield f"{scheme.bits} bits are not served, only {' and '.join(map(str, SERVED_BITS))}"
    elif target.device == "cpu" and scheme.bits != 4:
        yield f"weight-only kernels on a CPU take 4 bits, not {scheme.bits}"


def _model_faults(config: ModelConfig, target: Target) -> Iterator[str]:
    limit = config.max_position_embeddings
    if target.max_model_len is not None and target.max_model_len > limit:
        yield f"max_model_len {target.max_model_len} exceeds the model's {limit} positions"
    if config.num_attention_heads % target.tp:
        yield f"{config.num_attention_heads} attention heads do not divide by tp {target.tp}"
    kv_heads = config.num_key_value_heads
    if kv_heads % target.tp and target.tp % kv_heads:
        yield f"{kv_heads} key-value heads neither divide by tp {target.tp} nor it by them"
    if config.intermediate_size % target.tp:
        yield f"intermediate_size {config.intermediate_size} does not divide by tp {target.tp}"
    if config.experts is not None and config.experts.inner_size % target.tp:
        yield f"an expert's size {config.experts.inner_size} does not divide by tp {target.tp}"


def _fused_faults(plan: QuantPlan) -> Iterator[str]:
    """Layers that vLLM loads as one must be stored alike."""
    for name, scheme in plan.schemes.items():
        for first, *others in FUSED_LAYERS:
            prefix = name.removesuffix(first)
            if prefix != name and any(plan.schemes[prefix + other] != scheme for other in others):
                fused = ", ".join((first, *others))
                yield f"{prefix.removesuffix('.')}: {fused} are loaded as one and must be alike"


def _expert_faults(plan: QuantPlan) -> Iterator[str]:
    """Experts that vLLM loads as one must be stored alike, their three matrices too."""
    first: dict[str, QuantScheme | None] = {}
    for name, scheme in plan.schemes.items():
        match = EXPERT_NUMBER.search(name)
        if match is not None and first.setdefault(name[: match.start()], scheme) != scheme:
            yield f"{name[: match.start()]}: experts are loaded as one and must be alike"


def _shard_faults(config: ModelConfig, plan: QuantPlan, tp: int) -> Iterator[str]:
    shapes = {**dict(linear_names(config)), OUTPUT_LAYER: config.embedding_shape}
    for name, scheme in plan.rounded():
        layer = describe_kind(name)
        shard_out, shard_in = shapes[name]
        if layer in ROW_PARALLEL:
            shard_in //= tp
        elif layer not in ("self_attn.k_proj", "self_attn.v_proj"):
            shard_out //= tp
        else:
            shard_out //= min(tp, config.num_key_value_heads)
        if shard_out % OUT_ALIGNMENT:
            yield f"{layer} has {shard_out} output features per GPU, not a multiple of 64"
        if shard_in % IN_ALIGNMENT:
            yield f"{layer} has {shard_in} input features per GPU, not a multiple of 128"
        if scheme.group_size > 0 and shard_in % scheme.group_size:
            yield (
                f"{layer} has {shard_in} input features per GPU, "
                f"not a multiple of group_size {scheme.group_size}"
            )
