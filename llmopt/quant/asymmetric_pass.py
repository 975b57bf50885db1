"""The staged pass with a second residual stream, which the original weights carry on.

Each stage's layers aim at the outputs they had before anything was rounded (`quant.asymmetric`):
beside the Hessian of what they read in the quantised model, the moment of its difference to what
they would read in the original is gathered, and their weights are shifted before they are solved.

Shapes: B = batch, T = tokens, I = in_features, R = rows.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from llmopt.artifacts.manifest import LayerError
from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.decoder_block import DecoderBlock
from llmopt.checkpoint.model_config import Stage
from llmopt.quant.asymmetric import AsymmetricOptions, CrossMoment, shift_targets
from llmopt.quant.block_pass import (
    ATTENTION_OUTPUT,
    GATE_UP,
    QKV,
    Batch,
    BlockPass,
    BlockResult,
    CalibrationBatches,
    Rounding,
    Solver,
)
from llmopt.quant.hessian import Hessian
from llmopt.quant.solution import Solution

ORIGINAL = "original"  # the original model's residual stream, as it is called where it is kept
ORIGINAL_CONTEXT = "original_context"


def shift_solver(solve: Solver, C_II: Tensor, options: AsymmetricOptions) -> Solver:
    """Returns a solver that rounds shifted weights; errors of weights are those of the originals.

    Args:
        solve: Rounds stacked rows.
        C_II: (X~ - X)^T X / tokens of their input.
        options: How far targets are shifted.
    """

    def solve_shifted(W_RI: Tensor, H_II: Tensor | None, scheme: QuantScheme) -> Solution:
        assert H_II is not None
        solution = solve(shift_targets(W_RI, H_II, C_II, options), H_II, scheme)
        error_RI = solution.weight.dequantize(H_II.dtype).sub_(W_RI)
        return replace(solution, squared_error_R=error_RI.square_().sum(1))

    return solve_shifted


class AsymmetricPass(BlockPass):
    """Quantises a block, on one device, towards what it gave before.

    Args:
        block: The block, with its original weights; they are rounded.
        original: The same block; it stays as it is.
        prefix: The block's prefix in the checkpoint, for names in the ledger.
        rounding: How its layers are worked on.
        on_layer: Called with each layer's error as it is known.
        options: How far targets are shifted.
    """

    def __init__(
        self,
        block: DecoderBlock,
        original: DecoderBlock,
        prefix: str,
        rounding: Rounding,
        on_layer: Callable[[LayerError], None],
        options: AsymmetricOptions,
    ) -> None:
        super().__init__([block], prefix, rounding, on_layer)
        self._original = original
        self._options = options
        self._data: CalibrationBatches | None = None
        self._cross: CrossMoment | None = None

    def run(self, data: CalibrationBatches) -> BlockResult:
        """Quantises every layer and moves both residual streams on to the block's output."""
        self._data = data
        return super().run(data)

    def _new_hessian(self, stage: Stage) -> Hessian:
        weight = self._block.weight(stage.layers[0])
        self._cross = CrossMoment(weight.shape[1], weight.device)
        return super()._new_hessian(stage)

    def _add(self, hessian: Hessian, stage: Stage, batch: Batch, inputs_BTI: Tensor) -> None:
        super()._add(hessian, stage, batch, inputs_BTI)
        assert self._cross is not None
        self._cross.add(self._read_original(stage, batch.index), inputs_BTI, batch.lengths)

    def _read_original(self, stage: Stage, index: int) -> Tensor:
        """Returns what the stage's layers read in the original, and moves its stream on."""
        assert self._data is not None
        data, original = self._data, self._original
        stream = data.look(index, ORIGINAL)
        if stage == QKV:
            return original.attention_input(stream)
        if stage == ATTENTION_OUTPUT:
            context = original.attention_context(stream)
            data.keep(index, ORIGINAL_CONTEXT, context)
            return context
        if stage == GATE_UP:
            stream = original.add_attention(stream, data.take(index, ORIGINAL_CONTEXT))
            data.keep(index, ORIGINAL, stream)
            return original.mlp_input(stream)
        inner = original.mlp_inner(stream)
        data.keep(index, ORIGINAL, original.add_mlp(stream, inner))
        return inner

    def _solve_stage(
        self, stage: Stage, finish_hessian: Callable[[], Tensor | None], solve: Solver
    ) -> BlockResult:
        assert self._cross is not None
        shifted = shift_solver(solve, self._cross.finish(), self._options)
        return super()._solve_stage(stage, finish_hessian, shifted)
