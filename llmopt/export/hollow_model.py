"""Models whose weights have shapes and no memory, to be traced.

A trace reads no weight, so an export needs the memory of one tensor at a time, not of the model.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.errors import IncompatibleError
from llmopt.export.grouped_attention import register_grouped_attention

DECODER_PREFIX = "model."  # what the wrappers below call the model of transformers
CHANGING_ROPE = ("dynamic", "longrope")  # frequencies that go by the length of a request


def build_hollow_decoder(streamed: StreamedModel) -> Any:
    """Builds a decoder of transformers whose parameters are single zeros, expanded to their shape.

    Raises:
        IncompatibleError: Its rotary frequencies change with the length of a request, which a
            graph can't follow.
    """
    rope = getattr(streamed.config, "rope_parameters", None) or {}
    if rope.get("rope_type") in CHANGING_ROPE:
        raise IncompatibleError(
            f"rope_type {rope['rope_type']!r} changes its frequencies with the length of a "
            "request; an ONNX graph has fixed ones",
            remedy="serve this model with vLLM, or set a fixed rope_type (llama3, linear, yarn)",
        )
    shell = streamed.build_shell()
    shell.set_attn_implementation(register_grouped_attention())
    shell.load_state_dict(_expand_zeros(shell), assign=True)
    shell.model.rotary_emb = streamed.build_rotary()
    if streamed.checkpoint.config.tie_word_embeddings:
        shell.lm_head.weight = shell.model.embed_tokens.weight
    return shell.requires_grad_(requires_grad=False)


def _expand_zeros(shell: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros(1, dtype=tensor.dtype).expand(tensor.shape)
        for name, tensor in shell.state_dict().items()
    }


class CachedDecoder(nn.Module):
    """A decoder with its key-value cache as flat tensors, key and value of each block in turn.

    Shapes: B = batch, T = tokens, P = past tokens, K = key-value heads, H = head size.
    """

    def __init__(self, model: Any, *, last_token_logits: bool) -> None:
        super().__init__()
        self.model = model
        self.logits_to_keep = int(last_token_logits)

    def forward(
        self,
        input_ids_BT: Tensor,
        attention_mask_BL: Tensor,
        position_ids_BT: Tensor,
        past_BKPH: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """Returns logits, then key and value of each block, past and new tokens together."""
        cache = DynamicCache(ddp_cache_data=list(zip(past_BKPH[::2], past_BKPH[1::2], strict=True)))
        output = self.model(
            input_ids=input_ids_BT,
            attention_mask=attention_mask_BL,
            position_ids=position_ids_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=self.logits_to_keep,
        )
        present = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        return (output.logits, *present)


class PlainDecoder(nn.Module):
    """A decoder without a cache; positions count each row's own tokens."""

    def __init__(self, model: Any, *, last_token_logits: bool) -> None:
        super().__init__()
        self.model = model
        self.logits_to_keep = int(last_token_logits)

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Returns logits."""
        logits: Tensor = self.model(
            input_ids=input_ids_BT,
            attention_mask=attention_mask_BT,
            position_ids=(attention_mask_BT.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=self.logits_to_keep,
        ).logits
        return logits


class MaskedPositionEncoder(nn.Module):
    """A masked language model whose head runs on one position of each row."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor,
        token_type_ids_BT: Tensor,
        masked_positions_B: Tensor,
    ) -> Tensor:
        """Returns logits, [B, V]."""
        hidden_BTH = self.model.bert(
            input_ids=input_ids_BT,
            attention_mask=attention_mask_BT,
            token_type_ids=token_type_ids_BT,
        )[0]
        index_B1H = masked_positions_B[:, None, None].expand(-1, 1, hidden_BTH.shape[-1])
        logits_BV: Tensor = self.model.cls(hidden_BTH.gather(1, index_B1H)[:, 0])
        return logits_BV


class Encoder(nn.Module):
    """An encoder: the first of its outputs, logits or the last hidden state."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids_BT: Tensor, attention_mask_BT: Tensor, token_type_ids_BT: Tensor
    ) -> Tensor:
        """Returns the first output."""
        output: Tensor = self.model(
            input_ids=input_ids_BT,
            attention_mask=attention_mask_BT,
            token_type_ids=token_type_ids_BT,
        )[0]
        return output
