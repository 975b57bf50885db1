"""Fields and checks that every integer weight quantisation shares."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from llmopt.artifacts.manifest import ArtifactKind
from llmopt.artifacts.quant_scheme import SUPPORTED_GROUP_SIZES, Bits, GroupSize, QuantScheme
from llmopt.checkpoint.checkpoint import Checkpoint, linear_names
from llmopt.checkpoint.model_config import ModelConfig, describe_kind
from llmopt.checkpoint.packed_words import dense_multiple
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, QuantPlan
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.errors import IncompatibleError
from llmopt.serving.preflight import check_servable
from llmopt.serving.served_weights import describe_plan
from llmopt.serving.target import Target
from llmopt.steps.base import InputRef, NotIdentity, ResolvedInput, StepBase, StepInputs
from llmopt.steps.layer_overrides import LayerOverride, build_plan

ModelName = Annotated[str, InputRef(("checkpoint",))]
DataName = Annotated[str, InputRef(("dataset",))]
OptionalDataName = Annotated[str | None, InputRef(("dataset",))]
MAX_PREFLIGHT_BYTES = 50_000_000  # larger files are read when the step runs


class QuantizeFields(StepBase):
    """Base of the steps that write packed integers."""

    produces: ClassVar[ArtifactKind] = "quantized_checkpoint"

    model: ModelName = Field(description="The checkpoint to quantise: bf16, fp16 or fp32.")
    bits: Bits = Field(4, description="Bits per weight.")
    group_size: GroupSize = Field(
        128, description="Input features that share a scale; -1 is one per output channel."
    )
    sym: bool = Field(True, description="Symmetric grid, fixed zero point.")
    format: QuantFormat = Field(
        "gptq", description="gptq (version 1) or compressed-tensors (pack-quantized)."
    )
    overrides: tuple[LayerOverride, ...] = Field(
        (),
        description="Layers with another scheme, or left as they are; the first entry that "
        "matches a layer holds for it.",
    )
    lm_head: bool = Field(
        False, description="Quantise the output projection too, where it is not the embeddings."
    )
    activation_memory_gb: Annotated[float, NotIdentity()] = Field(
        5.0,
        gt=0,
        description="Calibration activations kept in memory (on a GPU: its own); the rest goes to "
        "disk, or is computed a second time where a GPU does that faster.",
    )

    @property
    @abstractmethod
    def scheme(self) -> QuantScheme:
        """The quantisation scheme that the fields describe."""

    def plan(self, config: ModelConfig) -> QuantPlan:
        """Decides how each layer is rounded.

        Raises:
            RecipeError: An override matches no layer.
            IncompatibleError: `lm_head` can't be rounded.
        """
        return build_plan(config, self.scheme, self.overrides, lm_head=self.lm_head)

    def candidate_plans(self, config: ModelConfig) -> list[QuantPlan]:
        """Returns the plans whose schemes may all come to be used, the smallest first."""
        return [self.plan(config)]

    def explain_refusal(self, error: IncompatibleError, plan: QuantPlan) -> IncompatibleError:
        """Returns a target's refusal of a plan, with a way out that this step's fields allow."""
        del plan
        return error

    def open_checkpoint(self, inputs: StepInputs) -> Checkpoint:
        """Opens the model and refuses what can't be quantised.

        Raises:
            InputError: Unsupported, corrupt, or quantised already.
            RecipeError: An override matches no layer.
            IncompatibleError: A layer's shape does not fit the scheme.
        """
        model = inputs["model"]
        checkpoint = Checkpoint.open(model.path, trust_remote_code=model.trust_remote_code)
        checkpoint.require_unquantized()
        for plan in self.candidate_plans(checkpoint.config):
            check_shapes(checkpoint.config, plan, self.format)
        return checkpoint

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Checks model, shapes, data and target without torch."""
        if "model" not in inputs or not inputs["model"].path.exists():
            return  # made by an earlier step, or not downloaded yet
        checkpoint = self.open_checkpoint(inputs)
        if target is not None:
            for number, plan in enumerate(self.candidate_plans(checkpoint.config)):
                weights = describe_plan(checkpoint.config, plan, self.format)
                try:
                    check_servable(weights, target, is_whole=number == 0)
                except IncompatibleError as error:
                    raise self.explain_refusal(error, plan) from None
        checkpoint.require_tokenizer()  # no server would load the result without one
        if "data" in inputs:
            check_data(checkpoint.config, inputs["data"])


def check_shapes(config: ModelConfig, plan: QuantPlan, quant_format: QuantFormat) -> None:
    """Refuses schemes that do not fit the shapes of the model's linear layers.

    Raises:
        IncompatibleError: Names the layers and what would fit.
    """
    faults = dict.fromkeys(_shape_faults(config, plan, quant_format))
    if not faults:
        return
    fitting = [
        size
        for size in sorted(SUPPORTED_GROUP_SIZES, reverse=True)
        if not any(_shape_faults(config, _with_group_size(plan, size), quant_format))
    ]
    remedy = f"use group_size {' or '.join(map(str, fitting))}" if fitting else None
    raise IncompatibleError("; ".join(faults), remedy=remedy)


def _with_group_size(plan: QuantPlan, group_size: int) -> QuantPlan:
    schemes = {
        name: None if scheme is None else replace(scheme, group_size=group_size)
        for name, scheme in plan.schemes.items()
    }
    return replace(plan, base=replace(plan.base, group_size=group_size), schemes=schemes)


def _shape_faults(config: ModelConfig, plan: QuantPlan, quant_format: QuantFormat) -> Iterator[str]:
    shapes = {**dict(linear_names(config)), OUTPUT_LAYER: config.embedding_shape}
    for name, scheme in plan.rounded():
        out_features, in_features = shapes[name]
        layer = describe_kind(name)
        if scheme.group_size > 0 and in_features % scheme.group_size:
            yield (
                f"{layer} has {in_features} input features, "
                f"not a multiple of group_size {scheme.group_size}"
            )
        if quant_format != "gptq":
            continue  # compressed-tensors fills up a last word
        per_words = dense_multiple(scheme.bits)
        for count, side in ((in_features, "input"), (out_features, "output")):
            if count % per_words:
                yield (
                    f"{layer} has {count} {side} features, not a multiple of {per_words}, which "
                    f"{scheme.bits}-bit integers need in format gptq"
                )


def check_data(config: ModelConfig, data: ResolvedInput) -> None:
    """Refuses data that can't calibrate this model.

    Raises:
        IncompatibleError: seq_len is longer than the model's context.
        InputError: The file can't be read.
    """
    spec = data.dataset
    limit = config.max_position_embeddings
    if spec is not None and spec.window_tokens > limit:
        raise IncompatibleError(
            f"data set {data.name}: seq_len {spec.window_tokens} exceeds the model's "
            f"max_position_embeddings {limit}",
            remedy=f"set seq_len: {limit} or less in the data set",
        )
    if spec is not None:
        preread(data)


def preread(data: ResolvedInput) -> None:
    """Reads the parts that are downloaded and not large, to find faults before any work.

    Raises:
        InputError: A part can't be read.
    """
    for located in data.parts:
        if located.path.exists() and located.size_bytes() <= MAX_PREFLIGHT_BYTES:
            located.read()
