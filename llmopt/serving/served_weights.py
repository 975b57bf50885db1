"""What a server would have to load, from shapes alone: each linear layer's storage and bytes.

Every way of quantising describes its result in these words, and preflight knows no other. Shapes:
O = out_features, I = in_features.
"""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import linear_names
from llmopt.checkpoint.experts_config import EXPERT_NAMES, find_mixture
from llmopt.checkpoint.model_config import DECODER_STAGES, ModelConfig, describe_kind
from llmopt.checkpoint.packed_size import count_layer_bytes
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, QuantPlan
from llmopt.checkpoint.stored_quantization import QuantFormat

# plain: as it was; integer: weight-only, by a scheme; the rest: of that name.
Storage = Literal["plain", "integer", "nf4", "fp8", "int8"]
ServedFormat = Literal["plain", "gptq", "compressed-tensors", "bitsandbytes"]
PLAIN_BYTES = 2  # servers compute in 16 bits, whatever the checkpoint was stored in
VOCABULARY_MULTIPLE = 64  # vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE
# Sharded along the input; others along the output.
ROW_PARALLEL = ("o_proj", "down_proj", *(names.down for names in EXPERT_NAMES.values()))
KEY_VALUE = ("k_proj", "v_proj")
STRETCHED = ("linear", "dynamic")
FUSED_PARTS = tuple(
    tuple(name.rpartition(".")[2] for name in stage.layers)
    for stage in DECODER_STAGES
    if len(stage.layers) > 1
)


@dataclass(frozen=True)
class ServedLayer:
    """One linear layer as a server finds it.

    Attributes:
        name: Its full name.
        shape_OI: (out_features, in_features).
        storage: What its weights are stored as.
        scheme: Bits and groups of an integer layer, None for others.
        num_bytes: What its tensors take.
    """

    name: str
    shape_OI: tuple[int, int]
    storage: Storage
    scheme: QuantScheme | None
    num_bytes: int

    @property
    def kind(self) -> str:
        """Its name without its block and expert, as messages that hold for all of them use it."""
        return describe_kind(self.name)

    @property
    def part(self) -> str:
        """The last part of its name."""
        return self.name.rpartition(".")[2]

    @property
    def experts(self) -> str | None:
        """The name of the experts that it belongs to, None for a layer of its own."""
        return find_mixture(self.name)


@dataclass(frozen=True)
class ServedWeights:
    """A model as a server finds it.

    Attributes:
        config: The model's figures.
        format: The checkpoint's quantisation format.
        layers: Every linear layer of the blocks, in order, and `lm_head` where it has weights.
    """

    config: ModelConfig
    format: ServedFormat
    layers: tuple[ServedLayer, ...]

    def rounded(self) -> Iterator[ServedLayer]:
        """Yields the layers that are not plain."""
        yield from (layer for layer in self.layers if layer.storage != "plain")

    def integers(self) -> Iterator[tuple[ServedLayer, QuantScheme]]:
        """Yields the weight-only integer layers and their schemes."""
        for layer in self.layers:
            if layer.scheme is not None:
                yield layer, layer.scheme

    def storages(self) -> set[Storage]:
        """Returns what the rounded layers are stored as."""
        return {layer.storage for layer in self.rounded()}

    def num_shards(self, layer: ServedLayer, tp: int) -> int:
        """Returns into how many different parts a layer is cut; key and value heads may repeat."""
        return min(tp, self.config.num_key_value_heads) if layer.part in KEY_VALUE else tp

    def shard_shape(self, layer: ServedLayer, tp: int) -> tuple[int, int]:
        """Returns the shape of a layer on one of `tp` GPUs, fractions cut off."""
        out_features, in_features = layer.shape_OI
        if layer.part in ROW_PARALLEL:
            return out_features, in_features // tp
        if layer.name == OUTPUT_LAYER:
            out_features += -out_features % VOCABULARY_MULTIPLE
        return out_features // self.num_shards(layer, tp), in_features

    def fused(self) -> Iterator[tuple[str, tuple[ServedLayer, ...]]]:
        """Yields the layers that servers load as one: where they stand, and each of them.

        Experts are loaded as one in another way.
        """
        parents: dict[str, dict[str, ServedLayer]] = {}
        for layer in self.layers:
            if layer.experts is None:
                parents.setdefault(layer.name.rpartition(".")[0], {})[layer.part] = layer
        for parent, layers in parents.items():
            for parts in FUSED_PARTS:
                if parts[0] in layers:
                    yield parent, tuple(layers[part] for part in parts)

    def loaded_shapes(self, tp: int) -> dict[str, tuple[int, int]]:
        """Returns what a GPU's kernel sees for each layer: fused ones stand under one another."""
        shapes = {layer.name: self.shard_shape(layer, tp) for layer in self.layers}
        for _, layers in self.fused():
            together = sum(shapes[layer.name][0] for layer in layers)
            for layer in layers:
                shapes[layer.name] = (together, shapes[layer.name][1])
        return shapes


def describe_plan(config: ModelConfig, plan: QuantPlan, quant_format: QuantFormat) -> ServedWeights:
    """Describes a weight-only integer quantisation.

    Args:
        config: The model.
        plan: A scheme per layer.
        quant_format: What it is written as.
    """

    def describe(name: str, shape_OI: tuple[int, int]) -> ServedLayer:
        scheme = plan.schemes.get(name)
        if scheme is None:
            return _plain_layer(name, shape_OI)
        num_bytes = count_layer_bytes(scheme, shape_OI, quant_format, "bfloat16")
        return ServedLayer(name, shape_OI, "integer", scheme, num_bytes)

    layers = tuple(describe(name, shape_OI) for name, shape_OI in all_layers(config))
    return ServedWeights(config, quant_format, layers)


def describe_uniform(
    config: ModelConfig,
    served_format: ServedFormat,
    storage: Storage,
    rounded: Collection[str],
    count_bytes: Callable[[tuple[int, int]], int],
) -> ServedWeights:
    """Describes a quantisation that stores all its layers in one way.

    Args:
        config: The model.
        served_format: What it is written as.
        storage: What the rounded layers are stored as.
        rounded: Their full names; other layers are plain.
        count_bytes: Says what a rounded layer of a shape (O, I) takes.
    """
    layers = tuple(
        ServedLayer(name, shape_OI, storage, None, count_bytes(shape_OI))
        if name in rounded
        else _plain_layer(name, shape_OI)
        for name, shape_OI in all_layers(config)
    )
    return ServedWeights(config, served_format, layers)


def describe_plain(config: ModelConfig) -> ServedWeights:
    """Describes a model that is served as it is, in 16 bits."""
    return ServedWeights(
        config, "plain", tuple(_plain_layer(name, shape) for name, shape in all_layers(config))
    )


def all_layers(config: ModelConfig) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields every linear layer with weights of its own: full name and (O, I)."""
    yield from linear_names(config)
    if not config.tie_word_embeddings:
        yield OUTPUT_LAYER, config.embedding_shape


def longest_context(config: ModelConfig) -> int:
    """Returns the positions that a model is made for, with what its rotary embeddings stretch.

    Source: vllm/config/model.py, _get_and_verify_max_len: max_position_embeddings, times the
    factor of linear and dynamic scaling; other kinds have it in there already.
    """
    rope = config.raw.get("rope_parameters") or config.raw.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type")
    factor = rope.get("factor") if kind in STRETCHED else None
    return int(config.max_position_embeddings * (factor or 1))


def _plain_layer(name: str, shape_OI: tuple[int, int]) -> ServedLayer:
    return ServedLayer(name, shape_OI, "plain", None, PLAIN_BYTES * math.prod(shape_OI))
