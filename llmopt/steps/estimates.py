"""Rough needs of a quantisation, from config.json's shapes alone."""

from typing import TYPE_CHECKING

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.model_config import DECODER_STAGES
from llmopt.checkpoint.packed_size import count_layer_bytes, planned_layers
from llmopt.checkpoint.sidecar_files import list_sidecars
from llmopt.errors import InputError
from llmopt.steps.base import Estimate, StepInputs

if TYPE_CHECKING:
    from llmopt.steps.quantize_fields import QuantizeFields

LIBRARIES_BYTES = 700_000_000  # torch, transformers and their buffers
SOLVE_COPIES = 5  # float32 copies of a stage's weights alive in a solve: W, E, rounded, steps, cut
HESSIAN_COPIES = 6  # sum, permuted, damped, flipped, factor, its transpose
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
    spec = inputs["data"].dataset if "data" in inputs else None
    tokens = 0 if spec is None else spec.num_windows * spec.window_tokens
    item_bytes = ITEM_BYTES[checkpoint.dtype]
    widest = max(config.intermediate_size, config.hidden_size)
    # float16 is computed in float32 on a CPU (docs/adr/0007); a GPU takes less.
    activation_bytes = max(item_bytes, 4) if checkpoint.dtype == "float16" else item_bytes
    activations = tokens * (2 * config.hidden_size + widest) * activation_bytes
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
    plan = step.plan(config)
    packed = sum(
        count_layer_bytes(plan.schemes[name], shape, step.format, checkpoint.dtype)
        for name, shape in planned_layers(config, plan)
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
