"""`bench.onnx`: how fast exported decoders are in onnxruntime on this machine."""

import importlib.util
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmopt.artifacts.manifest import ArtifactKind
from llmopt.artifacts.onnx_description import (
    DESCRIPTION_NAME,
    OnnxDescription,
    read_onnx_description,
)
from llmopt.checkpoint.encoder_config import is_encoder
from llmopt.engine.build_needs import measure_model_bytes
from llmopt.errors import CapabilityError, IncompatibleError
from llmopt.serving.target import Target
from llmopt.steps.base import (
    Estimate,
    InputRef,
    Outcome,
    ResolvedInput,
    RunContext,
    StepInputs,
)
from llmopt.steps.candidate_fields import CandidateFields
from llmopt.steps.estimates import LIBRARIES_BYTES
from llmopt.steps.export_onnx import ExportOnnx


class BenchOnnx(CandidateFields):
    """Measures tokens per second and memory of exported decoders, in turn.

    Metrics are keyed by the candidate's name; a gate with `metrics_of` requires, for example,
    `int4.decode_speedup`, which is over the first candidate's speed.
    """

    produces: ClassVar[ArtifactKind] = "evaluation"
    typical_metric: ClassVar[str] = "decode_tokens_per_s"

    uses: Literal["bench.onnx"]
    candidates: Annotated[tuple[str, ...], InputRef(("onnx_model",))] = Field(
        min_length=1, description="The exports to measure, all with a key-value cache."
    )
    batch: int = Field(1, ge=1, description="Rows that are decoded together.")
    prompt_tokens: int = Field(128, ge=4, description="Tokens of each row's prompt.")
    new_tokens: int = Field(32, ge=1, description="Tokens decoded after it.")
    rounds: int = Field(3, ge=1, description="Times that each export is measured; medians count.")

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Refuses exports that can't decode on a CPU, or not so far."""
        del target
        for given in inputs.values():
            if (given.path / DESCRIPTION_NAME).exists():
                self._check_description(given.name, read_onnx_description(given.path))
            elif isinstance(given.maker, ExportOnnx):
                _check_coming_export(given.name, given.maker, given.maker_inputs.get("model"))

    def _check_description(self, name: str, description: OnnxDescription) -> None:
        if description.task != "generate":
            raise _refuse_encoder(name, f"task {description.task}")
        _check_decoding(name, description.dtype, kv_cache=description.kv_cache)
        length = self.prompt_tokens + self.new_tokens
        limit = description.max_position_embeddings
        if length > limit:
            raise IncompatibleError(
                f"prompt_tokens + new_tokens is {length}, beyond {name}'s "
                f"max_position_embeddings {limit}",
                remedy=f"lower them to {limit} together",
            )

    def estimate(self, inputs: StepInputs) -> Estimate | None:
        """Estimates the memory of the largest export; None where one is yet to be made.

        How fast they are is what the step is to find out, so the time is not known.
        """
        sizes = [measure_model_bytes(given.path) for given in inputs.values()]
        if not all(sizes):
            return None
        # onnxruntime holds the weights and, where they are packed anew for its products, once more.
        return Estimate(LIBRARIES_BYTES + 2 * max(sizes), 0, 0)

    def identity_packages(self) -> tuple[str, ...]:
        """Names the libraries whose version changes the numbers."""
        return ("onnxruntime",)

    def require_tools(self) -> None:
        """Refuses where onnxruntime is not installed.

        Raises:
            CapabilityError: It is not.
        """
        if importlib.util.find_spec("onnxruntime") is None:
            raise CapabilityError(
                "bench.onnx needs onnxruntime, which is not installed",
                remedy="pip install 'llmopt[onnx]'",
            )

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Measures.

        Raises:
            CapabilityError: onnxruntime is not installed.
        """
        self.require_tools()
        self.preflight(inputs, None)
        from llmopt.steps.bench_run import run_bench  # noqa: PLC0415 - onnxruntime

        return run_bench(self, inputs, context)


def _check_coming_export(name: str, maker: ExportOnnx, model: ResolvedInput | None) -> None:
    """Refuses what another step will export; an encoder shows by its fields or its checkpoint."""
    fields = {"weights": maker.weights == "int8_dynamic", "task": maker.task is not None}
    for field, is_encoders in fields.items():
        if is_encoders:
            raise _refuse_encoder(name, f"{field}: {getattr(maker, field)}")
    if model is not None and model.path.exists() and is_encoder(model.path):
        raise _refuse_encoder(name, f"from {model.name}")
    _check_decoding(name, maker.dtype, kv_cache=maker.kv_cache)


def _check_decoding(name: str, dtype: str, *, kv_cache: bool) -> None:
    if not kv_cache:
        raise IncompatibleError(
            f"{name} is exported without a key-value cache, so it decodes nothing",
            remedy="export it with kv_cache: true",
        )
    if dtype == "bfloat16":
        raise IncompatibleError(
            f"{name} is exported in bfloat16, which onnxruntime's CPU provider lacks",
            remedy="measure an export with dtype: float32 or float16",
        )


def _refuse_encoder(name: str, sign: str) -> IncompatibleError:
    return IncompatibleError(
        f"{name} is an encoder ({sign}); bench.onnx measures decoders",
        remedy="leave it out of candidates",
    )
