"""The repository of one model that generates text from an exported decoder or an engine."""

from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.engine_description import ENGINE_NAME, EngineDescription
from llmopt.artifacts.onnx_description import DATA_NAME, MODEL_NAME
from llmopt.triton.generate_model import (
    GENERATE_INPUTS,
    GENERATE_OUTPUTS,
    GENERATE_REQUIREMENTS,
    GenerateSettings,
    write_generate_model,
)
from llmopt.triton.model_config import make_config, write_config
from llmopt.triton.releases import LAST_ONNXRUNTIME, NUMPY_REQUIREMENT, TritonRelease
from llmopt.triton.repository import (
    ServingOptions,
    add_instances,
    add_parameters,
    add_version_policy,
    make_model_folders,
    place_file,
    write_requirements,
)


@dataclass(frozen=True)
class GenerateParts:
    """What a generating model is made of.

    Attributes:
        source: The folder of the exported model, or of the engine.
        settings: What the model's code is told.
        engine: What the engine says of itself; None where onnxruntime runs the export.
        tokenizer: The folder of the tokenizer, config.json and generation_config.json.
        cuda_driver: The module that engines are run with; None for an export.
    """

    source: Path
    settings: GenerateSettings
    engine: EngineDescription | None
    tokenizer: Path
    cuda_driver: Path | None


def write_generate(
    repository: Path, parts: GenerateParts, options: ServingOptions, release: TritonRelease
) -> None:
    """Writes the model's folder and requirements.txt.

    Raises:
        InputError: There is no tokenizer.json.
        IncompatibleError: The model can't generate text so.
    """
    folder, version_folder = make_model_folders(repository, options.model_name, options.version)
    write_generate_model(version_folder, parts.settings, parts.tokenizer, parts.cuda_driver)
    names = (MODEL_NAME, DATA_NAME) if parts.engine is None else (ENGINE_NAME,)
    for name in names:
        if (parts.source / name).exists():
            place_file(parts.source / name, version_folder / name)
    config = make_config(options.model_name, "python", 0, GENERATE_INPUTS, GENERATE_OUTPUTS)
    for tensor in config.input:
        tensor.optional = True
    config.model_transaction_policy.decoupled = True
    add_instances(config, options)
    add_version_policy(config, options)
    add_parameters(config, options, is_python=True)
    write_config(folder, config)
    write_requirements(
        repository,
        f"the Python {release.python} that serves {options.model_name} in {release.image}",
        list_requirements(parts, options, release),
    )


def list_requirements(
    parts: GenerateParts, options: ServingOptions, release: TritonRelease
) -> tuple[str, ...]:
    """Lists the packages that the model's Python needs."""
    return (NUMPY_REQUIREMENT, _runner_requirement(parts, options, release), *GENERATE_REQUIREMENTS)


def _runner_requirement(
    parts: GenerateParts, options: ServingOptions, release: TritonRelease
) -> str:
    if parts.engine is not None:
        return f"{parts.engine.backend}=={parts.engine.tensorrt_version}"
    name = "onnxruntime-gpu" if options.device == "cuda" else "onnxruntime"
    last = LAST_ONNXRUNTIME.get(release.python)
    return f"{name}>=1.20" if last is None else f"{name}=={last[0]}"
