"""Fields and preflight that the scoring steps share: which models are scored on what."""

from typing import Annotated, ClassVar

from pydantic import Field

from llmopt.artifacts.manifest import ArtifactKind
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.data.requirements import require_samples
from llmopt.errors import IncompatibleError, InputError
from llmopt.serving.target import Target
from llmopt.steps.base import InputRef, NotIdentity, ResolvedInput, StepBase, StepInputs
from llmopt.steps.quantize_fields import preread

AnyModelName = Annotated[str, InputRef(("checkpoint", "quantized_checkpoint"))]
OptionalModelName = Annotated[str | None, InputRef(("checkpoint", "quantized_checkpoint"))]
DEFAULT_MAX_LENGTH = 2048
MODEL_FIELDS = ("model", "candidates", "baseline")


class ScoringFields(StepBase):
    """Base of the steps that score models on documents."""

    produces: ClassVar[ArtifactKind] = "evaluation"

    max_length: int | None = Field(
        None,
        ge=2,
        description="Tokens the model sees at once (default: the data set's seq_len, else 2048, "
        "at most what the model allows).",
    )
    stride: int | None = Field(
        None, ge=1, description="Tokens between windows (default: half of max_length)."
    )
    bootstrap_samples: int = Field(
        2000,
        ge=100,
        description="Resamples of the documents that 95 % intervals are computed from.",
    )
    activation_memory_gb: Annotated[float, NotIdentity()] = Field(
        8.0, gt=0, description="Residual streams kept in memory; the rest goes to disk."
    )

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Opens the models that exist already and the data."""
        del target
        opened = []
        for key in model_keys(inputs):
            if inputs[key].path.exists():
                checkpoint = Checkpoint.open(inputs[key].path)
                checkpoint.require_tokenizer()
                opened.append(checkpoint)
        for checkpoint in opened:
            choose_window(self, inputs, checkpoint)
        check_same_vocabulary(opened)
        if "data" in inputs:
            check_data(inputs["data"])


def check_data(data: ResolvedInput) -> None:
    """Refuses data that can't be scored.

    Raises:
        InputError: A part can't be read, or a mix does not say how many documents it has.
    """
    assert data.dataset is not None
    try:
        require_samples(data.dataset)
    except InputError as error:
        raise InputError(f"data set {data.name}: {error.message}", remedy=error.remedy) from None
    preread(data)


def model_keys(inputs: StepInputs) -> list[str]:
    """Returns the keys of the models among the inputs, the baseline's last."""
    return [key for field in MODEL_FIELDS for key in inputs if key.partition(".")[0] == field]


def check_same_vocabulary(checkpoints: list[Checkpoint]) -> None:
    """Refuses to compare models whose next-token distributions differ in length.

    Raises:
        IncompatibleError: They do.
    """
    sizes = {checkpoint.config.vocab_size for checkpoint in checkpoints}
    if len(sizes) > 1:
        described = " and ".join(f"{c.folder} ({c.config.vocab_size})" for c in checkpoints)
        raise IncompatibleError(
            f"models with different vocabularies can't be compared: {described}"
        )


def choose_window(
    step: ScoringFields, inputs: StepInputs, checkpoint: Checkpoint
) -> tuple[int, int]:
    """Returns (max_length, stride) in tokens.

    Raises:
        IncompatibleError: They exceed what the model allows, or leave tokens without context.
    """
    limit = checkpoint.config.max_position_embeddings
    spec = inputs["data"].dataset if "data" in inputs else None
    asked = step.max_length or (spec.seq_len if spec is not None else None)
    if asked is not None and asked > limit:
        raise IncompatibleError(
            f"max_length {asked} exceeds max_position_embeddings {limit} of {checkpoint.folder}"
        )
    max_length = asked or min(DEFAULT_MAX_LENGTH, limit)
    stride = step.stride or max_length // 2
    if stride >= max_length:
        raise IncompatibleError(f"stride {stride} must be below max_length {max_length}")
    return max_length, stride
