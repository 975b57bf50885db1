"""A model repository as its files say it is."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from llmopt.artifacts.triton_description import (
    TRITON_DESCRIPTION_NAME,
    TritonDescription,
    read_triton_description,
)
from llmopt.errors import InputError
from llmopt.triton.checks.report import Fault
from llmopt.triton.model_config import CONFIG_NAME, ModelConfig

# Platforms that older configs write where newer ones write a backend.
PLATFORM_BACKENDS = {
    "ensemble": "ensemble",
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
    "pytorch_libtorch": "pytorch",
    "pytorch": "pytorch",
}
MODEL_FILES = {
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "python": "model.py",
    "vllm": "model.json",
    "pytorch": "model.pt",
    "openvino": "model.xml",
}
# Others that NVIDIA's containers hold; what their folders must hold is not known here.
OTHER_BACKENDS = ("tensorrtllm", "tensorflow", "dali", "fil", "identity", "repeat", "square")


@dataclass(frozen=True)
class ServedModel:
    """One folder of the repository whose config.pbtxt reads.

    Attributes:
        folder: Holds config.pbtxt and the version folders.
        config: What config.pbtxt says.
    """

    folder: Path
    config: ModelConfig

    @property
    def name(self) -> str:
        """The folder's name, by which requests name the model."""
        return self.folder.name

    @property
    def backend(self) -> str:
        """What runs it, as a field or, to the server as here, a file's name says; else ""."""
        config = self.config
        named = config.backend or PLATFORM_BACKENDS.get(config.platform, config.platform)
        return str(named or self._guess_backend())

    @property
    def model_file(self) -> str:
        """The file that a version folder has to hold; "" for ensembles and unknown backends."""
        return str(self.config.default_model_filename or MODEL_FILES.get(self.backend, ""))

    def _guess_backend(self) -> str:
        names = {path.name for folder in self.versions.values() for path in folder.iterdir()}
        guesses = (name for name, file in MODEL_FILES.items() if file in names)
        return next(guesses, "") if not self.config.default_model_filename else ""

    @cached_property
    def versions(self) -> dict[int, Path]:
        """The version folders that the server takes as such, ascending."""
        folders = (path for path in self.folder.iterdir() if path.is_dir())
        found = {int(path.name): path for path in folders if is_version(path.name)}
        return dict(sorted(found.items()))

    @property
    def served_versions(self) -> dict[int, Path]:
        """Those of them that the version policy picks."""
        policy = self.config.version_policy
        kind = policy.WhichOneof("policy_choice")
        if kind == "all":
            return self.versions
        if kind == "specific":
            chosen = set(policy.specific.versions)
            return {key: path for key, path in self.versions.items() if key in chosen}
        count = policy.latest.num_versions if kind == "latest" else 1
        return dict(list(self.versions.items())[-count:])

    def fault(
        self, field: str, found: str, allowed: str, fix: str, file: str = CONFIG_NAME
    ) -> Fault:
        """Writes a fault of one of this model's files; `file` is relative to its folder."""
        return Fault(self.name, f"{self.name}/{file}", field, found, allowed, fix)


@dataclass(frozen=True)
class Repository:
    """A repository, its models by name.

    Attributes:
        folder: What the server is started with.
        models: Those whose config.pbtxt reads.
        unread: Why the others, by name, do not.
        description: What llmopt wrote beside it, where it did.
    """

    folder: Path
    models: dict[str, ServedModel]
    unread: dict[str, Fault] = field(default_factory=dict)
    description: TritonDescription | None = None

    @property
    def ensembles(self) -> list[ServedModel]:
        """The models that only connect others."""
        return [model for model in self.models.values() if model.backend == "ensemble"]


def read_repository(folder: Path) -> Repository:
    """Reads every model's config.pbtxt and, where there is one, triton.json.

    Raises:
        InputError: There is no such folder, it holds no model, or triton.json does not read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", remedy="name a model repository's folder")
    models, unread = {}, {}
    for path in find_model_folders(folder):
        read = _read_model(path)
        if isinstance(read, Fault):
            unread[path.name] = read
        else:
            models[path.name] = read
    if not models and not unread:
        raise InputError(
            f"{folder} holds no model: no folder of it has a {CONFIG_NAME}",
            remedy="name the folder above the models' folders",
        )
    described = (folder / TRITON_DESCRIPTION_NAME).exists()
    return Repository(
        folder, models, unread, read_triton_description(folder) if described else None
    )


def find_model_folders(folder: Path) -> Iterator[Path]:
    """Yields what the server takes for models: every folder, whatever its name."""
    yield from sorted(path for path in folder.iterdir() if path.is_dir())


def is_version(name: str) -> bool:
    """Tells whether the server takes a folder's name for a version."""
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def _read_model(folder: Path) -> ServedModel | Fault:
    path = folder / CONFIG_NAME
    place = (folder.name, f"{folder.name}/{CONFIG_NAME}", "")
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except FileNotFoundError:
        return Fault(
            *place,
            "is missing",
            "every folder of the repository is taken for a model",
            "write its config, or move the folder out of the repository",
        )
    except (text_format.ParseError, UnicodeDecodeError) as error:
        return Fault(
            *place,
            f"is no model config ({error})",
            "UTF-8 text of protobuf message inference.ModelConfig is allowed",
            "correct the line and column named",
        )
    return ServedModel(folder, config)
