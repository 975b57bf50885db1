"""The experts of one decoder block: their weights, their router, and the pieces of their forward.

transformers 5 holds all experts of a block in two fused tensors, gate and up stacked in one. The
matrices that checkpoints name are views of them here.

Shapes: N = tokens, K = experts per token, E = experts, D = hidden size, F = an expert's inner
size, n = tokens that go through one expert.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmopt.checkpoint.experts_config import ExpertsConfig
from llmopt.checkpoint.rounded_inputs import RoundedInputExperts

ROUTER = "mlp.gate.weight"  # transformers' names in memory, the same for both families
GATE_UP = "mlp.experts.gate_up_proj"
DOWN = "mlp.experts.down_proj"


@dataclass(frozen=True)
class Routing:
    """Which experts each token goes through, [N, K], and what their outputs are weighted by."""

    chosen_NK: Tensor
    weights_NK: Tensor

    def find_tokens(self, expert: int) -> tuple[Tensor, Tensor]:
        """Returns the tokens that an expert sees, [n], ascending, and their weights, [n, 1]."""
        tokens_n, places_n = torch.where(self.chosen_NK == expert)
        return tokens_n, self.weights_NK[tokens_n, places_n, None]


class ExpertMixture:
    """The mixture of a block that was read into a module of transformers.

    Args:
        module: The block's mixture.
        config: Its figures and names.
    """

    def __init__(self, module: Any, config: ExpertsConfig) -> None:
        self.config = config
        self._module = module
        self._weights = dict(_name_views(module, config))

    def weight(self, name: str) -> Tensor:
        """Returns a matrix by its name inside the block, such as `mlp.experts.3.up_proj`."""
        return self._weights[name]

    def replace_weight(self, name: str, weight_OI: Tensor) -> None:
        """Writes another weight over one of the matrices."""
        self._weights[name].copy_(weight_OI)

    def route(self, X_ND: Tensor) -> Routing:
        """Lets the router choose, as transformers does it."""
        _, weights_NK, chosen_NK = self._module.gate(X_ND)
        assert weights_NK.shape == chosen_NK.shape
        return Routing(chosen_NK, weights_NK)

    def inner(self, expert: int, X_nD: Tensor) -> Tensor:
        """Returns what an expert's down projection reads, [n, F]."""
        X_nD = self._round(X_nD)
        both = nn.functional.linear(X_nD, self._module.experts.gate_up_proj[expert])
        gate_nF, up_nF = both.chunk(2, dim=-1)
        inner_nF: Tensor = self._module.experts.act_fn(gate_nF) * up_nF
        return inner_nF

    def add_output(
        self, sum_ND: Tensor, expert: int, inner_nF: Tensor, routed: tuple[Tensor, Tensor]
    ) -> None:
        """Adds an expert's weighted output onto the sum of all experts, in place.

        Args:
            sum_ND: The sum so far.
            expert: Whose output.
            inner_nF: What its down projection reads.
            routed: Its tokens and their weights, from `Routing.find_tokens`.
        """
        tokens_n, weights_n1 = routed
        inner_nF = self._round(inner_nF)
        output_nD = nn.functional.linear(inner_nF, self._module.experts.down_proj[expert])
        sum_ND.index_add_(0, tokens_n, (output_nD * weights_n1).to(sum_ND.dtype))

    def _round(self, values: Tensor) -> Tensor:
        """Rounds what a matrix reads, where the checkpoint's server does."""
        experts = self._module.experts
        return experts.round(values) if isinstance(experts, RoundedInputExperts) else values

    def forward(self, X_BTD: Tensor) -> Tensor:
        """Runs the whole mixture, [B, T, D]."""
        X_ND = X_BTD.flatten(0, -2)
        routing = self.route(X_ND)
        sum_ND = torch.zeros_like(X_ND)
        for expert in range(self.config.num_experts):
            routed = routing.find_tokens(expert)
            if len(routed[0]):
                self.add_output(sum_ND, expert, self.inner(expert, X_ND[routed[0]]), routed)
        return sum_ND.view_as(X_BTD)


def _name_views(module: Any, config: ExpertsConfig) -> Iterator[tuple[str, Tensor]]:
    names, inner_size = config.names, config.inner_size
    for expert in range(config.num_experts):
        gate, up = names.gate_up(expert)
        both = module.experts.gate_up_proj.data[expert]
        yield gate, both[:inner_size]
        yield up, both[inner_size:]
        yield names.down_of(expert), module.experts.down_proj.data[expert]


def read_mixture(config: ExpertsConfig, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Reads a block's experts and router into the tensors that transformers fuses them into.

    Besides the fused tensors one matrix is in memory at a time.

    Args:
        config: The mixture.
        read: Reads a tensor by its name inside the block.
    """
    names = config.names
    return {
        ROUTER: read(f"{names.router}.weight"),
        GATE_UP: _fuse(config, read, names.gate_up),
        DOWN: _fuse(config, read, lambda expert: (names.down_of(expert),)),
    }


def _fuse(
    config: ExpertsConfig,
    read: Callable[[str], Tensor],
    name_parts: Callable[[int], tuple[str, ...]],
) -> Tensor:
    fused: Tensor | None = None
    for expert in range(config.num_experts):
        start = 0
        for layer in name_parts(expert):
            part_OI = read(f"{layer}.weight")
            num_rows, num_columns = part_OI.shape
            if fused is None:
                rows = num_rows * len(name_parts(expert))
                fused = part_OI.new_empty(config.num_experts, rows, num_columns)
            fused[expert, start : start + num_rows] = part_OI
            start += num_rows
    assert fused is not None
    return fused
