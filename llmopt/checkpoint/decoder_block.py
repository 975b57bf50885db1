"""A decoder block taken apart at the inputs of its linear layers.

The block of Llama, Mistral, Qwen2 and Qwen3 is

    h = x + o_proj(context(input_layernorm(x)));  y = h + down_proj(inner(post_norm(h)))

Shapes: B = batch, T = tokens, D = hidden size, A = heads * head_dim, F = intermediate size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from llmopt.checkpoint.streamed_model import StreamedModel


class DecoderBlock:
    """One block's weights and the pieces of its forward pass.

    Args:
        model: The model to read from.
        index: Which block.
        max_tokens: Tokens per row of the longest activations that will be passed.
    """

    def __init__(self, model: StreamedModel, index: int, max_tokens: int) -> None:
        module: Any = model.load_block(index)
        self._model = model
        self._index = index
        self._module = module
        self._positions = model.position_embeddings(max_tokens)
        self._linears = {
            name: module.get_submodule(name) for name in model.checkpoint.config.linear_shapes()
        }
        # The modules then return what these two layers would have been given.
        module.self_attn.o_proj = nn.Identity()
        module.mlp.down_proj = nn.Identity()

    def linear(self, name: str) -> nn.Linear:
        """Returns a linear layer by its name inside the block, such as `mlp.up_proj`."""
        layer = self._linears[name]
        assert isinstance(layer, nn.Linear)
        return layer

    def replace_weight(self, name: str, weight_OI: Tensor) -> None:
        """Puts another weight into a linear layer."""
        self._linears[name].weight = nn.Parameter(weight_OI, requires_grad=False)

    def attention_input(self, hidden_BTD: Tensor) -> Tensor:
        """Returns what q, k and v read, [B, T, D]."""
        return self._as_tensor(self._module.input_layernorm(hidden_BTD))

    def attention_context(self, hidden_BTD: Tensor) -> Tensor:
        """Returns what the output projection reads, [B, T, A]."""
        cosines, sines = (table[:, : hidden_BTD.shape[1]] for table in self._positions)
        context = self._module.self_attn(
            hidden_states=self.attention_input(hidden_BTD),
            position_embeddings=(cosines, sines),
            attention_mask=self._model.attention_mask(self._index, hidden_BTD),
        )[0]
        return self._as_tensor(context)

    def add_attention(self, hidden_BTD: Tensor, context_BTA: Tensor) -> Tensor:
        """Returns the residual stream after attention, [B, T, D]."""
        return hidden_BTD + self.linear("self_attn.o_proj").forward(context_BTA)

    def mlp_input(self, hidden_BTD: Tensor) -> Tensor:
        """Returns what gate and up read, [B, T, D]."""
        return self._as_tensor(self._module.post_attention_layernorm(hidden_BTD))

    def mlp_inner(self, hidden_BTD: Tensor) -> Tensor:
        """Returns what the down projection reads, [B, T, F]."""
        return self._as_tensor(self._module.mlp(self.mlp_input(hidden_BTD)))

    def add_mlp(self, hidden_BTD: Tensor, inner_BTF: Tensor) -> Tensor:
        """Returns the block's output, [B, T, D]."""
        return hidden_BTD + self.linear("mlp.down_proj").forward(inner_BTF)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Runs the whole block, [B, T, D]."""
        middle = self.add_attention(hidden_BTD, self.attention_context(hidden_BTD))
        return self.add_mlp(middle, self.mlp_inner(middle))

    @staticmethod
    def _as_tensor(value: Any) -> Tensor:
        assert isinstance(value, torch.Tensor)
        return value
