"""`bench.onnx`: how fast exported decoders are in onnxruntime on this machine."""

import importlib.util
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmopt.artifacts.manifest import ArtifactKind
from llmopt.artifacts.onnx_description import DESCRIPTION_NAME, read_onnx_description
from llmopt.engine.build_needs import measure_model_bytes
from llmopt.errors import CapabilityError, IncompatibleError
from llmopt.serving.target import Target
from llmopt.steps.base import Estimate, InputRef, Outcome, RunContext, StepInputs
from llmopt.steps.candidate_fields import CandidateFields
from llmopt.steps.estimates import LIBRARIES_BYTES


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
        """Refuses exports that can't decode, or not so far."""
        del target
        for given in inputs.values():
            if not (given.path / DESCRIPTION_NAME).exists():
                continue  # made by an earlier step
            description = read_onnx_description(given.path)
            if not description.kv_cache:
                raise IncompatibleError(
                    f"{given.name} was exported without a key-value cache, so it decodes nothing",
                    remedy="export it with kv_cache: true",
                )
            length, limit = (
                self.prompt_tokens + self.new_tokens,
                description.max_position_embeddings,
            )
            if length > limit:
                raise IncompatibleError(
                    f"prompt_tokens + new_tokens is {length}, beyond {given.name}'s "
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

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Measures.

        Raises:
            CapabilityError: onnxruntime is not installed.
        """
        if importlib.util.find_spec("onnxruntime") is None:
            raise CapabilityError(
                "bench.onnx needs onnxruntime, which is not installed",
                remedy="pip install 'llmopt[onnx]'",
            )
        self.preflight(inputs, None)
        from llmopt.steps.bench_run import run_bench  # noqa: PLC0415 - onnxruntime

        return run_bench(self, inputs, context)
