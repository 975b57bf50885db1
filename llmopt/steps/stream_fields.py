"""Fields and checks of the quantisations that go through a checkpoint tensor by tensor."""

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from llmopt.artifacts.manifest import ArtifactKind
from llmopt.checkpoint.checkpoint import FLOAT_DTYPES, IGNORED_SUFFIXES, Checkpoint
from llmopt.checkpoint.layer_patterns import compile_parts
from llmopt.checkpoint.linear_weights import select_linear_weights
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, OUTPUT_WEIGHT
from llmopt.checkpoint.safetensors_header import TensorEntry, TensorPlan
from llmopt.checkpoint.sidecar_files import list_sidecars
from llmopt.errors import IncompatibleError, InputError, RecipeError
from llmopt.serving.preflight import check_servable
from llmopt.serving.served_weights import ServedFormat, ServedWeights, Storage, describe_uniform
from llmopt.serving.target import Target
from llmopt.steps.base import Estimate, NotIdentity, StepBase, StepInputs
from llmopt.steps.quantize_fields import ModelName

LIBRARIES_BYTES = 500_000_000  # torch and its buffers
SLICE_BYTES = 64_000_000  # float32 copies of the slice that a worker rounds
MAX_WORKERS = 64
UNSUITABLE = (InputError, IncompatibleError, RecipeError)  # what opening a model may raise
SCALE_DTYPES = {name: stored for stored, name in FLOAT_DTYPES.items()}


class StreamFields(StepBase):
    """Base of the steps that quantise each weight on its own."""

    step_version: ClassVar[int] = 2  # in 1 a regular expression matched names' beginnings
    produces: ClassVar[ArtifactKind] = "quantized_checkpoint"
    served_format: ClassVar[ServedFormat] = "compressed-tensors"
    storage: ClassVar[Storage]

    model: ModelName = Field(description="The checkpoint to quantise: bf16, fp16 or fp32.")
    skip: tuple[str, ...] = Field(
        (OUTPUT_LAYER,),
        description="Linear layers that stay as they are: full names or parts of them, with * "
        "(`mlp.down_proj`, `model.layers.0`, `experts`), or `re:` and a regular expression that "
        "the whole name must match. Replaces the default.",
    )
    workers: Annotated[int | None, NotIdentity()] = Field(
        None,
        ge=1,
        le=MAX_WORKERS,
        description="Tensors quantised at the same time, each on one CPU thread (default "
        "--threads, or the machine's cores, 64 at most); memory grows by one tensor each.",
    )

    @field_validator("skip")
    @classmethod
    def _check_skip(cls, skip: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in skip:
            compile_parts(pattern)
        return skip

    @abstractmethod
    def plan_layer(self, shape_OI: tuple[int, ...], dtype: str) -> dict[str, TensorPlan]:
        """Returns the tensors that a layer of a model of that (safetensors) dtype becomes."""

    def count_workers(self, threads: int | None = None) -> int:
        """Returns how many tensors are quantised at the same time.

        Args:
            threads: What --threads says.
        """
        if self.workers is not None:
            return self.workers
        return min(threads or _count_cores(), MAX_WORKERS)

    def open_checkpoint(self, inputs: StepInputs) -> Checkpoint:
        """Opens the model and refuses what can't be quantised.

        Raises:
            InputError: Unsupported, corrupt, or quantised already; or `skip` does not fit it.
        """
        model = inputs["model"]
        checkpoint = Checkpoint.open(model.path, trust_remote_code=model.trust_remote_code)
        checkpoint.require_unquantized()
        self.select_weights(checkpoint)
        return checkpoint

    def select_weights(self, checkpoint: Checkpoint) -> frozenset[str]:
        """Returns the names of the weights to quantise.

        Raises:
            InputError: A pattern of `skip` names nothing, or all.
        """
        return select_linear_weights(list_written(checkpoint), self.skip)

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Checks the model, `skip` and the target against one another, without torch."""
        if "model" not in inputs or not inputs["model"].path.exists():
            return
        checkpoint = self.open_checkpoint(inputs)
        checkpoint.require_tokenizer()  # no server would load the result without one
        if target is not None:
            check_servable(self.describe_served(checkpoint), target)

    def describe_served(self, checkpoint: Checkpoint) -> ServedWeights:
        """Describes the result as a server would find it."""
        rounded = {name.removesuffix(".weight") for name in self.select_weights(checkpoint)}
        dtype = SCALE_DTYPES[checkpoint.dtype]

        def count_bytes(shape_OI: tuple[int, int]) -> int:
            return sum(plan.num_bytes for plan in self.plan_layer(shape_OI, dtype).values())

        return describe_uniform(
            checkpoint.config, self.served_format, self.storage, rounded, count_bytes
        )

    def estimate(self, inputs: StepInputs) -> Estimate | None:
        """Estimates needs from the headers; None for a model not yet made or unsuitable."""
        if not inputs["model"].path.exists():
            return None
        try:
            checkpoint = self.open_checkpoint(inputs)
        except UNSUITABLE:
            return None
        tensors, rounded = list_written(checkpoint), self.select_weights(checkpoint)
        dtype = SCALE_DTYPES[checkpoint.dtype]
        written = {name: self._written_bytes(tensors[name], dtype) for name in rounded}
        kept = sum(entry.num_bytes for name, entry in tensors.items() if name not in rounded)
        beside = sum(path.stat().st_size for path in list_sidecars(checkpoint.folder))
        in_flight = self.count_workers() + 1
        return Estimate(
            ram_bytes=LIBRARIES_BYTES + in_flight * (max(written.values()) + SLICE_BYTES),
            disk_bytes=sum(written.values()) + kept + beside,
            flops=0.0,
        )

    def _written_bytes(self, entry: TensorEntry, dtype: str) -> int:
        return sum(plan.num_bytes for plan in self.plan_layer(entry.shape, dtype).values())


def _count_cores() -> int:
    """Counts the cores that this process may run on, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def list_written(checkpoint: Checkpoint) -> dict[str, TensorEntry]:
    """Returns the tensors that go into a quantised checkpoint, as they are or rounded."""
    tensors: Mapping[str, TensorEntry] = checkpoint.tensors
    written = {n: entry for n, entry in tensors.items() if not n.endswith(IGNORED_SUFFIXES)}
    if checkpoint.config.tie_word_embeddings:
        written.pop(OUTPUT_WEIGHT, None)  # some exports store the tied copy
    return written
