"""The run of `package.triton`; imports protobuf, so only the step's `run()` imports it."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.files import clear_folder, folder_size_bytes
from llmopt.artifacts.onnx_description import MODEL_NAME
from llmopt.artifacts.triton_description import (
    REQUIREMENTS_NAME,
    EngineFacts,
    RepositoryModel,
    RepositoryShape,
    TritonDescription,
)
from llmopt.checkpoint.model_config import read_raw_config
from llmopt.engine import cuda_driver
from llmopt.errors import IncompatibleError
from llmopt.steps.base import Outcome, ResolvedInput, RunContext, StepInputs
from llmopt.steps.package_checks import (
    ServedModel,
    choose_device,
    make_generate_settings,
    read_served,
)
from llmopt.steps.package_triton import PackageTriton
from llmopt.steps.package_vocabulary import check_vocabulary
from llmopt.triton.checks.repository_check import check_repository
from llmopt.triton.generate_repository import GenerateParts, write_generate
from llmopt.triton.packed_environment import (
    PACKED_NAME,
    PACKED_PATH,
    find_python,
    pack_environment,
)
from llmopt.triton.repository import (
    Device,
    RateLimit,
    ServingOptions,
    names_packages,
    write_requirements,
)
from llmopt.triton.repository_readme import write_readme
from llmopt.triton.server_arguments import list_start_arguments
from llmopt.triton.vllm_repository import require_bitsandbytes, write_vllm

if TYPE_CHECKING:
    from llmopt.triton.ensemble_repository import EnsemblePlan

US_PER_MS = 1000
BUILD_NAME = "repository"
PROMPT = "裏地付きジャケットの縫製手順を説明してください。"


def run_package(step: PackageTriton, inputs: StepInputs, context: RunContext) -> Outcome:
    """Writes the repository, looks at it as `verify` does, and asks it where `smoke` is set.

    It is made beside the artifact and moved there whole: a server takes every folder for a model.
    """
    if step.pack_environment:
        find_python(step.release.python)
    if "tokenizer" in inputs:
        check_vocabulary(inputs["tokenizer"].path, inputs["model"].path)
    folder = context.scratch_folder / BUILD_NAME
    clear_folder(folder)
    context.progress.start(f"writing the repository of {step.served_name}", 1)
    description = _write_repository(step, inputs, folder)
    check_written(folder)
    context.progress.advance()
    outcome = Outcome(metrics=_measure(description, folder))
    if step.smoke:
        from llmopt.steps.package_smoke import try_repository  # noqa: PLC0415 - onnxruntime

        tried = try_repository(step, folder, description, inputs, context)
        outcome = replace(tried, metrics={**outcome.metrics, **tried.metrics})
    for path in folder.iterdir():
        move_over(path, context.work_folder / path.name)
    return outcome


def _write_repository(step: PackageTriton, inputs: StepInputs, folder: Path) -> TritonDescription:
    """Writes what the step's shape needs, its description and its README."""
    description = WRITERS[step.shape](step, inputs, folder)
    description.write(folder)
    requirements = folder / REQUIREMENTS_NAME
    if step.pack_environment:
        pack_environment(requirements, step.release.python, folder / PACKED_NAME)
    brings_packages = step.pack_environment or step.environment_path is not None
    write_readme(
        folder,
        description,
        step.release,
        step.server_path,
        lacks_packages=names_packages(requirements) and not brings_packages,
    )
    return description


def move_over(source: Path, target: Path) -> None:
    """Moves a file or folder in place of what an interrupted run may have left there."""
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)


def check_written(folder: Path) -> None:
    """Looks at what was written as `llmopt verify` does.

    Raises:
        IncompatibleError: A server would refuse it, or serve it wrongly: the step's fields, such as
            parameters or environment_path, ask for what can't be.
    """
    faults = check_repository(folder).faults
    if faults:
        raise IncompatibleError(
            "the server would not serve this as asked: " + "; ".join(map(str, faults)),
            remedy="change the step's fields accordingly",
        )


def _measure(description: TritonDescription, folder: Path) -> dict[str, JsonValue]:
    return {
        "shape": description.shape,
        "model_name": description.model_name,
        "models": [model.name for model in description.models],
        "triton_release": description.triton_release,
        "device": description.device,
        "server_arguments": list(list_start_arguments(folder, description)),
        "repository_bytes": folder_size_bytes(folder),
    }


def _write_generate(step: PackageTriton, inputs: StepInputs, folder: Path) -> TritonDescription:
    model = inputs["model"]
    served = read_served(model)
    device = choose_device(step, served)
    parts = GenerateParts(
        source=model.path,
        settings=make_generate_settings(step, served),
        engine=served.engine,
        tokenizer=locate_tokenizer(inputs),
        cuda_driver=None if served.engine is None else Path(cuda_driver.__file__),
    )
    write_generate(folder, parts, make_options(step, device), step.release)
    return _describe(
        step,
        (RepositoryModel(name=step.served_name, role="generate", backend="python"),),
        device,
        served,
        _digest_graph(served, model),
    )


def _write_vllm(step: PackageTriton, inputs: StepInputs, folder: Path) -> TritonDescription:
    checkpoint = inputs["model"].path
    options = make_options(step, "cuda")
    write_vllm(folder, checkpoint, step.engine_args, options, step.server_path)
    release = step.release
    needed = (require_bitsandbytes(release.vllm),) if _is_bitsandbytes(checkpoint) else ()
    write_requirements(
        folder,
        f"beside vLLM {release.vllm}, which {release.vllm_image} holds"
        + ("" if needed else ": nothing"),
        needed,
    )
    model = RepositoryModel(name=step.served_name, role="vllm", backend="vllm")
    return _describe(step, (model,), "cuda", None, None)


def _write_ensemble(step: PackageTriton, inputs: StepInputs, folder: Path) -> TritonDescription:
    from llmopt.triton.ensemble_repository import write_ensemble  # noqa: PLC0415 - transformers

    options = make_options(step, choose_device(step, read_served(inputs["model"])))
    return write_ensemble(folder, make_plan(step, inputs), options, step.release)


def make_plan(step: PackageTriton, inputs: StepInputs) -> "EnsemblePlan":
    """Returns what the step's ensemble is made of."""
    from llmopt.triton.ensemble_repository import EnsemblePlan  # noqa: PLC0415 - transformers

    served = read_served(inputs["model"])
    assert step.task is not None
    return EnsemblePlan(
        task=step.task,
        source=inputs["model"].path,
        model=served.description,
        engine=served.engine,
        tokenizer=locate_tokenizer(inputs),
        max_batch_size=step.max_batch_size,
        max_queue_delay_us=round(step.max_queue_delay_ms * US_PER_MS),
        buckets=step.buckets,
        preferred_batch_sizes=step.preferred_batch_sizes,
        response_cache=step.response_cache,
        threads=step.threads,
        warm_up=step.warm_up,
    )


WRITERS: Mapping[
    RepositoryShape, Callable[[PackageTriton, StepInputs, Path], TritonDescription]
] = {
    "generate": _write_generate,
    "ensemble": _write_ensemble,
    "vllm": _write_vllm,
}


def _is_bitsandbytes(checkpoint: Path) -> bool:
    stored = read_raw_config(checkpoint).get("quantization_config") or {}
    return isinstance(stored, dict) and stored.get("quant_method") == "bitsandbytes"


def make_options(step: PackageTriton, device: Device) -> ServingOptions:
    """Returns how the models of a repository are placed and loaded."""
    limiter = step.rate_limiter
    return ServingOptions(
        model_name=step.served_name,
        version=step.version,
        version_policy=step.version_policy,
        device=device,
        gpus=step.gpus,
        instances=step.instances,
        rate_limit=None if limiter is None else RateLimit(limiter.resources, limiter.priority),
        parameters=step.parameters,
        environment=PACKED_PATH if step.pack_environment else step.environment_path,
    )


def locate_tokenizer(inputs: StepInputs) -> Path:
    """Returns the folder of the tokenizer: the export's own where none is named."""
    return (inputs["tokenizer"] if "tokenizer" in inputs else inputs["model"]).path


def _digest_graph(served: ServedModel, model: ResolvedInput) -> str:
    if served.engine is not None:
        return served.engine.onnx_sha256
    return digest_file(model.path / MODEL_NAME)


def _describe(
    step: PackageTriton,
    models: tuple[RepositoryModel, ...],
    device: Device,
    served: ServedModel | None,
    model_sha256: str | None,
) -> TritonDescription:
    engine = None if served is None else served.engine
    return TritonDescription(
        shape=step.shape,
        task=step.task or "generate",
        model_name=step.served_name,
        models=models,
        triton_release=step.triton_release,
        device=device,
        max_batch_size=0 if step.shape == "vllm" else step.max_batch_size,
        model=None if served is None else served.description,
        engine=None if engine is None else EngineFacts.of(engine),
        model_sha256=model_sha256,
        prompt=PROMPT,
    )
