"""One staged pass of the calibration data through a decoder block.

Each stage's layers read one input: its Hessian is gathered as the data comes by, the layers
are solved as one, and the data goes on through the rounded weights. So every layer is
calibrated on what it will see, with one forward pass in all (true-sequential GPTQ).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmopt.artifacts.manifest import LayerError
from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.activation_store import ActivationStore
from llmopt.checkpoint.decoder_block import DecoderBlock
from llmopt.checkpoint.model_config import DECODER_STAGES, Stage
from llmopt.checkpoint.packed_weight import PackedWeight
from llmopt.errors import NumericalError
from llmopt.quant.free_memory import release_freed_memory
from llmopt.quant.hessian import Hessian
from llmopt.quant.solution import Solution, split_solution

# (stacked weights [R, I], Hessian [I, I] or None, scheme) → integers and errors
Solver = Callable[[Tensor, Tensor | None, QuantScheme], Solution]
Schemes = Mapping[str, QuantScheme | None]  # by full layer name; None leaves a layer as it is
# (weights [O, I] by full layer name, gives their input's Hessian [I, I], schemes, solver)
StageSolver = Callable[
    [Mapping[str, Tensor], Callable[[], Tensor | None], Schemes, Solver], "BlockResult"
]
QKV, ATTENTION_OUTPUT, GATE_UP, DOWN = DECODER_STAGES
HIDDEN = "hidden"  # the residual stream, as it is called where it is kept
INNER = "inner"  # what the down projection reads
LARGE_STAGE_BYTES = 16_000_000  # below, giving memory back costs more time than it is worth


@dataclass
class BlockResult:
    """The packed layers of one block, by full name, and their errors.

    A layer without a packed weight goes on with the weights it has.
    """

    weights: dict[str, PackedWeight] = field(default_factory=dict)
    errors: list[LayerError] = field(default_factory=list)


@dataclass(frozen=True)
class Rounding:
    """How the layers of a block are worked on.

    Attributes:
        schemes: How each is rounded.
        solve: Rounds stacked rows.
        solve_stage: Works on the layers of one stage, with the two above.
    """

    schemes: Schemes
    solve: Solver
    solve_stage: StageSolver


class BlockPass:
    """Quantises one block while its calibration data passes through it.

    Args:
        blocks: The block, with its original weights, once on each device that takes part: batch
            n goes through block n modulo their number, the first one's device solves.
        prefix: The block's prefix in the checkpoint, for names in the ledger.
        rounding: How its layers are worked on.
        on_layer: Called with each layer's error as it is known.
    """

    def __init__(
        self,
        blocks: Sequence[DecoderBlock],
        prefix: str,
        rounding: Rounding,
        on_layer: Callable[[LayerError], None],
    ) -> None:
        self._blocks = blocks
        self._block = blocks[0]
        self._prefix = prefix
        self._rounding = rounding
        self._on_layer = on_layer
        self._result = BlockResult()

    def run(self, data: "CalibrationBatches") -> BlockResult:
        """Quantises every layer and moves `data` on to the block's output."""
        self._quantize(QKV, self._gather_attention_input(data))
        self._quantize(ATTENTION_OUTPUT, self._gather_context(data))
        self._pass_mlp(data)
        return self._result

    def _pass_mlp(self, data: "CalibrationBatches") -> None:
        self._quantize(GATE_UP, self._gather_mlp_input(data))
        self._quantize(DOWN, self._gather_inner(data))
        for batch in data:
            block = self._block_of(batch)
            if data.holds(batch.index, INNER):
                inner = data.take(batch.index, INNER)
            else:  # the same weights and data as when it was gathered
                inner = block.mlp_inner(batch.hidden)
            data.put(batch.index, block.add_mlp(batch.hidden, inner))

    def _gather_attention_input(self, data: "CalibrationBatches") -> Hessian:
        hessian = self._new_hessian(QKV)
        for batch in data:
            inputs = self._block_of(batch).attention_input(batch.hidden)
            self._add(hessian, QKV, batch, inputs)
        return hessian

    def _gather_context(self, data: "CalibrationBatches") -> Hessian:
        hessian = self._new_hessian(ATTENTION_OUTPUT)
        for batch in data:
            context = self._block_of(batch).attention_context(batch.hidden)
            self._add(hessian, ATTENTION_OUTPUT, batch, context)
            data.keep(batch.index, "context", context)
        return hessian

    def _gather_mlp_input(self, data: "CalibrationBatches") -> Hessian:
        hessian = self._new_hessian(GATE_UP)
        for batch in data:
            block = self._block_of(batch)
            hidden = block.add_attention(batch.hidden, data.take(batch.index, "context"))
            data.put(batch.index, hidden)
            self._add(hessian, GATE_UP, batch, block.mlp_input(hidden))
        return hessian

    def _gather_inner(self, data: "CalibrationBatches") -> Hessian:
        hessian = self._new_hessian(DOWN)
        for batch in data:
            inner = self._block_of(batch).mlp_inner(batch.hidden)
            self._add(hessian, DOWN, batch, inner)
            if not data.recomputes or data.has_room(batch.index, inner):
                data.keep(batch.index, INNER, inner)
        return hessian

    def _block_of(self, batch: "Batch") -> DecoderBlock:
        return self._blocks[batch.index % len(self._blocks)]

    def _new_hessian(self, stage: Stage) -> Hessian:
        weights = [block.weight(stage.layers[0]) for block in self._blocks]
        return Hessian(weights[0].shape[1], *(weight.device for weight in weights))

    def _add(self, hessian: Hessian, stage: Stage, batch: "Batch", inputs_BTI: Tensor) -> None:
        """Takes in what the stage's layers read of a batch."""
        del stage
        hessian.add(inputs_BTI, batch.lengths, batch.index % len(self._blocks))

    def _quantize(self, stage: Stage, hessian: Hessian) -> None:
        self._accept(stage, self._solve_stage(stage, hessian.finish, self._rounding.solve))

    def _solve_stage(
        self, stage: Stage, finish_hessian: Callable[[], Tensor | None], solve: Solver
    ) -> BlockResult:
        weights = {self._prefix + layer: self._block.weight(layer) for layer in stage.layers}
        rounding = self._rounding
        self._release_freed_memory(stage)  # of the batches before: a solve is where memory peaks
        try:
            return rounding.solve_stage(weights, finish_hessian, rounding.schemes, solve)
        except NumericalError as error:
            message = f"{self._prefix}{stage.name}: {error.message}"
            raise NumericalError(message, remedy=error.remedy) from None

    def _accept(self, stage: Stage, result: BlockResult) -> None:
        """Puts rounded weights into the block and reports them."""
        for layer in stage.layers:
            packed = result.weights.get(self._prefix + layer)
            if packed is not None:
                weight = packed.dequantize(self._block.weight(layer).dtype)
                for block in self._blocks:
                    block.replace_weight(layer, weight.to(block.weight(layer).device))
        self._result.weights |= result.weights
        self._result.errors += result.errors
        for layer_error in result.errors:
            self._on_layer(layer_error)
        self._release_freed_memory(stage)  # of the solve

    def _release_freed_memory(self, stage: Stage) -> None:
        """Gives memory back where a solve takes much of it."""
        sizes = (self._block.weight(layer).nbytes for layer in stage.layers)
        if sum(sizes) >= LARGE_STAGE_BYTES:
            release_freed_memory()


def solve_layers(
    weights: Mapping[str, Tensor],
    finish_hessian: Callable[[], Tensor | None],
    schemes: Schemes,
    solve: Solver,
) -> BlockResult:
    """Rounds layers that share an input, those of one scheme as one.

    Args:
        weights: Weights [O, I] by full layer name.
        finish_hessian: Gives the Hessian of their input, [I, I], None where there was no input;
            asked for once, and only where a layer is rounded.
        schemes: How each is rounded.
        solve: Rounds stacked rows.

    Raises:
        NumericalError: The Hessian can't be factorised within the damping budget.
    """
    names: dict[QuantScheme, list[str]] = {}
    for name in weights:
        scheme = schemes[name]
        if scheme is not None:
            names.setdefault(scheme, []).append(name)
    H_II = finish_hessian() if names else None
    solved: dict[str, tuple[PackedWeight, LayerError]] = {}
    for scheme, members in names.items():
        solution = solve(torch.cat([weights[name] for name in members]), H_II, scheme)
        parts = split_solution(solution, members, [len(weights[name]) for name in members])
        solved |= dict(zip(members, parts, strict=True))
    ordered = {name: solved[name] for name in weights if name in solved}
    return BlockResult(
        {name: packed for name, (packed, _) in ordered.items()},
        [error for _, error in ordered.values()],
    )


@dataclass(frozen=True)
class Batch:
    """Some calibration windows at the current depth.

    Attributes:
        index: Which batch.
        hidden: The residual stream, [B, T, D].
        lengths: int64 [B], how many tokens of each row are real; None where all are.
    """

    index: int
    hidden: Tensor
    lengths: Tensor | None


class CalibrationBatches:
    """All calibration windows as they move through the model, batch by batch.

    Args:
        stores: Keep the activations, one on each device that takes part: batch n is in store n
            modulo their number.
        lengths: Per batch the rows' real lengths, None where no row is padded.
        recomputes: Whether what the down projection reads is computed a second time, not put on
            disk, where it doesn't fit in memory. A GPU is faster at that than a disk.
    """

    def __init__(
        self,
        stores: Sequence[ActivationStore],
        lengths: Sequence[Tensor | None],
        *,
        recomputes: bool = False,
    ) -> None:
        self._stores = stores
        self._lengths = lengths
        self.recomputes = recomputes

    def __iter__(self) -> Iterator[Batch]:
        for index, lengths in enumerate(self._lengths):
            yield Batch(index, self.look(index, HIDDEN), lengths)

    def __len__(self) -> int:
        return len(self._lengths)

    def streams(self, *names: str) -> Mapping[str, Tensor]:
        """Returns residual streams by name and batch, each read only when it is asked for."""
        return _StreamView(self, names)

    def put(self, index: int, hidden: Tensor) -> None:
        """Sets a batch's residual stream."""
        self.keep(index, HIDDEN, hidden)

    def keep(self, index: int, name: str, tensor: Tensor) -> None:
        """Keeps an intermediate result of a batch for the next stage."""
        self._store_of(index).put(f"{name}-{index}", tensor)

    def has_room(self, index: int, tensor: Tensor) -> bool:
        """Tells whether one more intermediate result of a batch would stay in memory."""
        return self._store_of(index).has_room(tensor)

    def holds(self, index: int, name: str) -> bool:
        """Tells whether an intermediate result of a batch is kept."""
        return f"{name}-{index}" in self._store_of(index)

    def look(self, index: int, name: str) -> Tensor:
        """Returns an intermediate result, which stays; it must not be changed."""
        return self._store_of(index).get(f"{name}-{index}")

    def look_stored(self, index: int, name: str) -> Tensor:
        """Returns an intermediate result in the dtype that it is kept in."""
        return self._store_of(index).get_stored(f"{name}-{index}")

    def take(self, index: int, name: str) -> Tensor:
        """Returns an intermediate result and forgets it."""
        return self._store_of(index).take(f"{name}-{index}")

    def _store_of(self, index: int) -> ActivationStore:
        return self._stores[index % len(self._stores)]


class _StreamView(Mapping[str, Tensor]):
    """All batches' residual streams, so that a writer holds one at a time."""

    def __init__(self, batches: CalibrationBatches, streams: Sequence[str]) -> None:
        self._batches = batches
        self._places = {
            f"{stream}-{index:05d}": (index, stream)
            for stream in streams
            for index in range(len(batches))
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._batches.look_stored(*self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
