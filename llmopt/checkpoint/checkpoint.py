"""A checkpoint folder opened and checked, without torch and without reading a weight."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmopt.checkpoint.model_config import ModelConfig, read_model_config
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, OUTPUT_WEIGHT
from llmopt.checkpoint.quantization_config import parse_quantization_config
from llmopt.checkpoint.safetensors_header import TensorEntry
from llmopt.checkpoint.stored_quantization import StoredQuantization, expected_tensors
from llmopt.checkpoint.weights_index import index_tensors
from llmopt.errors import InputError

FLOAT_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
PACKED_SUFFIXES = (
    ".qweight", ".weight_packed", ".weight_scale", ".weight.absmax",
    ".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4",
)  # fmt: skip
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)  # buffers that old exports stored; recomputed
TOKENIZER_NAMES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True)
class Checkpoint:
    """A decoder's folder: its config, where each tensor lies, and how it is quantised.

    `dtype` is torch's name of the model's dtype: "bfloat16", "float16" or "float32".
    """

    folder: Path
    config: ModelConfig
    tensors: dict[str, TensorEntry]
    quantization: StoredQuantization | None
    dtype: str
    trust_remote_code: bool = False

    @classmethod
    def open(cls, folder: Path, *, trust_remote_code: bool = False) -> "Checkpoint":
        """Reads config and headers and holds them against each other.

        Raises:
            InputError: Unsupported architecture, missing or corrupt files, or weights that
                disagree with config.json.
        """
        config = read_model_config(folder)
        tensors = index_tensors(folder)
        quantization = _read_quantization(config, tensors)
        dtype = _find_dtype(config, tensors)
        checkpoint = cls(folder, config, tensors, quantization, dtype, trust_remote_code)
        checkpoint._check_tensors()
        return checkpoint

    def require_unquantized(self) -> None:
        """Refuses a checkpoint whose weights are quantised already.

        Raises:
            InputError: It is quantised.
        """
        if self.quantization is not None:
            raise InputError(
                f"{self.folder} is quantised already ({self.quantization.description})",
                remedy="start from the original checkpoint in bf16, fp16 or fp32",
            )

    def require_tokenizer(self) -> None:
        """Refuses a folder without tokenizer files, or with a broken tokenizer.json.

        Raises:
            InputError: There are none, or it is no JSON object with a model.
        """
        if not any((self.folder / name).exists() for name in TOKENIZER_NAMES):
            raise InputError(
                f"{self.folder} holds no tokenizer ({' or '.join(TOKENIZER_NAMES)})",
                remedy="copy tokenizer.json and tokenizer_config.json beside config.json",
            )
        path = self.folder / TOKENIZER_NAMES[0]
        if path.exists() and not _is_tokenizer(path):
            raise InputError(
                f"{path} is truncated or no tokenizer file", remedy="copy it from its source again"
            )

    def block_tensor_names(self, block: int) -> list[str]:
        """Lists a block's tensors as they are stored, sorted."""
        prefix = self.config.block_prefix(block)
        return sorted(name for name in self.tensors if name.startswith(prefix))

    def weight_bytes(self) -> int:
        """Adds up the tensors' bytes."""
        return sum(entry.num_bytes for entry in self.tensors.values())

    def _expected(self) -> Iterator[tuple[str, tuple[int, ...] | None, str | None]]:
        """Yields every tensor's name, shape where it is known, and, for quantised ones, dtype."""
        config = self.config
        for name, shape in config.outer_shapes().items():
            yield name, shape, None
        for block in range(config.num_hidden_layers):
            prefix = config.block_prefix(block)
            for name, shape in config.kept_shapes(block).items():
                yield prefix + name, shape, None
            for layer in sorted(config.biased_linears()):
                yield f"{prefix}{layer}.bias", (config.linear_shapes(block)[layer][0],), None
        for name, shape_OI in linear_names(config):
            yield from self._expected_linear(name, shape_OI)
        if not config.tie_word_embeddings:
            yield from self._expected_linear(OUTPUT_LAYER, config.embedding_shape)

    def _expected_linear(
        self, name: str, shape_OI: tuple[int, int]
    ) -> Iterator[tuple[str, tuple[int, ...] | None, str | None]]:
        stored = None if self.quantization is None else self.quantization.find_layer(name)
        if stored is None:
            yield f"{name}.weight", shape_OI, None
            return
        scale_dtype = next(k for k, v in FLOAT_DTYPES.items() if v == self.dtype)
        for suffix, (dtype, shape) in expected_tensors(stored, shape_OI, scale_dtype).items():
            yield f"{name}.{suffix}", shape, dtype

    def _check_tensors(self) -> None:
        unseen = set(self.tensors)
        for name, shape, dtype in self._expected():
            entry = self.tensors.get(name)
            if entry is None:
                raise self._disagreement(f"tensor {name} {list(shape or ())} is missing")
            if shape is not None and entry.shape != shape:
                raise self._disagreement(
                    f"tensor {name} has shape {list(entry.shape)}, expected {list(shape)}"
                )
            # Scales may be of any float dtype: other tools do not always use the model's.
            allowed = FLOAT_DTYPES if dtype is None or dtype in FLOAT_DTYPES else (dtype,)
            if entry.dtype not in allowed:
                raise InputError(
                    f"{entry.file}: tensor {name} is {entry.dtype}; supported: {', '.join(allowed)}"
                )
            unseen.discard(name)
        if self.config.tie_word_embeddings:
            unseen.discard(OUTPUT_WEIGHT)  # some exports store the tied copy
        for name in sorted(unseen):
            if not name.endswith(IGNORED_SUFFIXES):
                raise self._disagreement(f"tensor {name} belongs to no part of the model")

    def _disagreement(self, what: str) -> InputError:
        return InputError(
            f"{self.folder}: config.json and the weights disagree: {what}",
            remedy="check that config.json belongs to these weights",
        )


def _is_tokenizer(path: Path) -> bool:
    # The tokenizers library would raise a bare Exception.
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and isinstance(content.get("model"), dict)


def _read_quantization(
    config: ModelConfig, tensors: dict[str, TensorEntry]
) -> StoredQuantization | None:
    if config.quantization is not None:
        return parse_quantization_config(config.quantization)
    for name in tensors:
        if name.endswith(PACKED_SUFFIXES):
            raise InputError(
                f"{config.folder} is quantised already (it holds {name}), "
                "but its config.json has no quantization_config",
                remedy="start from the original checkpoint in bf16, fp16 or fp32",
            )
    return None


def _find_dtype(config: ModelConfig, tensors: dict[str, TensorEntry]) -> str:
    if config.dtype is not None:
        dtype = str(config.dtype)
    else:
        norm = tensors.get("model.norm.weight")
        dtype = FLOAT_DTYPES.get(norm.dtype, norm.dtype) if norm is not None else "float32"
    if dtype not in FLOAT_DTYPES.values():
        allowed = ", ".join(FLOAT_DTYPES.values())
        raise InputError(f"{config.folder}: dtype {dtype!r} is not supported; supported: {allowed}")
    return dtype


def linear_names(config: ModelConfig) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields every linear layer of the decoder blocks: its full name and (O, I), in order."""
    for block in range(config.num_hidden_layers):
        for layer, shape_OI in config.linear_shapes(block).items():
            yield config.block_prefix(block) + layer, shape_OI


def router_names(config: ModelConfig) -> Iterator[str]:
    """Yields the full name of every mixture's router, in order."""
    for block in range(config.num_hidden_layers):
        experts = config.experts_in(block)
        if experts is not None:
            yield config.block_prefix(block) + experts.names.router
