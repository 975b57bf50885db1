"""A model's config.json, read without transformers: what preflight and planning need."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmopt.errors import InputError

# Families whose decoder block has the names of DECODER_STAGES; a new one must have a test.
SUPPORTED_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


BLOCK_PREFIX = re.compile(r"^model\.layers\.\d+\.")


@dataclass(frozen=True)
class Stage:
    """Linear layers of a decoder block that read one and the same input."""

    name: str
    layers: tuple[str, ...]


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
    whole file, for the fields that only a writer passes through.
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

    @property
    def quantization(self) -> Mapping[str, Any] | None:
        """The `quantization_config`, where the checkpoint is quantised."""
        value = self.raw.get("quantization_config") or self.raw.get("compression_config")
        return value if isinstance(value, Mapping) else None

    @property
    def embedding_shape(self) -> tuple[int, int]:
        """The shape of the embeddings and of `lm_head`, (V, D)."""
        return self.vocab_size, self.hidden_size

    def linear_shapes(self, block: int = 0) -> dict[str, tuple[int, int]]:
        """Returns a block's linear layers as name → (out_features, in_features), in order."""
        del block
        attention = self.num_attention_heads * self.head_dim
        key_value = self.num_key_value_heads * self.head_dim
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "self_attn.q_proj": (attention, hidden),
            "self_attn.k_proj": (key_value, hidden),
            "self_attn.v_proj": (key_value, hidden),
            "self_attn.o_proj": (hidden, attention),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }

    def biased_linears(self) -> frozenset[str]:
        """Returns the block's linear layers that carry a bias in this family."""
        attention = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}
        if self.model_type == "qwen2":
            return frozenset(attention)
        biased: set[str] = set()
        if self.model_type in ("llama", "qwen3") and self.raw.get("attention_bias"):
            biased |= attention | {"self_attn.o_proj"}
        if self.model_type == "llama" and self.raw.get("mlp_bias"):
            biased |= {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
        return frozenset(biased)

    def norm_shapes(self, block: int = 0) -> dict[str, tuple[int, ...]]:
        """Returns a block's normalisation weights as name → shape."""
        del block
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (self.hidden_size,),
            "post_attention_layernorm.weight": (self.hidden_size,),
        }
        if self.model_type == "qwen3":
            shapes["self_attn.q_norm.weight"] = (self.head_dim,)
            shapes["self_attn.k_norm.weight"] = (self.head_dim,)
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


def describe_kind(name: str) -> str:
    """Returns a layer's name without its block, as messages that hold for all blocks use it."""
    return BLOCK_PREFIX.sub("", name)


def read_model_config(folder: Path) -> ModelConfig:
    """Reads config.json of a supported decoder family.

    Raises:
        InputError: No such folder or file, no valid JSON, an architecture that is not
            supported, or a field that is missing or impossible.
    """
    raw = _read_json(folder)
    model_type = raw.get("model_type")
    if model_type not in SUPPORTED_MODEL_TYPES:
        named = raw.get("architectures")
        architecture = named[0] if isinstance(named, list) and named else "none named"
        raise InputError(
            f"{folder / 'config.json'}: architecture {architecture} (model_type "
            f"{model_type!r}) is not supported; supported: {', '.join(SUPPORTED_MODEL_TYPES)}"
        )
    heads = _positive(folder, raw, "num_attention_heads")
    hidden = _positive(folder, raw, "hidden_size")
    return ModelConfig(
        folder=folder,
        model_type=str(model_type),
        hidden_size=hidden,
        intermediate_size=_positive(folder, raw, "intermediate_size"),
        num_hidden_layers=_positive(folder, raw, "num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=_positive(folder, raw, "num_key_value_heads", default=heads),
        head_dim=_positive(folder, raw, "head_dim", default=_default_head_dim(raw, hidden, heads)),
        vocab_size=_positive(folder, raw, "vocab_size"),
        max_position_embeddings=_positive(folder, raw, "max_position_embeddings", default=2048),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        dtype=raw.get("dtype") or raw.get("torch_dtype"),
        raw=raw,
    )


def _default_head_dim(raw: Mapping[str, Any], hidden: int, heads: int) -> int:
    # transformers' Qwen3Config defaults to 128 whatever the hidden size; the others divide.
    return 128 if raw.get("model_type") == "qwen3" else max(hidden // heads, 1)


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not folder.is_dir():
        raise InputError(f"model folder {folder} does not exist")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} is no model folder: it holds no config.json") from None
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path} holds {type(raw).__name__}, not a JSON object")
    return raw


def _positive(folder: Path, raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{folder / 'config.json'}: {key} is {value!r}, not a positive integer")
    return value
