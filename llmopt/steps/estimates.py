"""Rough needs of a quantisation, from config.json's shapes alone."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmopt.checkpoint.checkpoint import Checkpoint, linear_names
from llmopt.checkpoint.model_config import ModelConfig
from llmopt.checkpoint.packed_size import count_layer_bytes, planned_layers
from llmopt.checkpoint.sidecar_files import list_sidecars
from llmopt.errors import IncompatibleError, InputError, RecipeError
from llmopt.quant.matrix_units import is_widened, kept_dtype
from llmopt.steps.base import Estimate, StepInputs

if TYPE_CHECKING:
    from llmopt.steps.quantize_fields import QuantizeFields

LIBRARIES_BYTES = 700_000_000  # torch, transformers and their buffers
SOLVE_COPIES = 5  # float32 copies of a stage's weights alive in a solve: W, E, rounded, steps, cut
HESSIAN_COPIES = 3  # the sum, the copy that is factorised, stripes of products
CROSS_COPIES = (
    2  # of asymmetric calibration: the moment of the change, the factor it is solved with
)
PARITY_TOKENS = 100  # of all rows that an export is compared on
ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def estimate_quantization(step: "QuantizeFields", inputs: StepInputs) -> Estimate | None:
    """Estimates RAM, disk and arithmetic; None for a model not yet made or unsuitable."""
    if not inputs["model"].path.exists():
        return None
    try:
        checkpoint = Checkpoint.open(inputs["model"].path)
        plan = step.plan(checkpoint.config)
    except (InputError, IncompatibleError, RecipeError):
        return None
    config = checkpoint.config
    spec = inputs["data"].dataset if "data" in inputs else None
    tokens = 0 if spec is None else spec.num_windows * spec.window_tokens
    item_bytes = ITEM_BYTES[checkpoint.dtype]
    compute_dtype = "float32" if is_widened(checkpoint.dtype) else checkpoint.dtype  # a CPU's
    compute_bytes = ITEM_BYTES[compute_dtype]
    stored_bytes = ITEM_BYTES[kept_dtype(checkpoint.dtype, compute_dtype)]  # between stages
    blocks = {kind: _weigh_block(config, block) for kind, block in _kinds_of_blocks(config).items()}
    # The original's stream, its inputs to a stage and its weights come beside the quantised ones.
    streams = 2 if getattr(step, "asymmetric_strength", 0) else 1
    activations = tokens * max(b.activations_per_token for b in blocks.values()) * stored_bytes
    activations *= streams
    held = min(activations, int(step.activation_memory_gb * 1e9))
    ram_bytes = (
        LIBRARIES_BYTES
        + held
        + max(streams * b.num_weights * compute_bytes + b.solve_bytes for b in blocks.values())
        + (streams - 1) * CROSS_COPIES * 4 * max(b.widest for b in blocks.values()) ** 2
        + config.vocab_size * config.hidden_size * compute_bytes
    )
    decided = dict(planned_layers(config, plan))
    linears = sum(math.prod(shape) for shape in decided.values())
    packed = sum(
        count_layer_bytes(plan.schemes[name], shape, step.format, checkpoint.dtype)
        for name, shape in decided.items()
    )
    outside = checkpoint.weight_bytes() - linears * item_bytes
    outside += sum(path.stat().st_size for path in list_sidecars(checkpoint.folder))
    spilled = activations - held
    stream_bytes = streams * tokens * config.hidden_size * stored_bytes
    disk_bytes = 2 * packed + outside + 2 * stream_bytes + spilled
    passes = streams + (getattr(step, "budget", None) is not None)
    flops = (
        passes
        * tokens
        * sum(
            blocks[_kind_of_block(config, block)].flops_per_token
            for block in range(config.num_hidden_layers)
        )
    )
    return Estimate(int(ram_bytes), int(disk_bytes), float(flops))


def estimate_export(checkpoint: Checkpoint, dtype: str, *, packs: bool) -> Estimate:
    """Estimates an export to ONNX: the file, and onnxruntime, which loads it once to check it.

    Args:
        checkpoint: A decoder.
        dtype: What is computed in.
        packs: Whether integer layers are written as integers.
    """
    config = checkpoint.config
    shapes = dict(linear_names(config))
    item_bytes = ITEM_BYTES[dtype]
    outside = config.vocab_size * config.hidden_size * (2 - config.tie_word_embeddings)
    linears = sum(math.prod(shape) for shape in shapes.values())
    file_bytes = (outside + linears) * item_bytes
    if packs:
        stored = sum(
            entry.num_bytes
            for name, entry in checkpoint.tensors.items()
            if name.rpartition(".")[0] in shapes
        )
        file_bytes = outside * item_bytes + stored
    if dtype == "bfloat16":  # held against PyTorch through a float32 copy, beside it on the disk
        twin = estimate_export(checkpoint, "float32", packs=packs)
        return Estimate(twin.ram_bytes, int(file_bytes) + twin.disk_bytes, twin.flops)
    # onnxruntime holds the weights and, where they are packed anew for its products, once more.
    ram_bytes = LIBRARIES_BYTES + 2 * file_bytes
    passes = 2 * PARITY_TOKENS  # of onnxruntime and of PyTorch
    return Estimate(int(ram_bytes), int(file_bytes), 2.0 * passes * (outside + linears))


@dataclass(frozen=True)
class _BlockNeeds:
    """What one block needs.

    Attributes:
        num_weights: Of its linear layers.
        activations_per_token: Values kept per token.
        solve_bytes: Copies of weights and Hessian in the largest solve, and the block's integers.
        flops_per_token: Forward pass and Hessians.
        widest: Input features of its widest layer.
    """

    num_weights: int
    activations_per_token: float
    solve_bytes: int
    flops_per_token: float
    widest: int


def _weigh_block(config: ModelConfig, block: int) -> _BlockNeeds:
    shapes, experts = config.linear_shapes(block), config.experts_in(block)
    num_weights = sum(math.prod(shape) for shape in shapes.values())
    widest = max(in_features for _, in_features in shapes.values())
    solves, flops = [], 0.0
    for stage in config.stages(block):
        weights = sum(math.prod(shapes[layer]) for layer in stage.layers)
        width = shapes[stage.layers[0]][1]
        solves.append(SOLVE_COPIES * 4 * weights + HESSIAN_COPIES * 4 * width**2)
        share = 1.0  # of the tokens
        if experts is not None and stage.expert is not None:
            share = experts.num_chosen / experts.num_experts
        flops += share * (2 * weights + width**2)
    hidden = config.hidden_size
    # The residual stream, beside it what o_proj reads or, later, what down_proj reads.
    values: float = hidden + max(config.intermediate_size, shapes["self_attn.o_proj"][1])
    if experts is not None:
        inner = experts.inner_size * experts.num_chosen / experts.num_experts
        values = max(3 * hidden + inner, 2 * hidden + shapes["self_attn.o_proj"][1])
    # An integer is a byte until the block is finished; an expert's may be far from the last.
    return _BlockNeeds(num_weights, values, max(solves) + num_weights, flops, widest)


def _kind_of_block(config: ModelConfig, block: int) -> bool:
    return config.experts_in(block) is not None


def _kinds_of_blocks(config: ModelConfig) -> dict[bool, int]:
    """Returns one block of every kind: with experts and without."""
    blocks = range(config.num_hidden_layers)
    return {_kind_of_block(config, block): block for block in blocks}
