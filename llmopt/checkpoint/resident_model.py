"""A whole decoder in memory as a model of transformers, for what blocks can't do: decoding."""

import math
from typing import Any

import psutil
import torch

from llmopt.artifacts.files import format_bytes
from llmopt.checkpoint.checkpoint import Checkpoint, linear_names
from llmopt.checkpoint.model_config import ModelConfig
from llmopt.checkpoint.quant_plan import OUTPUT_WEIGHT
from llmopt.checkpoint.streamed_model import EMBEDDINGS, StreamedModel, require_equal_head
from llmopt.errors import ResourceError

LOGITS_COPIES = 2  # as the head gives them, and in float32


def load_resident_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """Reads every weight of a checkpoint, dequantised, into a model of transformers.

    Args:
        checkpoint: Plain, GPTQ or compressed-tensors.
        device: Where the model is put.
        dtype: What weights and activations are cast to.

    Raises:
        InputError: A weight is NaN or infinite, the config ties embeddings that differ, or
            transformers rejects it.
    """
    require_equal_head(checkpoint)
    streamed = StreamedModel(checkpoint, device, dtype)
    shell = streamed.build_shell()
    for block in range(streamed.num_blocks):
        shell.model.layers[block] = streamed.load_block(block)
    outer = {name: streamed.read_weight(name) for name in checkpoint.config.outer_shapes()}
    tied = checkpoint.config.tie_word_embeddings
    outer[OUTPUT_WEIGHT] = outer[EMBEDDINGS] if tied else streamed.read_weight(OUTPUT_WEIGHT)
    shell.load_state_dict(outer, assign=True, strict=False)
    shell.model.rotary_emb = streamed.build_rotary()
    return shell.requires_grad_(requires_grad=False)


def require_memory(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    rows: int,
    tokens_per_row: int,
) -> None:
    """Refuses a model whose weights, key-value cache and logits do not fit in memory.

    Args:
        checkpoint: The model.
        device: Where it is to run.
        dtype: Of weights and cache.
        rows: Sequences that are decoded together.
        tokens_per_row: Tokens of the longest sequence, prompt and answer.

    Raises:
        ResourceError: Names the estimate and what is free.
    """
    config = checkpoint.config
    cache_values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    cache_bytes = cache_values * rows * tokens_per_row * dtype.itemsize
    logits_bytes = LOGITS_COPIES * rows * config.vocab_size * torch.float32.itemsize
    needed = _count_weights(config) * dtype.itemsize + cache_bytes + logits_bytes
    free = _free_bytes(device)
    if needed > free:
        raise ResourceError(
            f"{checkpoint.folder} needs about {format_bytes(needed)} in "
            f"{str(dtype).removeprefix('torch.')} ({format_bytes(cache_bytes)} of it key-value "
            f"cache); {format_bytes(free)} of {device.type} memory are free",
            remedy="use dtype: bfloat16 or a smaller batch_size; `protocol: likelihood` of "
            "eval.techpack reads the model block by block",
        )


def _count_weights(config: ModelConfig) -> int:
    linears = sum(math.prod(shape_OI) for _, shape_OI in linear_names(config))
    others = sum(
        math.prod(shape)
        for block in range(config.num_hidden_layers)
        for shape in config.kept_shapes(block).values()
    )
    biases = sum(config.linear_shapes()[name][0] for name in config.biased_linears())
    heads = 1 if config.tie_word_embeddings else 2
    outer = heads * math.prod(config.embedding_shape) + config.hidden_size
    return linears + others + config.num_hidden_layers * biases + outer


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
