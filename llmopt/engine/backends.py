"""The two TensorRTs: what each is for, which is installed, and where its engines run.

No TensorRT is imported here: that is left to the processes that build and run engines.
"""

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from llmopt.artifacts.engine_settings import BackendName
from llmopt.engine.cuda_driver import InstalledGpu
from llmopt.errors import CapabilityError


@dataclass(frozen=True)
class Backend:
    """One TensorRT.

    Attributes:
        name: Of its Python module, as recipes write it.
        title: As people call it.
        distributions: Packages that its version is read from; the first that is installed counts.
        builds_without_gpu: Whether an engine can be built ahead of time.
        runs_on: Compute capabilities of the GPUs that its engines run on; None: the one that the
            engine was built on.
        remedy: How to get it.
    """

    name: BackendName
    title: str
    distributions: tuple[str, ...]
    builds_without_gpu: bool
    runs_on: tuple[str, ...] | None
    remedy: str

    @property
    def is_installed(self) -> bool:
        """Whether its Python module is there."""
        return importlib.util.find_spec(self.name) is not None

    @property
    def distribution(self) -> str | None:
        """The installed package that tells its version, None where there is none."""
        for name in self.distributions:
            try:
                importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
            return name
        return None

    @property
    def version(self) -> str | None:
        """Its version, None where it is not installed."""
        name = self.distribution
        return None if name is None else importlib.metadata.version(name)


RTX = Backend(
    "tensorrt_rtx",
    "TensorRT-RTX",
    ("tensorrt_rtx", "tensorrt_rtx_cu13", "tensorrt_rtx_cu13_bindings", "tensorrt_rtx_cu12"),
    builds_without_gpu=True,
    runs_on=("7.5", "8.6", "8.9", "12.0", "12.1"),
    remedy="pip install 'llmopt[tensorrt]'",
)
DATACENTER = Backend(
    "tensorrt",
    "TensorRT",
    ("tensorrt", "tensorrt_cu13", "tensorrt_cu12"),
    builds_without_gpu=False,
    runs_on=None,
    remedy="pip install tensorrt, in the version of the server that will load the engine, on a "
    "machine with the GPU that it is for",
)
BACKENDS = {backend.name: backend for backend in (RTX, DATACENTER)}


def choose_backend(
    wanted: Sequence[Backend], version: str | None, gpus: Sequence[InstalledGpu]
) -> Backend:
    """Returns the first of the wanted backends that can build here.

    Args:
        wanted: In order of preference.
        version: What its version must begin with, part by part; None takes any.
        gpus: Those of this machine.

    Raises:
        CapabilityError: None can; says of each why not.
    """
    reasons = {backend: why_not_built_here(backend, version, gpus) for backend in wanted}
    for backend, reason in reasons.items():
        if reason is None:
            return backend
    raise CapabilityError(
        "; ".join(reason for reason in reasons.values() if reason is not None),
        remedy=" or ".join(_write_remedy(backend, version) for backend in wanted),
    )


def why_not_built_here(
    backend: Backend, version: str | None, gpus: Sequence[InstalledGpu]
) -> str | None:
    """Says why a backend can't build on this machine; None where it can."""
    if not backend.is_installed:
        return f"{backend.name} is not installed"
    if version is not None and not _is_version(backend.version, version):
        return f"{backend.name} is {backend.version}, not {version} as tensorrt_version asks"
    if not backend.builds_without_gpu and not gpus:
        return f"{backend.name} builds on a GPU, and none is here"
    return None


def why_not_run_here(
    backend: Backend, capabilities: Sequence[str], gpus: Sequence[InstalledGpu]
) -> str | None:
    """Says why an engine can't run on this machine; None where it can.

    Args:
        backend: Which TensorRT built it.
        capabilities: Those that the engine was built for.
        gpus: Those of this machine; the first would run it.
    """
    allowed = [each for each in capabilities if backend.runs_on is None or each in backend.runs_on]
    where = f"{backend.title} engines run on GPUs of compute capability {', '.join(allowed)}"
    if backend.runs_on is None and not allowed:
        where = f"{backend.title} engines run on the GPU that they were built on"
    if not gpus:
        return f"{where}; none is here"
    if gpus[0].compute_capability not in allowed:
        return f"{where}; here is {gpus[0].name} ({gpus[0].compute_capability})"
    if not backend.is_installed:
        return f"{backend.name} is not installed"
    return None


def _is_version(found: str | None, wanted: str) -> bool:
    parts = wanted.split(".")
    return found is not None and found.split(".")[: len(parts)] == parts


def _write_remedy(backend: Backend, version: str | None) -> str:
    return backend.remedy if version is None else f"{backend.remedy} ({version})"
