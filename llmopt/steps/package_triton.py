"""`package.triton`: a model repository for NVIDIA's Triton Inference Server."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from llmopt.artifacts.digest import digest_value
from llmopt.artifacts.manifest import ArtifactKind
from llmopt.artifacts.onnx_description import DATA_NAME
from llmopt.artifacts.triton_description import RepositoryShape
from llmopt.engine import cuda_driver
from llmopt.serving.target import Target
from llmopt.steps.base import Estimate, InputRef, Outcome, RunContext, StepBase, StepInputs
from llmopt.steps.package_checks import check_inputs
from llmopt.triton.client_package import require_tritonclient
from llmopt.triton.releases import TritonRelease, find_release
from llmopt.triton.runtime_files import digest_runtime

# A folder of the repository and a part of URLs.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}\Z")
SHAPES_OF_FIELDS: dict[str, tuple[RepositoryShape, ...]] = {
    "tokenizer": ("generate", "ensemble"),
    "task": ("ensemble",),
    "max_batch_size": ("generate", "ensemble"),
    "max_queue_size": ("generate",),
    "default_max_tokens": ("generate",),
    "buckets": ("ensemble",),
    "max_queue_delay_ms": ("ensemble",),
    "latency_budget_ms": ("ensemble",),
    "preferred_batch_sizes": ("ensemble",),
    "instances": ("generate", "ensemble"),
    "device": ("generate", "ensemble"),
    "gpus": ("generate", "ensemble"),
    "warm_up": ("generate", "ensemble"),
    "response_cache": ("ensemble",),
    "rate_limiter": ("generate", "ensemble"),
    "threads": ("generate", "ensemble"),
    "pack_environment": ("generate", "ensemble"),
    "environment_path": ("generate", "ensemble"),
    "engine_args": ("vllm",),
    "smoke": ("generate", "ensemble"),
}
COUNTS = {"tensor_parallel_size", "max_model_len"}  # of engine_args, which are judged here
WHY_NOT = {
    "response_cache": "the server caches no answers of models that stream",
    "max_queue_delay_ms": "such a model batches its requests itself, token by token",
    "preferred_batch_sizes": "such a model batches its requests itself, token by token",
    "gpus": "vLLM takes the GPUs that it sees; set tensor_parallel_size in engine_args",
    "smoke": "the server that can be had here has no vllm backend",
    "max_batch_size": "vLLM has max_num_seqs; set it in engine_args",
}


class RateLimiter(BaseModel):
    """What each instance takes of the server's resources while it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    resources: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")], Annotated[int, Field(ge=1)]
    ] = Field(
        default_factory=dict, description="Name → how many; the server's --rate-limit-resource."
    )
    priority: int = Field(0, ge=0, description="1 is served first; 0 leaves the server's own.")

    @model_validator(mode="after")
    def _check_any(self) -> "RateLimiter":
        if not self.resources and not self.priority:
            raise ValueError("says nothing: give resources or priority")
        return self


class PackageTriton(StepBase):
    """Writes a Triton model repository, which needs no llmopt to run."""

    produces: ClassVar[ArtifactKind] = "triton_repository"
    step_version: ClassVar[int] = 2  # the command in README.md of 1 lacked arguments

    uses: Literal["package.triton"]
    shape: RepositoryShape = Field(
        description="generate (text in, text out, streamed: one Python model with a key-value "
        "cache over an export or an engine), ensemble (tokenizer, engine, postprocessor: one "
        "forward pass), or vllm (the vllm backend over a checkpoint)."
    )
    model: Annotated[
        str, InputRef(("onnx_model", "tensorrt_engine", "checkpoint", "quantized_checkpoint"))
    ] = Field(description="What is served: an export, an engine, or for vllm a checkpoint.")
    tokenizer: Annotated[str | None, InputRef(("checkpoint", "quantized_checkpoint"))] = Field(
        None,
        description="The checkpoint whose tokenizer is used (default: what the export holds; an "
        "engine holds none).",
    )
    model_name: str | None = Field(
        None, description="The name that requests use (default: that of the model input)."
    )
    task: Literal["score", "embed", "fill_mask"] | None = Field(
        None,
        description="Of an ensemble: score (last token's likeliest successors), embed (mean "
        "pooled) or fill_mask.",
    )
    max_batch_size: int = Field(
        8, ge=1, le=4096, description="Rows that are computed together at most."
    )
    max_queue_size: int = Field(
        64, ge=1, description="generate: requests that wait; more are refused."
    )
    default_max_tokens: int = Field(
        256, ge=1, description="generate: tokens of an answer, where a request does not say."
    )
    buckets: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="ensemble: lengths that texts are padded to, in tokens, rising (default: the "
        "grid of the engine's profiles). Only equal shapes are batched.",
    )
    max_queue_delay_ms: float = Field(
        2.0,
        ge=0,
        le=60_000,
        description="ensemble: how long a request waits for others, on the engine alone.",
    )
    latency_budget_ms: float | None = Field(
        None, gt=0, description="ensemble: what waiting may cost a lone request altogether."
    )
    preferred_batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="ensemble: batches that are sent off before the delay is over."
    )
    instances: int = Field(1, ge=1, description="Copies of the model, per GPU.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="What the server computes on; auto: cuda for engines or named gpus, else cpu.",
    )
    gpus: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="Numbers of the server's GPUs (default: all that it has)."
    )
    warm_up: bool = Field(True, description="Run the model before the first request.")
    version: int = Field(1, ge=1, description="The version folder.")
    version_policy: Literal["latest", "all"] | tuple[Annotated[int, Field(ge=1)], ...] = Field(
        "latest", description="Version folders to serve: latest, all, or a list."
    )
    response_cache: bool = Field(
        False, description="ensemble: answer equal requests from the server's --cache-config."
    )
    rate_limiter: RateLimiter | None = Field(
        None, description="Resources that an instance takes while it runs, and its priority."
    )
    parameters: dict[str, str] = Field(
        default_factory=dict, description="Further parameters of config.pbtxt."
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of one instance (default: onnxruntime's choice)."
    )
    triton_release: str = Field(
        "24.10", description="The server's release, whose versions are checked against."
    )
    pack_environment: bool = Field(
        False,
        description="Pack the Python environment of requirements.txt into the repository; needs "
        "the release's Python here, and packages from an index.",
    )
    environment_path: str | None = Field(
        None,
        description="Where the server finds the Python environment of requirements.txt, a folder "
        "or a packed one, by its whole path (default: its own Python).",
    )
    server_path: str = Field(
        "/models",
        pattern=r"^/[A-Za-z0-9_./-]*$",
        description="Where the repository is mounted on the server; vllm's model path begins so.",
    )
    engine_args: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="vllm: arguments of its engine, such as {max_model_len: 4096}.",
    )

    smoke: bool = Field(
        False,
        description="Start the real server over the repository, ask it, and hold its answers "
        "against the export run directly; llmopt doctor says whether it is here.",
    )

    @field_validator("model_name")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None and not MODEL_NAME.match(name):
            raise ValueError(
                f"{name!r} is no model name: letters, digits, _ . and - up to 80, a letter or "
                "digit first"
            )
        return name

    @field_validator("environment_path")
    @classmethod
    def _check_environment(cls, path: str | None) -> str | None:
        if path is not None and not path.startswith("/"):
            raise ValueError(
                f"{path!r} is no whole path: the server's working folder is unknown, and what lies "
                "in the repository comes from pack_environment"
            )
        return path

    @field_validator("triton_release", mode="before")
    @classmethod
    def _check_release(cls, value: Any) -> Any:
        """Takes 24.08, which YAML reads as a number; 24.1 would stand for 24.10."""
        text = f"{value:.2f}" if isinstance(value, float) else value
        if isinstance(text, str):
            find_release(text)
        return text

    @field_validator("buckets", "preferred_batch_sizes")
    @classmethod
    def _check_rising(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(set(sizes)):
            raise ValueError(f"{list(sizes)} must rise, each once")
        return sizes

    @field_validator("engine_args")
    @classmethod
    def _check_engine_args(cls, arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if "model" in arguments:
            raise ValueError("model is the step's own: it follows from server_path")
        dashed = [name for name in arguments if "-" in name]
        if dashed:
            raise ValueError(f"{dashed[0]} is a flag; write it as {dashed[0].replace('-', '_')}")
        for name in COUNTS & arguments.keys():
            value = arguments[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number from 1 up")
        return arguments

    @model_validator(mode="after")
    def _check_shape(self) -> "PackageTriton":
        """Refuses fields that mean nothing for the shape."""
        for name in sorted(self.model_fields_set & SHAPES_OF_FIELDS.keys()):
            shapes = SHAPES_OF_FIELDS[name]
            if self.shape not in shapes and getattr(self, name) != self._default_of(name):
                why = f": {WHY_NOT[name]}" if name in WHY_NOT else ""
                raise ValueError(f"{name} is for shape {' or '.join(shapes)}{why}")
        if self.shape == "ensemble" and self.task is None:
            raise ValueError("shape ensemble needs task: score, embed or fill_mask")
        return self

    @model_validator(mode="after")
    def _check_sizes(self) -> "PackageTriton":
        over = [size for size in self.preferred_batch_sizes if size > self.max_batch_size]
        if over:
            raise ValueError(
                f"preferred_batch_sizes holds {over[0]}, above max_batch_size {self.max_batch_size}"
            )
        if self.pack_environment and self.environment_path is not None:
            raise ValueError("give pack_environment or environment_path, not both")
        if self.device == "cpu" and self.gpus:
            raise ValueError(f"gpus names {list(self.gpus)}, but device is cpu")
        if isinstance(self.version_policy, tuple) and self.version not in self.version_policy:
            raise ValueError(
                f"version_policy {list(self.version_policy)} leaves out version {self.version}, "
                "which this step writes"
            )
        return self

    @classmethod
    def _default_of(cls, name: str) -> Any:
        return cls.model_fields[name].get_default(call_default_factory=True)

    @property
    def release(self) -> TritonRelease:
        """What the target's container holds."""
        return find_release(self.triton_release)

    @property
    def served_name(self) -> str:
        """The model's name in requests."""
        return self.model_name or self.model

    def settings(self) -> dict[str, Any]:
        """Returns the settings with the name that the model is served by."""
        return {**super().settings(), "model_name": self.served_name}

    def identity_settings(self) -> dict[str, Any]:
        """Returns the settings, and the digest of the code that goes into the repository."""
        copied = [Path(cuda_driver.__file__)] if self.shape == "generate" else []  # with engines
        digests = digest_runtime(self.shape, copied)
        return {**super().identity_settings(), "runtime": digest_value(digests)}

    def identity_packages(self) -> tuple[str, ...]:
        """Names no library: what is written follows from the settings and the inputs."""
        return ()

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Refuses, before any work, what the server could not serve as asked."""
        check_inputs(self, inputs, target)

    def estimate(self, inputs: StepInputs) -> Estimate | None:
        """Estimates the disk for an export's weights, which are copied; the rest is linked."""
        weights = inputs["model"].path / DATA_NAME
        return Estimate(0, weights.stat().st_size, 0) if weights.exists() else None

    def require_tools(self) -> None:
        """Refuses where what writes the config, or the server to try it in, is not here.

        Raises:
            CapabilityError: tritonclient is not installed, or `smoke` finds no server.
        """
        require_tritonclient("package.triton writes config.pbtxt")
        if self.smoke:
            from llmopt.triton.server_distribution import require_server  # noqa: PLC0415 - start-up

            require_server()

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Writes the repository.

        Raises:
            CapabilityError: tritonclient, which holds Triton's protobufs, is not installed.
        """
        self.require_tools()
        self.preflight(inputs, None)
        from llmopt.steps.package_run import run_package  # noqa: PLC0415 - protobuf

        return run_package(self, inputs, context)
