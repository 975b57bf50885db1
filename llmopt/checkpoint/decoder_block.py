"""A decoder block taken apart at the inputs of its linear layers.

The block of Llama, Mistral, Qwen2 and Qwen3 is

    h = x + o_proj(context(input_layernorm(x)));  y = h + down_proj(inner(post_norm(h)))

and that of Mixtral and Qwen3-MoE has y = h + mixture(post_norm(h)).

Shapes: B = batch, T = tokens, D = hidden size, A = heads * head_dim, F = intermediate size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from llmopt.checkpoint.expert_mixture import ExpertMixture
from llmopt.checkpoint.streamed_model import StreamedModel


class DecoderBlock:
    """One block's weights and the pieces of its forward pass.

    Args:
        model: The model to read from.
        index: Which block.
        max_tokens: Tokens per row of the longest activations that will be passed.

    Attributes:
        experts: The block's mixture; None where it has a plain MLP.
    """

    def __init__(self, model: StreamedModel, index: int, max_tokens: int) -> None:
        module: Any = model.load_block(index)
        self._model = model
        self._index = index
        self._module = module
        self._positions = model.position_embeddings(max_tokens)
        config = model.checkpoint.config
        experts = config.experts_in(index)
        self.experts = None if experts is None else ExpertMixture(module.mlp, experts)
        self._linears = {
            layer: module.get_submodule(layer)
            for stage in config.stages(index)
            for layer in stage.layers
            if stage.expert is None
        }
        # The modules then return what these two layers would have been given.
        module.self_attn.o_proj = nn.Identity()
        if self.experts is None:
            module.mlp.down_proj = nn.Identity()

    def linear(self, name: str) -> nn.Linear:
        """Returns a linear layer by its name inside the block, such as `mlp.up_proj`."""
        layer = self._linears[name]
        assert isinstance(layer, nn.Linear)
        return layer

    def weight(self, name: str) -> Tensor:
        """Returns a layer's weight [O, I] by its name on disk inside the block, experts too."""
        if name in self._linears:
            return self.linear(name).weight
        assert self.experts is not None
        return self.experts.weight(name)

    def replace_weight(self, name: str, weight_OI: Tensor) -> None:
        """Puts another weight into a linear layer."""
        if name in self._linears:
            self._linears[name].weight = nn.Parameter(weight_OI, requires_grad=False)
        else:
            assert self.experts is not None
            self.experts.replace_weight(name, weight_OI)

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
        """Returns what gate and up, or the mixture, read, [B, T, D]."""
        return self._as_tensor(self._module.post_attention_layernorm(hidden_BTD))

    def mlp_inner(self, hidden_BTD: Tensor) -> Tensor:
        """Returns what the down projection of a plain MLP reads, [B, T, F]."""
        return self._as_tensor(self._module.mlp(self.mlp_input(hidden_BTD)))

    def add_mlp(self, hidden_BTD: Tensor, inner_BTF: Tensor) -> Tensor:
        """Returns the output of a block with a plain MLP, [B, T, D]."""
        return hidden_BTD + self.linear("mlp.down_proj").forward(inner_BTF)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Runs the whole block, [B, T, D]."""
        middle = self.add_attention(hidden_BTD, self.attention_context(hidden_BTD))
        if self.experts is not None:
            return middle + self.experts.forward(self.mlp_input(middle))
        return self.add_mlp(middle, self.mlp_inner(middle))

    @staticmethod
    def _as_tensor(value: Any) -> Tensor:
        assert isinstance(value, torch.Tensor)
        return value
