"""What every shape of repository writes alike: folders, big files, the config's common parts."""

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tritonclient.grpc import model_config_pb2 as pb

from llmopt.artifacts.onnx_description import DATA_NAME, MODEL_NAME
from llmopt.artifacts.triton_description import REQUIREMENTS_NAME
from llmopt.triton.model_config import ModelConfig

Device = Literal["cpu", "cuda"]
# Another file system, one without links, too many of them, or not allowed: then it is copied.
NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES}
ENVIRONMENT_KEY = "EXECUTION_ENV_PATH"


@dataclass(frozen=True)
class RateLimit:
    """What an instance takes of the server's resources while it runs.

    Attributes:
        resources: Name → how many.
        priority: Of its instances, 1 the highest; 0 leaves the server's.
    """

    resources: Mapping[str, int] = field(default_factory=dict)
    priority: int = 0


@dataclass(frozen=True)
class ServingOptions:
    """How a repository's models are placed and loaded.

    Attributes:
        model_name: The model that requests name; other folders begin with it.
        version: Its version folder.
        version_policy: "latest", "all", or the versions to serve.
        device: What the models compute on.
        gpus: Their numbers; empty: all that the server has.
        instances: Of each model, per GPU.
        rate_limit: None without one.
        parameters: Further parameters of the config.
        environment: The server's path of the Python environment of python models; None: its own.
    """

    model_name: str
    version: int
    version_policy: Literal["latest", "all"] | tuple[int, ...]
    device: Device
    gpus: tuple[int, ...] = ()
    instances: int = 1
    rate_limit: RateLimit | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    environment: str | None = None


def make_model_folders(repository: Path, name: str, version: int) -> tuple[Path, Path]:
    """Makes a model's folder and its version folder; returns both."""
    folder = repository / name
    version_folder = folder / str(version)
    version_folder.mkdir(parents=True)
    return folder, version_folder


def place_file(source: Path, target: Path) -> None:
    """Puts a file in its place by a hard link, or a copy where the file system has none.

    An export is copied: onnx takes weights with several links for an attack and refuses them.
    """
    real = source.resolve()
    if source.name in (MODEL_NAME, DATA_NAME):
        shutil.copyfile(real, target)
        return
    try:
        os.link(real, target)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        shutil.copyfile(real, target)


def add_instances(config: ModelConfig, options: ServingOptions) -> None:
    """Writes where a model's instances run."""
    group = config.instance_group.add(count=options.instances)
    is_gpu = options.device == "cuda"
    group.kind = pb.ModelInstanceGroup.KIND_GPU if is_gpu else pb.ModelInstanceGroup.KIND_CPU
    group.gpus.extend(options.gpus)
    limit = options.rate_limit
    if limit is not None:
        group.rate_limiter.priority = limit.priority
        for name, count in sorted(limit.resources.items()):
            group.rate_limiter.resources.add(name=name, count=count)


def add_version_policy(config: ModelConfig, options: ServingOptions) -> None:
    """Writes which version folders are served."""
    policy = options.version_policy
    if policy == "latest":
        config.version_policy.latest.num_versions = 1
    elif policy == "all":
        config.version_policy.all.SetInParent()
    else:
        config.version_policy.specific.versions.extend(policy)


def add_parameters(config: ModelConfig, options: ServingOptions, *, is_python: bool) -> None:
    """Writes the config's parameters; a python model's environment is one of them."""
    parameters = dict(options.parameters)
    if is_python and options.environment is not None:
        parameters[ENVIRONMENT_KEY] = options.environment
    for key, value in sorted(parameters.items()):
        config.parameters[key].string_value = value


def names_packages(requirements: Path) -> bool:
    """Tells whether a requirements.txt asks for any package."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    return any(line and not line.startswith("#") for line in lines)


def write_requirements(repository: Path, header: str, requirements: tuple[str, ...]) -> Path:
    """Writes requirements.txt: a line on what it is for, and a package a line."""
    path = repository / REQUIREMENTS_NAME
    path.write_text("\n".join([f"# {header}", *requirements]) + "\n", encoding="utf-8")
    return path
