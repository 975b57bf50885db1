"""Whether a checkpoint folder would load and make sense, llmopt's own or another tool's."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from llmopt.checkpoint.checkpoint import Checkpoint, linear_names
from llmopt.checkpoint.packed_weight import PackedWeight
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER
from llmopt.checkpoint.stored_quantization import StoredLayer
from llmopt.checkpoint.stored_weight import read_packed_weight, read_stored_weight
from llmopt.checkpoint.streamed_model import require_equal_head
from llmopt.checkpoint.tensor_files import read_tensor
from llmopt.errors import InputError

SCHEME_KEYS = ("bits", "group_size", "sym", "desc_act")


@dataclass(frozen=True)
class CheckpointReport:
    """What was looked at, and what was wrong with it.

    Attributes:
        description: One line: architecture, dtype, quantisation.
        num_tensors: How many tensors were read.
        faults: One sentence each; empty where the checkpoint is sound.
    """

    description: str
    num_tensors: int
    faults: list[str]


def verify_checkpoint(folder: Path) -> CheckpointReport:
    """Reads every tensor of a checkpoint once and checks what a loader would rely on.

    Raises:
        InputError: The folder can't even be opened as a checkpoint.
    """
    checkpoint = Checkpoint.open(folder)
    checkpoint.require_tokenizer()
    return CheckpointReport(
        description=_describe(checkpoint),
        num_tensors=len(checkpoint.tensors),
        faults=[
            *_find_config_faults(checkpoint),
            *_find_value_faults(checkpoint),
            *_find_head_faults(checkpoint),
            *_find_packed_faults(checkpoint),
        ],
    )


def _describe(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    text = f"{config.model_type}, {config.num_hidden_layers} blocks, {checkpoint.dtype}"
    if checkpoint.quantization is not None:
        text += f", {checkpoint.quantization.description}"
    return text


def _find_config_faults(checkpoint: Checkpoint) -> Iterator[str]:
    path = checkpoint.folder / "quantize_config.json"
    if not path.exists():
        return
    try:
        other = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        yield f"quantize_config.json is not valid JSON: {error}"
        return
    here = checkpoint.config.quantization or {}
    for key in SCHEME_KEYS:
        if not isinstance(other, dict) or other.get(key) != here.get(key):
            yield f"quantize_config.json and config.json's quantization_config differ in {key}"


def _find_value_faults(checkpoint: Checkpoint) -> Iterator[str]:
    for name, entry in sorted(checkpoint.tensors.items()):
        tensor = read_tensor(entry)
        if tensor.dtype.itemsize == 1 and tensor.is_floating_point():
            tensor = tensor.to(torch.bfloat16)  # torch tells no NaN in float8
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            yield f"{name} holds NaN or infinity"


def _find_head_faults(checkpoint: Checkpoint) -> Iterator[str]:
    try:
        require_equal_head(checkpoint)
    except InputError as error:
        yield error.message


def _packed_layers(checkpoint: Checkpoint) -> Iterator[tuple[str, tuple[int, int]]]:
    assert checkpoint.quantization is not None
    layers = [*linear_names(checkpoint.config)]
    if not checkpoint.config.tie_word_embeddings:
        layers.append((OUTPUT_LAYER, checkpoint.config.embedding_shape))
    for name, shape_OI in layers:
        if checkpoint.quantization.find_layer(name) is not None:
            yield name, shape_OI


def _find_packed_faults(checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.quantization is None:
        return
    for name, shape_OI in _packed_layers(checkpoint):
        if not isinstance(checkpoint.quantization.find_layer(name), StoredLayer):
            yield from _find_layer_faults(checkpoint, name, shape_OI)
            continue
        stored_shape = checkpoint.tensors.get(f"{name}.weight_shape")
        if stored_shape is not None and read_tensor(stored_shape).tolist() != list(shape_OI):
            shape = read_tensor(stored_shape).tolist()
            yield f"{name}: weight_shape is {shape}, config.json says {list(shape_OI)}"
            continue
        try:
            weight = read_packed_weight(checkpoint, name)
        except InputError as error:
            yield error.message
            continue
        yield from _weight_faults(name, weight)


def _find_layer_faults(
    checkpoint: Checkpoint, name: str, shape_OI: tuple[int, int]
) -> Iterator[str]:
    """Faults of a layer that is not of packed integers."""
    try:
        weight = read_stored_weight(checkpoint, name, None, torch.float32)
    except InputError as error:
        yield error.message
        return
    if tuple(weight.shape) != shape_OI:
        yield f"{name}: decodes to {list(weight.shape)}, config.json says {list(shape_OI)}"
    scale = checkpoint.tensors.get(f"{name}.weight_scale")
    if scale is not None and bool((read_tensor(scale) <= 0).any()):
        yield f"{name}: a scale is not positive"


def _weight_faults(name: str, weight: PackedWeight) -> Iterator[str]:
    num_groups = len(weight.scales_GO)
    expected = torch.arange(len(weight.g_idx_I)) // max(weight.scheme.group_size, 1)
    if weight.scheme.group_size > 0 and not weight.scheme.has_moved_groups:
        if not torch.equal(weight.g_idx_I.long(), expected):
            yield f"{name}: g_idx is not in order, but desc_act is false"
    elif weight.scheme.has_moved_groups:
        counts = weight.g_idx_I.long().bincount(minlength=num_groups)
        if int(counts.max()) > weight.scheme.group_size:
            yield f"{name}: a group holds {int(counts.max())} columns"
