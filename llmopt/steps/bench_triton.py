"""`bench.triton`: what clients of a repository see, measured at the real server on this machine."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from llmopt.artifacts.manifest import ArtifactKind
from llmopt.artifacts.triton_description import (
    TRITON_DESCRIPTION_NAME,
    RepositoryShape,
    read_triton_description,
)
from llmopt.errors import IncompatibleError
from llmopt.serving.target import Target
from llmopt.steps.base import InputRef, Outcome, RunContext, StepBase, StepInputs
from llmopt.triton.client_package import require_tritonclient
from llmopt.triton.trial_rules import check_trial

MAX_CLIENTS = 256


class BenchTriton(StepBase):
    """Measures requests and tokens per second and latencies of a repository, by clients at once.

    Metrics are keyed by the number of clients, such as `clients_8.tokens_per_s`; a gate with
    `metrics_of` holds them, or `scaling`, which is the last number's rate over the first's and
    holds on any machine.
    """

    produces: ClassVar[ArtifactKind] = "evaluation"
    step_version: ClassVar[int] = 2  # 1 did not record what was measured on the CPU instead

    uses: Literal["bench.triton"]
    repository: Annotated[str, InputRef(("triton_repository",))] = Field(
        description="The repository to ask."
    )
    clients: tuple[Annotated[int, Field(ge=1, le=MAX_CLIENTS)], ...] = Field(
        (1, 4, 8, 16), min_length=1, description="Clients at once, one measurement each, rising."
    )
    seconds: float = Field(
        5.0, gt=0, le=3600, description="Length of each measurement; requests under way end after."
    )
    max_tokens: int = Field(64, ge=1, description="generate: tokens of each answer.")
    texts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="What is asked, in turn (default: Japanese apparel texts of many lengths)."
    )
    delays_ms: tuple[Annotated[float, Field(ge=0, le=60_000)], ...] = Field(
        (),
        description="ensemble: delays of dynamic batching to try; the one with the most requests "
        "within latency_budget_ms is chosen.",
    )
    latency_budget_ms: float | None = Field(
        None,
        gt=0,
        description="With delays_ms, and only so: what the p99 at every number of clients may be.",
    )

    @field_validator("clients", "delays_ms")
    @classmethod
    def _check_rising(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError(f"{list(values)} must rise, each once")
        return values

    @model_validator(mode="after")
    def _check_budget(self) -> "BenchTriton":
        if self.latency_budget_ms is not None and not self.delays_ms:
            raise ValueError(
                f"latency_budget_ms {self.latency_budget_ms:g} chooses among delays_ms, and none "
                "is given: give the delays to try, such as delays_ms: [0, 5, 20], or hold the "
                "measured p99 with an eval.gate: metrics_of this step, require "
                f"clients_{self.clients[-1]}.latency_p99_ms: "
                f"{{max: {self.latency_budget_ms:g}}}"
            )
        return self

    def measured_names(self) -> frozenset[str]:
        """Names the repository."""
        return frozenset({self.repository})

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Refuses what the server of this machine could not be asked.

        Raises:
            IncompatibleError: That server does not run such a repository, or delays are to be tried
                on what batches by itself.
        """
        del target
        given = inputs["repository"]
        shape: RepositoryShape | None = getattr(given.maker, "shape", None)
        model = given.maker_inputs.get("model")
        has_engine = model is not None and model.kind == "tensorrt_engine"
        if (given.path / TRITON_DESCRIPTION_NAME).exists():
            description = read_triton_description(given.path)
            shape, has_engine = description.shape, description.engine is not None
        check_trial("bench.triton", given.name, shape, has_engine=has_engine)
        if self.delays_ms and shape not in (None, "ensemble"):
            raise IncompatibleError(
                f"delays_ms is for ensembles; {given.name} has shape {shape}, which batches its "
                "requests itself",
                remedy="leave delays_ms out",
            )

    def identity_packages(self) -> tuple[str, ...]:
        """Names no library: the server and its environment are pinned."""
        return ()

    def require_tools(self) -> None:
        """Refuses where what asks the server, or the server, is not here.

        Raises:
            CapabilityError: tritonclient is not installed, or no server is in the cache.
        """
        require_tritonclient("bench.triton asks the server")
        from llmopt.triton.server_distribution import require_server  # noqa: PLC0415 - start-up

        require_server()

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Starts the server and measures.

        Raises:
            CapabilityError: tritonclient, or the server, is not here.
        """
        self.require_tools()
        self.preflight(inputs, None)
        from llmopt.steps.bench_triton_run import run_triton_bench  # noqa: PLC0415 - protobuf

        return run_triton_bench(self, inputs, context)
