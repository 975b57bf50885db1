"""Rough needs of a quantisation, from config.json's shapes alone."""

from typing import TYPE_CHECKING

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.model_config import DECODER_STAGES
from llmopt.checkpoint.sidecar_files import list_sidecars
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.errors import InputError
from llmopt.steps.base import Estimate, StepInputs

if TYPE_CHECKING:
    from llmopt.steps.quantize_fields import QuantizeFields

DEFAULT_TOKENS = 64 * 512
LIBRARIES_BYTES = 700_000_000  # torch, transformers and their buffers
SOLVE_COPIES = 5  # float32 copies of a stage's weights alive in a solve: W, E, rounded, steps, cut
HESSIAN_COPIES = 4  # sum, permuted, damped, factor
ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def estimate_quantization(step: "QuantizeFields", inputs: StepInputs) -> Estimate | None:
    """Estimates RAM, disk and arithmetic of a quantisation; None for a model not yet made."""
    if not inputs["model"].path.exists():
        return None
    try:
        checkpoint = Checkpoint.open(inputs["model"].path)
    except InputError:
        return None
    config = checkpoint.config
    shapes = config.linear_shapes()
    tokens = _count_tokens(inputs["data"].dataset) if "data" in inputs else 0
    item_bytes = ITEM_BYTES[checkpoint.dtype]
    widest = max(config.intermediate_size, config.hidden_size)
    activations = tokens * (2 * config.hidden_size + widest) * item_bytes
    stage_weights = max(sum(_size(shapes[n]) for n in stage.layers) for stage in DECODER_STAGES)
    block_weights = sum(_size(shape) for shape in shapes.values())
    held = min(activations, int(step.activation_memory_gb * 1e9))
    ram_bytes = (
        LIBRARIES_BYTES
        + held
        + block_weights * item_bytes
        + SOLVE_COPIES * 4 * stage_weights
        + HESSIAN_COPIES * 4 * widest**2
        + config.vocab_size * config.hidden_size * item_bytes
    )
    linears = config.num_hidden_layers * block_weights
    packed = config.num_hidden_layers * sum(
        _packed_bytes(step.scheme, shape, item_bytes) for shape in shapes.values()
    )
    outside = checkpoint.weight_bytes() - linears * item_bytes
    outside += sum(path.stat().st_size for path in list_sidecars(checkpoint.folder))
    spilled = activations - held
    disk_bytes = 2 * packed + outside + 2 * tokens * config.hidden_size * item_bytes + spilled
    per_block = sum(
        2 * tokens * sum(_size(shapes[n]) for n in stage.layers)
        + tokens * shapes[stage.layers[0]][1] ** 2
        for stage in DECODER_STAGES
    )
    return Estimate(ram_bytes, disk_bytes, float(config.num_hidden_layers * per_block))


def _size(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]


def _packed_bytes(scheme: QuantScheme, shape: tuple[int, int], item_bytes: int) -> int:
    """Integers, then a scale and a zero point per group and row, and `g_idx`."""
    out_features, in_features = shape
    groups = out_features * scheme.num_groups(in_features)
    integer_bits = scheme.bits * (_size(shape) + groups)
    return integer_bits // 8 + groups * item_bytes + 4 * in_features


def _count_tokens(spec: DatasetSpec | None) -> int:
    if spec is None:
        return DEFAULT_TOKENS
    return (spec.samples or 64) * (spec.seq_len or 512)
