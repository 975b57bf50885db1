"""A model's config.json, read without transformers: what preflight and planning need."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmopt.checkpoint.experts_config import (
    ExpertsConfig,
    mask_expert,
    positive_figure,
    read_experts_config,
)
from llmopt.errors import InputError

# Families whose attention has the names of DECODER_STAGES, and whose MLP has them too or is a
# mixture that experts_config knows; a new one must have a test.
SUPPORTED_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe")

COPY_REMEDY = "copy it from its source again"
BLOCK_PREFIX = re.compile(r"^model\.layers\.\d+\.")


@dataclass(frozen=True)
class Stage:
    """Linear layers of a decoder block that read one and the same input.

    `expert` is the number of the expert that they belong to, None outside a mixture.
    """

    name: str
    layers: tuple[str, ...]
    expert: int | None = None


# The stages of a dense block; a block of experts has the first two and two for each expert.
DECODER_STAGES = (
    Stage("qkv", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Stage("attention_output", ("self_attn.o_proj",)),
    Stage("gate_up", ("mlp.gate_proj", "mlp.up_proj")),
    Stage("down", ("mlp.down_proj",)),
)


@dataclass(frozen=True)
class ModelConfig:
    """The figures of a decoder-only model, from its config.json.

    `dtype` is the config's own word ("bfloat16"), None where it names none. `raw` is the
    whole file, for the fields that only a writer passes through. `experts` is None for a
    dense model.
    """

    folder: Path
    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    dtype: str | None
    raw: Mapping[str, Any]
    experts: ExpertsConfig | None = None

    @property
    def quantization(self) -> Mapping[str, Any] | None:
        """The `quantization_config`, where the checkpoint is quantised."""
        value = self.raw.get("quantization_config") or self.raw.get("compression_config")
        return value if isinstance(value, Mapping) else None

    @property
    def embedding_shape(self) -> tuple[int, int]:
        """The shape of the embeddings and of `lm_head`, (V, D)."""
        return self.vocab_size, self.hidden_size

    def experts_in(self, block: int) -> ExpertsConfig | None:
        """Returns the mixture of a block, None where it has a plain MLP."""
        experts = self.experts
        return None if experts is None or block in experts.dense_blocks else experts

    def stages(self, block: int) -> tuple[Stage, ...]:
        """Returns a block's linear layers by the input that they read, in order."""
        experts = self.experts_in(block)
        if experts is None:
            return DECODER_STAGES
        return DECODER_STAGES[:2] + tuple(
            stage
            for expert in range(experts.num_experts)
            for stage in expert_stages(experts, expert)
        )

    def linear_shapes(self, block: int = 0) -> dict[str, tuple[int, int]]:
        """Returns a block's linear layers as name → (out_features, in_features), in order.

        A router is none of them: it is never rounded.
        """
        attention = self.num_attention_heads * self.head_dim
        key_value = self.num_key_value_heads * self.head_dim
        hidden = self.hidden_size
        shapes = {
            "self_attn.q_proj": (attention, hidden),
            "self_attn.k_proj": (key_value, hidden),
            "self_attn.v_proj": (key_value, hidden),
            "self_attn.o_proj": (hidden, attention),
        }
        experts = self.experts_in(block)
        inner = self.intermediate_size if experts is None else experts.inner_size
        for gate_up, down in _pair_stages(self.stages(block)[2:]):
            shapes |= dict.fromkeys(gate_up.layers, (inner, hidden))
            shapes |= dict.fromkeys(down.layers, (hidden, inner))
        return shapes

    def biased_linears(self) -> frozenset[str]:
        """Returns the block's linear layers that carry a bias in this family."""
        attention = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}
        if self.model_type == "qwen2":
            return frozenset(attention)
        biased: set[str] = set()
        if self.model_type in ("llama", "qwen3", "qwen3_moe") and self.raw.get("attention_bias"):
            biased |= attention | {"self_attn.o_proj"}
        if self.model_type == "llama" and self.raw.get("mlp_bias"):
            biased |= {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
        return frozenset(biased)

    def kept_shapes(self, block: int) -> dict[str, tuple[int, ...]]:
        """Returns a block's norms, and its router if it has one, as name → shape."""
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (self.hidden_size,),
            "post_attention_layernorm.weight": (self.hidden_size,),
        }
        if self.model_type in ("qwen3", "qwen3_moe"):
            shapes["self_attn.q_norm.weight"] = (self.head_dim,)
            shapes["self_attn.k_norm.weight"] = (self.head_dim,)
        experts = self.experts_in(block)
        if experts is not None:
            shapes[f"{experts.names.router}.weight"] = experts.router_shape(self.hidden_size)
        return shapes

    def outer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the tensors outside the blocks, but for `lm_head`, as name → shape."""
        return {
            "model.embed_tokens.weight": self.embedding_shape,
            "model.norm.weight": (self.hidden_size,),
        }

    def block_prefix(self, block: int) -> str:
        """Returns the prefix of a block's tensor names, with its final dot."""
        return f"model.layers.{block}."


def expert_stages(experts: ExpertsConfig, expert: int) -> tuple[Stage, Stage]:
    """Returns the two stages of one expert: gate and up, then down."""
    prefix = f"{experts.names.fused}.{expert}"
    return (
        Stage(f"{prefix}.gate_up", experts.names.gate_up(expert), expert),
        Stage(f"{prefix}.down", (experts.names.down_of(expert),), expert),
    )


def _pair_stages(stages: tuple[Stage, ...]) -> Iterator[tuple[Stage, Stage]]:
    yield from zip(stages[::2], stages[1::2], strict=True)


def describe_kind(name: str) -> str:
    """Returns a layer's name without its block and expert, for messages that hold for all."""
    return mask_expert(BLOCK_PREFIX.sub("", name))


def read_model_config(folder: Path) -> ModelConfig:
    """Reads config.json of a supported decoder family.

    Raises:
        InputError: No such folder or file, no valid JSON, an architecture that is not
            supported, or a field that is missing or impossible.
    """
    raw = read_raw_config(folder)
    model_type = raw.get("model_type")
    if model_type not in SUPPORTED_MODEL_TYPES:
        named = raw.get("architectures")
        architecture = named[0] if isinstance(named, list) and named else "none named"
        raise InputError(
            f"{folder / 'config.json'}: architecture {architecture} (model_type "
            f"{model_type!r}) is not supported; supported: {', '.join(SUPPORTED_MODEL_TYPES)}"
        )
    heads = positive_figure(folder, raw, "num_attention_heads")
    hidden = positive_figure(folder, raw, "hidden_size")
    return ModelConfig(
        folder=folder,
        model_type=str(model_type),
        hidden_size=hidden,
        intermediate_size=positive_figure(folder, raw, "intermediate_size"),
        num_hidden_layers=positive_figure(folder, raw, "num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=positive_figure(folder, raw, "num_key_value_heads", default=heads),
        head_dim=positive_figure(
            folder, raw, "head_dim", default=_default_head_dim(raw, hidden, heads)
        ),
        vocab_size=positive_figure(folder, raw, "vocab_size"),
        max_position_embeddings=positive_figure(
            folder, raw, "max_position_embeddings", default=2048
        ),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        dtype=raw.get("dtype") or raw.get("torch_dtype"),
        raw=raw,
        experts=read_experts_config(folder, raw),
    )


def _default_head_dim(raw: Mapping[str, Any], hidden: int, heads: int) -> int:
    # transformers' Qwen3Config defaults to 128 whatever the hidden size; the others divide.
    return 128 if raw.get("model_type") == "qwen3" else max(hidden // heads, 1)


def read_raw_config(folder: Path) -> dict[str, Any]:
    """Reads a model's config.json as it stands.

    Raises:
        InputError: No such folder or file, or no JSON object.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise InputError(f"model folder {folder} does not exist")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder} is no model folder: it holds no config.json",
            remedy="name the folder that holds config.json and the safetensors files",
        ) from None
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise InputError(f"{path} is not valid JSON: {error}", remedy=COPY_REMEDY) from None
    if not isinstance(raw, dict):
        raise InputError(
            f"{path} holds {type(raw).__name__}, not a JSON object", remedy=COPY_REMEDY
        )
    return raw
