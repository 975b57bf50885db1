"""A decoder run one block at a time: only one block's weights are in memory at any moment.

Shapes: B = batch, T = tokens, D = hidden size, V = vocabulary.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.expert_mixture import read_mixture
from llmopt.checkpoint.quant_plan import OUTPUT_WEIGHT
from llmopt.checkpoint.read_ahead import ReadAhead
from llmopt.checkpoint.rounded_inputs import (
    InputRounding,
    RoundedInputExperts,
    RoundedInputLinear,
)
from llmopt.checkpoint.stored_quantization import ChannelLayer
from llmopt.checkpoint.stored_weight import (
    is_stored_weight,
    read_input_scale,
    read_stored_weight,
)
from llmopt.checkpoint.tensor_files import holds_equal_bytes, read_tensor
from llmopt.errors import InputError

EMBEDDINGS = "model.embed_tokens.weight"
WINDOWED_TYPES = ("mistral", "mixtral", "qwen3_moe")  # a window, if there is one, in every block
PositionEmbeddings = tuple[Tensor, Tensor]
# What transformers raises on a config.json that it can make no model of.
CONFIG_ERRORS = (
    AssertionError, AttributeError, ImportError, KeyError, OSError, StrictDataclassError,
    TypeError, ValueError,
)  # fmt: skip


class StreamedModel:
    """The model of a checkpoint: a shell on the meta device into which blocks are read.

    Args:
        checkpoint: Where the weights are; a quantised one is dequantised block by block.
        device: Where blocks are computed.
        compute_dtype: What weights and activations are cast to; default the checkpoint's.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.device = device
        self.compute_dtype = compute_dtype or getattr(torch, checkpoint.dtype)
        self.config = _load_config(checkpoint)
        self._core = self.build_shell().model
        self._rotary = self.build_rotary()
        self._ahead = ReadAhead(device)
        self._mask_kind: tuple[bool, torch.Size, torch.dtype] | None = None
        self._mask: Tensor | None = None

    def build_shell(self) -> Any:
        """Builds the whole model of transformers on the meta device: shapes without weights.

        Raises:
            InputError: transformers can make no model of the config.
        """
        shell = _build_shell(self.checkpoint, self.config, self.compute_dtype)
        return shell.eval().requires_grad_(requires_grad=False)

    def build_rotary(self) -> nn.Module:
        """Builds the rotary embedding, whose buffers are computed, not read, on the device."""
        rotary_class = type(self._core.rotary_emb)
        rotary: nn.Module = rotary_class(config=self.config).to(self.device)
        return rotary

    @property
    def num_blocks(self) -> int:
        """How many decoder blocks there are."""
        return self.checkpoint.config.num_hidden_layers

    def embed(self, batches_BT: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields each batch's token embeddings, [B, T, D]; the table is read once for all."""
        table_VD = self.read_weight(EMBEDDINGS)
        for ids_BT in batches_BT:
            yield nn.functional.embedding(ids_BT.to(self.device), table_VD)

    def load_block(self, block: int) -> nn.Module:
        """Reads one decoder block's weights into a fresh module on the device.

        Raises:
            InputError: A weight is NaN or infinite.
        """
        module: nn.Module = copy.deepcopy(self._core.layers[block])
        prefix = self.checkpoint.config.block_prefix(block)
        experts = self.checkpoint.config.experts_in(block)
        state: dict[str, Tensor] = {}
        if experts is not None:
            state = read_mixture(experts, lambda name: self.read_weight(prefix + name))
        for name, _ in module.named_parameters():
            if name not in state:
                state[name] = self.read_weight(prefix + name)
        module.load_state_dict(state, assign=True)
        self._round_inputs(module, prefix)
        if experts is not None:
            self._round_experts(module, prefix + experts.names.down_of(0))
        return module.requires_grad_(requires_grad=False)

    def _round_inputs(self, module: nn.Module, prefix: str) -> None:
        """Lets layers that are served so round their inputs."""
        quantization = self.checkpoint.quantization
        if quantization is None:
            return
        for name, linear in list(module.named_modules()):
            stored = quantization.find_layer(prefix + name)
            if not isinstance(linear, nn.Linear) or not isinstance(stored, ChannelLayer):
                continue
            if stored.rounds_inputs:
                scale = read_input_scale(self.checkpoint, prefix + name, stored, self.device)
                rounding = InputRounding(stored.format, stored.input_group_size, scale)
                module.set_submodule(name, RoundedInputLinear(linear, rounding))

    def read_ahead(self, block: int) -> None:
        """Begins to read a block's tensors in the background for `load_block`, until `close`."""
        names = self.checkpoint.block_tensor_names(block)
        plain = [name for name in names if not is_stored_weight(self.checkpoint, name)]
        self._ahead.start({name: self.checkpoint.tensors[name] for name in plain})

    def close(self) -> None:
        """Ends what `read_ahead` began."""
        self._ahead.close()

    def _round_experts(self, module: Any, first: str) -> None:
        """Does the same for a mixture, whose experts are stored alike: as the first one is."""
        quantization = self.checkpoint.quantization
        stored = None if quantization is None else quantization.find_layer(first)
        if not isinstance(stored, ChannelLayer) or not stored.rounds_inputs:
            return
        if stored.has_input_scale:
            raise InputError(
                f"{self.checkpoint.folder}: experts whose inputs have a stored scale each are not "
                f"read ({first})",
                remedy="quantise with activation scales by token (FP8_DYNAMIC)",
            )
        rounding = InputRounding(stored.format, stored.input_group_size)
        module.mlp.experts = RoundedInputExperts(module.mlp.experts, rounding)

    def position_embeddings(self, num_tokens: int) -> PositionEmbeddings:
        """Returns the rotary cosines and sines of positions 0..T-1, each [1, T, head_dim]."""
        positions_1T = torch.arange(num_tokens, device=self.device)[None]
        reference = torch.empty(1, dtype=self.compute_dtype, device=self.device)
        cosines, sines = self._rotary(reference, positions_1T)
        return cosines, sines

    def attention_mask(self, block: int, hidden_BTD: Tensor) -> Tensor | None:
        """Returns the block's causal or sliding-window mask; None where plain causal serves."""
        kind = (self._is_sliding(block), hidden_BTD.shape[:2], hidden_BTD.dtype)
        if kind != self._mask_kind:  # building one waits for the device
            self._mask_kind, self._mask = kind, self._build_mask(block, hidden_BTD)
        return self._mask

    def _build_mask(self, block: int, hidden_BTD: Tensor) -> Tensor | None:
        positions_1T = torch.arange(hidden_BTD.shape[1], device=self.device)[None]
        build = create_sliding_window_causal_mask if self._is_sliding(block) else create_causal_mask
        mask: Tensor | None = build(
            config=self.config,
            inputs_embeds=hidden_BTD,
            attention_mask=None,
            past_key_values=None,
            position_ids=positions_1T,
        )
        return mask

    def read_weight(self, name: str) -> Tensor:
        """Reads one tensor onto the device, in the compute dtype; a quantised one is dequantised.

        Raises:
            InputError: It is not there, or holds NaN or infinity.
        """
        if is_stored_weight(self.checkpoint, name):
            layer = name.removesuffix(".weight")
            return read_stored_weight(self.checkpoint, layer, self.device, self.compute_dtype)
        entry = self.checkpoint.tensors[name]
        tensor = self._ahead.take(name)
        tensor = (read_tensor(entry) if tensor is None else tensor).to(self.device)
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{entry.file}: tensor {name} holds NaN or infinity",
                remedy="the checkpoint is damaged or its training diverged; use another one",
            )
        return tensor.to(self.compute_dtype)

    def read_head(self) -> "OutputHead":
        """Reads the final norm and the output projection."""
        tied = self.checkpoint.config.tie_word_embeddings
        require_equal_head(self.checkpoint)
        norm = copy.deepcopy(self._core.norm)
        norm.load_state_dict({"weight": self.read_weight("model.norm.weight")}, assign=True)
        projection = EMBEDDINGS if tied else OUTPUT_WEIGHT
        return OutputHead(norm, self.read_weight(projection))

    def _is_sliding(self, block: int) -> bool:
        layer_types = getattr(self.config, "layer_types", None)
        if layer_types is not None:
            return bool(layer_types[block] == "sliding_attention")
        window = getattr(self.config, "sliding_window", None)
        return self.checkpoint.config.model_type in WINDOWED_TYPES and window is not None


class OutputHead:
    """The final normalisation and the projection onto the vocabulary."""

    def __init__(self, norm: nn.Module, projection_VD: Tensor) -> None:
        self._norm = norm
        self.projection_VD = projection_VD

    def normalize(self, hidden: Tensor) -> Tensor:
        """Returns what the projection reads, of the shape of `hidden`."""
        normalized: Tensor = self._norm(hidden)
        return normalized

    def __call__(self, hidden: Tensor) -> Tensor:
        """Returns logits, the last axis of the input replaced by V."""
        return nn.functional.linear(self.normalize(hidden), self.projection_VD)


def require_equal_head(checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint whose config ties what its weights do not.

    Raises:
        InputError: Embeddings are tied, but another `lm_head.weight` is stored.
    """
    head = checkpoint.tensors.get(OUTPUT_WEIGHT)
    if head is None or not checkpoint.config.tie_word_embeddings:
        return
    if not holds_equal_bytes(head, checkpoint.tensors[EMBEDDINGS]):
        raise InputError(
            f"{checkpoint.folder}: config.json ties the embeddings (tie_word_embeddings), but "
            f"{head.file.name} holds another {OUTPUT_WEIGHT}",
            remedy="set tie_word_embeddings to false, or remove that tensor, whichever is meant",
        )


def _load_config(checkpoint: Checkpoint) -> Any:
    try:
        config = AutoConfig.from_pretrained(
            checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code
        )
    except CONFIG_ERRORS as error:
        raise _rejection(checkpoint, error) from None
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the shell is plain; llmopt dequantises
    return config


def _build_shell(checkpoint: Checkpoint, config: Any, dtype: torch.dtype) -> Any:
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config,
                dtype=dtype,
                # Never what the file asks for: it may name code.
                attn_implementation="sdpa",
                experts_implementation="eager",
                trust_remote_code=checkpoint.trust_remote_code,
            )
    except CONFIG_ERRORS as error:
        raise _rejection(checkpoint, error) from None


def _rejection(checkpoint: Checkpoint, error: Exception) -> InputError:
    path = checkpoint.folder / "config.json"
    return InputError(f"transformers rejects {path}: {type(error).__name__}: {error}")
