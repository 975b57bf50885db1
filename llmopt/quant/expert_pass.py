"""The staged pass through a block whose MLP is a mixture of experts.

Attention goes as in any block. Then the router, which is not rounded, sends every token to its
experts, and expert after expert is taken on its own: the Hessian of the tokens routed to it, gate
and up solved as one, its inner activations through the rounded gate and up, down solved, and its
weighted output added to the sum. So every token goes through rounded weights alone, with one
forward in all, and the Hessian of one expert's stage is in memory at a time.

Shapes: N = a batch's tokens, n = those of them that go through an expert, E = experts, D = hidden
size, I = in_features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llmopt.artifacts.manifest import LayerError, StarvedPolicy
from llmopt.checkpoint.decoder_block import DecoderBlock
from llmopt.checkpoint.expert_mixture import Routing
from llmopt.checkpoint.model_config import Stage, expert_stages
from llmopt.quant.block_pass import (
    Batch,
    BlockPass,
    BlockResult,
    CalibrationBatches,
    Rounding,
)
from llmopt.quant.expert_policy import ExpertPolicy


@dataclass(frozen=True)
class RoutedBatch:
    """Where the tokens of a batch go.

    Attributes:
        index: Which batch.
        routing: The router's choice for each token.
        is_real_N: Which tokens are no padding; None where none is.
    """

    index: int
    routing: Routing
    is_real_N: Tensor | None

    def count_tokens(self, num_experts: int) -> Tensor:
        """Counts the real tokens of each expert, int64 [E]."""
        chosen_NK = self.keep_real(self.routing.chosen_NK)
        return torch.bincount(chosen_NK.flatten(), minlength=num_experts).cpu()

    def keep_real(self, X_N: Tensor, tokens_N: Tensor | None = None) -> Tensor:
        """Drops the rows of padding; the rows belong to `tokens_N`, by default to all tokens."""
        if self.is_real_N is None:
            return X_N
        return X_N[self.is_real_N if tokens_N is None else self.is_real_N[tokens_N]]


class ExpertPass(BlockPass):
    """Quantises a block of experts while its calibration data passes through it.

    Args:
        block: The block, with its original weights.
        prefix: The block's prefix in the checkpoint, for names in the ledger.
        rounding: How its layers are worked on.
        on_layer: Called with each layer's error as it is known.
        policy: What becomes of starved experts; None rounds all alike, one that saw no token
            without a Hessian.
    """

    def __init__(
        self,
        block: DecoderBlock,
        prefix: str,
        rounding: Rounding,
        on_layer: Callable[[LayerError], None],
        policy: ExpertPolicy | None,
    ) -> None:
        super().__init__([block], prefix, rounding, on_layer)
        assert block.experts is not None
        self._experts = block.experts
        self._policy = policy
        self._batches: list[RoutedBatch] = []
        self._counts: list[int] = []  # real tokens by expert
        self._common_II: Tensor | None = None

    def _pass_mlp(self, data: CalibrationBatches) -> None:
        self._route(data)
        self._check_starved()
        for expert in range(self._experts.config.num_experts):
            self._pass_expert(expert, data)
        for batch in data:
            data.take(batch.index, "input")
            sum_ND = data.take(batch.index, "sum")
            data.put(batch.index, batch.hidden + sum_ND.view_as(batch.hidden))

    def _route(self, data: CalibrationBatches) -> None:
        num_experts = self._experts.config.num_experts
        counts_E = torch.zeros(num_experts, dtype=torch.int64)
        for batch in data:
            hidden = self._block.add_attention(batch.hidden, data.take(batch.index, "context"))
            data.put(batch.index, hidden)
            X_ND = self._block.mlp_input(hidden).flatten(0, -2)
            data.keep(batch.index, "input", X_ND)
            data.keep(batch.index, "sum", torch.zeros_like(X_ND))
            routed = RoutedBatch(batch.index, self._experts.route(X_ND), _find_real(batch))
            counts_E += routed.count_tokens(num_experts)
            self._batches.append(routed)
        self._counts = counts_E.tolist()

    def _check_starved(self) -> None:
        config = self._experts.config
        starved = {
            expert: self._counts[expert]
            for expert in range(config.num_experts)
            if any(self._find_treatment(stage) for stage in expert_stages(config, expert))
        }
        if self._policy is not None:
            self._policy.refuse(self._prefix + config.names.fused, starved)

    def _find_treatment(self, stage: Stage) -> StarvedPolicy | None:
        """Returns what is done with a stage that is rounded and starved, else None."""
        policy, in_features = self._policy, self._block.weight(stage.layers[0]).shape[1]
        if policy is None or not policy.is_starved(self._count(stage), in_features):
            return None
        schemes = self._rounding.schemes
        is_rounded = any(schemes[self._prefix + layer] for layer in stage.layers)
        return policy.starved if is_rounded else None

    def _count(self, stage: Stage) -> int:
        assert stage.expert is not None
        return self._counts[stage.expert]

    def _pass_expert(self, expert: int, data: CalibrationBatches) -> None:
        gate_up, down = expert_stages(self._experts.config, expert)
        self._quantize_expert(gate_up, lambda: self._gather_expert_input(gate_up, data))
        for batch in self._batches:
            tokens_n, _ = batch.routing.find_tokens(expert)
            X_nD = data.look(batch.index, "input")[tokens_n]
            data.keep(batch.index, "inner", self._experts.inner(expert, X_nD))
        self._quantize_expert(down, lambda: self._gather_expert_inner(down, data))
        for batch in self._batches:
            sum_ND, inner_nF = (data.take(batch.index, name) for name in ("sum", "inner"))
            routed = batch.routing.find_tokens(expert)
            self._experts.add_output(sum_ND, expert, inner_nF, routed)
            data.keep(batch.index, "sum", sum_ND)

    def _quantize_expert(self, stage: Stage, gather: Callable[[], Tensor | None]) -> None:
        treatment = self._find_treatment(stage)
        solve = self._rounding.solve
        if treatment == "rtn":
            assert self._policy is not None
            solve = self._policy.solve_nearest
        result = self._solve_stage(stage, gather, solve)
        marks = {"num_tokens": self._count(stage), "starved": treatment}
        errors = [error.model_copy(update=marks) for error in result.errors]
        self._accept(stage, BlockResult(result.weights, errors))

    def _gather_expert_input(self, stage: Stage, data: CalibrationBatches) -> Tensor | None:
        """Returns the Hessian of what gate and up read; of all tokens it is one for all experts."""
        assert stage.expert is not None
        if self._find_treatment(stage) == "all_tokens":
            if self._common_II is None:
                self._common_II = self._gather_all_inputs(stage, data)
            return self._common_II
        hessian = self._new_hessian(stage)
        for batch in self._batches:
            tokens_n, _ = batch.routing.find_tokens(stage.expert)
            hessian.add(data.look(batch.index, "input")[batch.keep_real(tokens_n, tokens_n)])
        return hessian.finish() if self._count(stage) else None

    def _gather_all_inputs(self, stage: Stage, data: CalibrationBatches) -> Tensor:
        hessian = self._new_hessian(stage)
        for batch in self._batches:
            hessian.add(batch.keep_real(data.look(batch.index, "input")))
        return hessian.finish()

    def _gather_expert_inner(self, stage: Stage, data: CalibrationBatches) -> Tensor | None:
        """Returns the Hessian of what down reads."""
        assert stage.expert is not None
        takes_all = self._find_treatment(stage) == "all_tokens"
        hessian = self._new_hessian(stage)
        for batch in self._batches:
            if takes_all:
                X_ND = batch.keep_real(data.look(batch.index, "input"))
                hessian.add(self._experts.inner(stage.expert, X_ND))
            else:
                tokens_n, _ = batch.routing.find_tokens(stage.expert)
                hessian.add(batch.keep_real(data.look(batch.index, "inner"), tokens_n))
        return hessian.finish() if takes_all or self._count(stage) else None


def _find_real(batch: Batch) -> Tensor | None:
    if batch.lengths is None:
        return None
    positions_1T = torch.arange(batch.hidden.shape[1], device=batch.hidden.device)[None]
    return (positions_1T < batch.lengths[:, None].to(batch.hidden.device)).flatten()
