"""What an ensemble can be made of: known before any work, without Triton's protobufs."""

from collections.abc import Sequence
from typing import Literal

from llmopt.artifacts.engine_description import EngineDescription
from llmopt.artifacts.onnx_description import OnnxDescription, OnnxTask
from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.errors import IncompatibleError

EnsembleTask = Literal["score", "embed", "fill_mask"]
EXPORTED_TASKS: dict[EnsembleTask, OnnxTask] = {
    "score": "generate", "embed": "embed", "fill_mask": "fill_mask",
}  # fmt: skip
EXPORTS: dict[EnsembleTask, str] = {
    "score": "a decoder with kv_cache: false and last_token_logits: true",
    "embed": "a BERT encoder with task: embed",
    "fill_mask": "a BERT encoder with task: fill_mask and masked_positions: true",
}
SMALLEST_BUCKET, LARGEST_DEFAULT_BUCKET = 16, 512
SEQUENCE = "sequence"


def check_ensemble_model(task: EnsembleTask, model: OnnxDescription) -> None:
    """Refuses an exported model that can't do a task in one pass, or not through the backends.

    Raises:
        IncompatibleError: Names what is in the way and the export that fits.
    """
    reason = _why_not(task, model)
    if reason is not None:
        raise IncompatibleError(
            f"an ensemble with task: {task} can't serve this {model.model_type}: {reason}",
            remedy=f"export {EXPORTS[task]}",
        )
    if model.dtype == "bfloat16":
        raise IncompatibleError(
            "the model was exported in bfloat16, which numpy in the postprocessor lacks",
            remedy="export it with dtype: float32 or float16",
        )


def check_ensemble_backend(model: OnnxDescription, engine: EngineDescription | None) -> None:
    """Refuses what Triton's backends onnxruntime and tensorrt do not run as it was checked.

    Raises:
        IncompatibleError: An engine of TensorRT-RTX, which the tensorrt backend does not load, or
            an export that needs session options, which the onnxruntime backend does not pass on.
    """
    if engine is not None and engine.backend != "tensorrt":
        raise IncompatibleError(
            f"the engine was built by {engine.backend}; Triton's tensorrt backend loads engines of "
            "tensorrt alone",
            remedy="build it with backend: tensorrt, or serve the export itself",
        )
    if engine is None and model.weights == "qdq_int4":
        options = ", ".join(f"{key}: {value}" for key, value in model.session_options.items())
        raise IncompatibleError(
            f"weights: qdq_int4 needs onnxruntime's session option {options}; Triton's onnxruntime "
            "backend passes none on, and would round the inputs of every layer to 8 bits",
            remedy="export with weights: matmulnbits or dequantised",
        )


def choose_buckets(
    model: OnnxDescription, profiles: Sequence[OptimizationProfile]
) -> tuple[int, ...]:
    """Returns the lengths that texts are padded to: the grid of the profiles, else powers of 2.

    Without profiles they end at 512, or at the model's positions where these are fewer.
    """
    if profiles:
        return tuple(sorted({profile.axes[SEQUENCE].max for profile in profiles}))
    largest = min(LARGEST_DEFAULT_BUCKET, model.max_position_embeddings)
    buckets = [SMALLEST_BUCKET]
    while buckets[-1] < largest:
        buckets.append(2 * buckets[-1])
    return (*(bucket for bucket in buckets if bucket < largest), largest)


def check_buckets(
    buckets: Sequence[int],
    model: OnnxDescription,
    profiles: Sequence[OptimizationProfile],
    max_batch_size: int,
) -> None:
    """Refuses buckets that the model or the engine's profiles have no room for.

    Raises:
        IncompatibleError: Names the bucket, the limit and the way out.
    """
    limit = model.max_position_embeddings
    if buckets[-1] > limit:
        raise IncompatibleError(
            f"bucket {buckets[-1]} is beyond the model's max_position_embeddings {limit}",
            remedy=f"end buckets at {limit} or less",
        )
    for bucket in buckets if profiles else ():
        for batch in (1, max_batch_size):
            if not any(p.contains({"batch": batch, SEQUENCE: bucket}) for p in profiles):
                ranges = "; ".join(
                    f"{p.name}: batch {p.axes['batch']}, {SEQUENCE} {p.axes[SEQUENCE]}"
                    for p in profiles
                )
                raise IncompatibleError(
                    f"no profile of the engine takes {batch} rows of {bucket} tokens ({ranges})",
                    remedy="set buckets and max_batch_size inside the profiles, or build the "
                    "engine for more",
                )


def _why_not(task: EnsembleTask, model: OnnxDescription) -> str | None:
    if model.task != EXPORTED_TASKS[task]:
        return f"it was exported for {model.task}"
    if task == "score" and model.kv_cache:
        return "it takes a key-value cache, which one pass has no use for"
    if task == "score" and not model.last_token_logits:
        return "it returns the logits of every token, which must not go from model to model"
    if task == "fill_mask" and not model.masked_positions:
        return "it returns the logits of every token, which must not go from model to model"
    return None
