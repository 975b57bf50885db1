"""The repository of an ensemble: tokenizer, engine and postprocessor around one forward pass.

The code is that of `llmopt.triton.runtime.ensemble`, copied as it stands.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.engine_description import ENGINE_NAME, EngineDescription
from llmopt.artifacts.onnx_description import DATA_NAME, MODEL_NAME, OnnxDescription
from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.artifacts.tensor_spec import DYNAMIC, TensorSpec, make_spec
from llmopt.artifacts.triton_description import (
    Backend,
    EngineFacts,
    ModelRole,
    RepositoryModel,
    TritonDescription,
)
from llmopt.triton.ensemble_files import (
    SETTINGS_NAME,
    TOKENS_NAME,
    PostprocessorFile,
    TokenizerFile,
    choose_padding_side,
)
from llmopt.triton.ensemble_rules import (
    EnsembleTask,
    check_buckets,
    check_ensemble_backend,
    check_ensemble_model,
    choose_buckets,
)
from llmopt.triton.ensemble_tokenizer import EnsembleTokenizer
from llmopt.triton.model_config import ModelConfig, make_config, write_config
from llmopt.triton.releases import NUMPY_REQUIREMENT, TritonRelease
from llmopt.triton.repository import (
    ServingOptions,
    add_instances,
    add_parameters,
    add_version_policy,
    make_model_folders,
    place_file,
    write_requirements,
)
from llmopt.triton.runtime_files import MAX_BYTES_PER_TOKEN, copy_runtime

PLACEHOLDER_NAME = "placeholder.txt"
PLAN_NAME = "model.plan"  # what the tensorrt backend looks for
# Module of the runtime → its name in the version folder.
TOKENIZER_MODULES = {
    "tokenizer_model.py": "model.py", "tokenization.py": "tokenization.py", "rows.py": "rows.py",
}  # fmt: skip
POSTPROCESSOR_MODULES = {
    "postprocessor_model.py": "model.py", "postprocessing.py": "postprocessing.py",
}  # fmt: skip
ANY_VERSION = -1
TEXT_INPUT = make_spec("text_input", "string", batch=DYNAMIC, one=1)
MASK = "attention_mask"


@dataclass(frozen=True)
class EnsemblePlan:
    """What an ensemble is made of and how it is served.

    Attributes:
        task: What is returned: `score` the likeliest tokens after a text, `fill_mask` those for
            its first mask, `embed` its mean hidden state, normalised.
        source: The folder of the exported model, or of the engine.
        model: What the export says of itself.
        engine: What the engine says of itself; None where onnxruntime runs the export.
        tokenizer: The folder of the checkpoint's tokenizer and config.json.
        max_batch_size: Rows of a request, and of what dynamic batching merges.
        max_queue_delay_us: Microseconds that a request waits for others, on the engine alone.
        buckets: Lengths that texts are padded to, rising; empty takes `choose_buckets`.
        preferred_batch_sizes: Batches that are sent off before the delay is over.
        response_cache: Whether the engine's answers are taken from the server's cache.
        threads: Of onnxruntime; None leaves its choice.
        warm_up: Whether loading runs a full batch of every bucket.
        num_tokens: How many tokens are returned, but for `embed`.
        prompt: A text to try it with; None takes a Japanese one.
    """

    task: EnsembleTask
    source: Path
    model: OnnxDescription
    engine: EngineDescription | None
    tokenizer: Path
    max_batch_size: int
    max_queue_delay_us: int
    buckets: tuple[int, ...] = ()
    preferred_batch_sizes: tuple[int, ...] = ()
    response_cache: bool = False
    threads: int | None = None
    warm_up: bool = True
    num_tokens: int = 5
    prompt: str | None = None

    @property
    def profiles(self) -> tuple[OptimizationProfile, ...]:
        """The engine's; none of an export."""
        return () if self.engine is None else self.engine.profiles

    @property
    def grid(self) -> tuple[int, ...]:
        """The buckets."""
        return self.buckets or choose_buckets(self.model, self.profiles)

    @property
    def num_answer_tokens(self) -> int:
        """How many tokens are returned, where the vocabulary has so many."""
        return min(self.num_tokens, self.model.vocab_size)


def check_ensemble(plan: EnsemblePlan) -> None:
    """Refuses an ensemble that would not load, or not answer as the model does.

    Raises:
        IncompatibleError: Names value, limit and the way out.
    """
    check_ensemble_model(plan.task, plan.model)
    check_ensemble_backend(plan.model, plan.engine)
    check_buckets(plan.grid, plan.model, plan.profiles, plan.max_batch_size)


def write_ensemble(
    repository: Path, plan: EnsemblePlan, options: ServingOptions, release: TritonRelease
) -> TritonDescription:
    """Writes the four models' folders and requirements.txt.

    Args:
        repository: An existing folder.
        plan: What the ensemble is made of.
        options: Names, versions and places; instances, GPUs, rate limit and parameters are the
            engine's, the other models run once, on the CPU.
        release: The server's.

    Returns:
        The description, which the caller writes.

    Raises:
        IncompatibleError: As `check_ensemble`; or the tokenizer can't be packaged.
        InputError: The tokenizer can't be loaded, or has no mask token where one is needed.
    """
    check_ensemble(plan)
    tokenizer = EnsembleTokenizer.open(plan.tokenizer)
    requirements = (NUMPY_REQUIREMENT, *tokenizer.list_requirements())
    writer = _EnsembleWriter(repository, plan, options, tokenizer)
    writer.write_tokenizer()
    writer.write_engine()
    writer.write_postprocessor()
    writer.write_ensemble()
    write_requirements(
        repository,
        f"the Python {release.python} that serves {options.model_name} in {release.image}",
        requirements,
    )
    return writer.describe(release)


class _EnsembleWriter:
    """Writes one repository; what the models hand on is described once, as TensorSpecs."""

    def __init__(
        self,
        repository: Path,
        plan: EnsemblePlan,
        options: ServingOptions,
        tokenizer: EnsembleTokenizer,
    ) -> None:
        self._repository, self._plan, self._options = repository, plan, options
        self._tokenizer = tokenizer
        # Tokenizer and postprocessor: small work on the CPU, wherever the engine runs.
        self._beside = replace(
            options, device="cpu", gpus=(), instances=1, rate_limit=None, parameters={}
        )
        self._engine_inputs = tuple(_with_row_axis(spec) for spec in plan.model.inputs)
        masks = [s for s in self._engine_inputs if s.name == MASK and plan.task == "embed"]
        self._handed_on = (*plan.model.outputs, *masks)

    def write_tokenizer(self) -> None:
        """Writes the model that turns texts into the engine's inputs."""
        config = self._make_config("tokenizer", "python", (TEXT_INPUT,), self._engine_inputs)
        version_folder = self._write_model(config, self._beside)
        copy_runtime("ensemble", version_folder, TOKENIZER_MODULES)
        fills = self._plan.task == "fill_mask"
        settings = TokenizerFile(
            tokenizer=self._tokenizer.write(version_folder),
            outputs=tuple(spec.name for spec in self._engine_inputs),
            buckets=tuple(self._plan.grid),
            padding_side=choose_padding_side(self._plan.task),
            pad_id=self._tokenizer.pad_id,
            mask_id=self._tokenizer.mask_id if fills else None,
            mask_token=self._tokenizer.mask_token if fills else None,
            max_text_bytes=MAX_BYTES_PER_TOKEN * self._plan.grid[-1],
        )
        _write_json(version_folder / SETTINGS_NAME, settings.model_dump(mode="json"))

    def write_engine(self) -> None:
        """Writes the model that computes, the only one whose requests are batched."""
        plan, options = self._plan, self._options
        backend: Backend = "onnxruntime" if plan.engine is None else "tensorrt"
        config = self._make_config("engine", backend, plan.model.inputs, plan.model.outputs)
        if plan.engine is None:
            threads = {} if plan.threads is None else {"intra_op_thread_count": str(plan.threads)}
            options = replace(options, parameters={**threads, **options.parameters})
        else:
            config.platform = "tensorrt_plan"
        _add_batching_and_warm_up(config, plan)
        if plan.response_cache:
            config.response_cache.enable = True
        version_folder = self._write_model(config, options)
        names = {MODEL_NAME: MODEL_NAME, DATA_NAME: DATA_NAME}
        for name, placed in (names if plan.engine is None else {ENGINE_NAME: PLAN_NAME}).items():
            if (plan.source / name).exists():
                place_file(plan.source / name, version_folder / placed)

    def write_postprocessor(self) -> None:
        """Writes the model that turns the engine's output into an answer."""
        outputs = self._answers()
        config = self._make_config("postprocessor", "python", self._handed_on, outputs)
        version_folder = self._write_model(config, self._beside)
        copy_runtime("ensemble", version_folder, POSTPROCESSOR_MODULES)
        settings = PostprocessorFile(task=self._plan.task, num_tokens=self._plan.num_answer_tokens)
        _write_json(version_folder / SETTINGS_NAME, settings.model_dump(mode="json"))
        if self._plan.task != "embed":
            texts = self._tokenizer.list_texts(self._plan.model.vocab_size)
            _write_json(version_folder / TOKENS_NAME, texts)

    def write_ensemble(self) -> None:
        """Writes the model that requests name: how the three are joined."""
        config = self._make_config("ensemble", "ensemble", (TEXT_INPUT,), self._answers())
        self._add_step(config, "tokenizer", (TEXT_INPUT,), self._engine_inputs)
        self._add_step(config, "engine", self._engine_inputs, self._plan.model.outputs)
        self._add_step(config, "postprocessor", self._handed_on, self._answers())
        folder, version_folder = make_model_folders(
            self._repository, self._options.model_name, self._options.version
        )
        add_version_policy(config, self._options)
        write_config(folder, config)
        text = "Triton needs this folder; git and object stores drop empty ones.\n"
        (version_folder / PLACEHOLDER_NAME).write_text(text, encoding="utf-8")

    def describe(self, release: TritonRelease) -> TritonDescription:
        """Returns what stands beside the repository."""
        plan, options = self._plan, self._options
        engine = plan.engine
        return TritonDescription(
            shape="ensemble",
            task=plan.task,
            model_name=options.model_name,
            models=tuple(
                RepositoryModel(name=self._name(role), role=role, backend=backend)
                for role, backend in self._backends().items()
            ),
            triton_release=release.release,
            device=options.device,
            max_batch_size=plan.max_batch_size,
            buckets=plan.grid,
            max_queue_delay_us=plan.max_queue_delay_us if plan.max_batch_size > 1 else None,
            model=plan.model,
            engine=None if engine is None else EngineFacts.of(engine),
            model_sha256=digest_file(plan.source / MODEL_NAME)
            if engine is None
            else engine.onnx_sha256,
            prompt=plan.prompt or self._make_prompt(),
        )

    def _backends(self) -> dict[ModelRole, Backend]:
        return {
            "ensemble": "ensemble",
            "tokenizer": "python",
            "engine": "onnxruntime" if self._plan.engine is None else "tensorrt",
            "postprocessor": "python",
        }

    def _make_prompt(self) -> str:
        if self._plan.task == "fill_mask":
            return f"前身頃に{self._tokenizer.mask_token}を縫う。"
        return "前身頃に袖を縫う。" if self._plan.task == "embed" else "前身頃に袖を"

    def _name(self, role: ModelRole) -> str:
        name = self._options.model_name
        return name if role == "ensemble" else f"{name}_{role}"

    def _answers(self) -> tuple[TensorSpec, ...]:
        if self._plan.task == "embed":
            width = self._plan.model.outputs[0].axes[-1].size
            return (make_spec("embedding", "float32", batch=DYNAMIC, hidden=width),)
        tokens = {"batch": DYNAMIC, "tokens": self._plan.num_answer_tokens}
        return (
            make_spec("text_output", "string", batch=DYNAMIC, one=1),
            make_spec("tokens", "string", **tokens),
            make_spec("token_ids", "int64", **tokens),
            make_spec("logprobs", "float32", **tokens),
        )

    def _make_config(
        self,
        role: ModelRole,
        backend: Backend,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> ModelConfig:
        return make_config(self._name(role), backend, self._plan.max_batch_size, inputs, outputs)

    def _write_model(self, config: ModelConfig, options: ServingOptions) -> Path:
        """Writes a model's folders and config; returns its version folder."""
        add_instances(config, options)
        if config.backend == "tensorrt":
            profiles = range(len(self._plan.profiles))
            config.instance_group[0].profile.extend(str(index) for index in profiles)
        add_version_policy(config, options)
        add_parameters(config, options, is_python=config.backend == "python")
        folder, version_folder = make_model_folders(
            self._repository, config.name, self._options.version
        )
        write_config(folder, config)
        return version_folder

    def _add_step(
        self,
        config: ModelConfig,
        role: ModelRole,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        step = config.ensemble_scheduling.step.add(
            model_name=self._name(role), model_version=ANY_VERSION
        )
        step.input_map.update({spec.name: spec.name for spec in inputs})
        step.output_map.update({spec.name: spec.name for spec in outputs})


def _with_row_axis(spec: TensorSpec) -> TensorSpec:
    """Returns a tensor as a Python model gives it: one value per row has an axis of its own."""
    if len(spec.axes) > 1:
        return spec
    return make_spec(spec.name, spec.dtype, batch=DYNAMIC, one=1)


def _add_batching_and_warm_up(config: ModelConfig, plan: EnsemblePlan) -> None:
    if plan.max_batch_size > 1:
        config.dynamic_batching.max_queue_delay_microseconds = plan.max_queue_delay_us
        config.dynamic_batching.preferred_batch_size.extend(plan.preferred_batch_sizes)
    for bucket in plan.grid if plan.warm_up else ():
        warm_up = config.model_warmup.add(name=f"bucket_{bucket}", batch_size=plan.max_batch_size)
        for tensor in config.input:
            # Tokens, masks and positions of 0 exist in every model.
            given = warm_up.inputs[tensor.name]
            given.data_type, given.zero_data = tensor.data_type, True
            given.dims.extend(bucket if size == DYNAMIC else size for size in tensor.dims)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
