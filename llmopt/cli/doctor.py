"""What `llmopt doctor` looks for: libraries, devices, memory, tools that tests need."""

import importlib.metadata
import importlib.util
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import psutil

from llmopt import __version__
from llmopt.artifacts.cache_folder import CACHE_VARIABLE, locate_cache_folder
from llmopt.artifacts.files import format_bytes
from llmopt.data.dataset_spec import PACKAGE_FOLDER, list_shipped_sets
from llmopt.engine.backends import BACKENDS, why_not_built_here, why_not_run_here
from llmopt.engine.cuda_driver import list_gpus
from llmopt.triton.server_distribution import (
    GET_REMEDY,
    SERVER_RELEASE,
    SERVER_VERSION,
    find_server,
    why_no_server_here,
)


@dataclass(frozen=True)
class Finding:
    """One thing that is there or not.

    Attributes:
        name: What was looked for.
        present: Whether it was found.
        detail: Version, size or what is missing.
        purpose: What it is needed for.
        remedy: How to get it; empty where nothing can be done.
    """

    name: str
    present: bool
    detail: str
    purpose: str = ""
    remedy: str = ""

    def as_dict(self) -> dict[str, str | bool]:
        """Returns the finding as JSON-ready data."""
        return asdict(self)


LIBRARIES = {
    "torch": ("quantisation and evaluation", "pip install 'torch>=2.11'"),
    "transformers": ("model shells and tokenizers", "pip install 'transformers>=5'"),
    "safetensors": ("reading other tools' checkpoints", "pip install safetensors"),
    "bitsandbytes": ("`quantize.nf4`, and reading what it wrote", "pip install 'llmopt[quant]'"),
    "onnx": ("`export.onnx`, `build.tensorrt`", "pip install 'llmopt[onnx]'"),
    "onnxruntime": ("`export.onnx` and `bench.onnx`", "pip install 'llmopt[onnx]'"),
    "onnxscript": ("`export.onnx`", "pip install 'llmopt[onnx]'"),
    "tritonclient": (
        "`package.triton`, `llmopt verify` of repositories",
        "pip install 'llmopt[triton]'",
    ),
    "matplotlib": ("`llmopt report --png`", "pip install 'llmopt[report]'"),
}

# Environments of their own that tests and benchmarks use: folder in .venvs, what it holds, what it
# is for.
ENVIRONMENTS = (
    ("vllm", "vLLM for tests", "`make test-vllm`, which loads artifacts in the real vLLM"),
    (
        "lm-eval",
        "lm_eval for tests",
        "the test of `eval.lm_eval` with the real harness in `make test-full`",
    ),
    (
        "gptqmodel",
        "GPTQModel for benchmarks",
        "benchmarks/gptq_peers.py, making tests/peers/checkpoints",
    ),
    ("triton", "Triton compiler for tests", "the tests of the GPU kernel in `make test-full`"),
    ("llmcompressor", "llm-compressor for benchmarks", "the same"),
    ("autoround", "AutoRound for benchmarks", "making tests/peers/checkpoints"),
    ("optimum-onnx", "optimum-onnx for benchmarks", "benchmarks/onnx_peers.py"),
    ("onnxruntime-genai", "onnxruntime-genai for benchmarks", "the same"),
)


def examine_machine() -> list[Finding]:
    """Looks at everything, in the order in which it is printed."""
    tests = [_find_environment(*environment) for environment in ENVIRONMENTS]
    return [
        *_find_basics(),
        *_find_libraries(),
        _find_gpu(),
        *_find_tensorrt(),
        _find_tritonserver(),
        *tests,
        _find_browser(),
    ]


def _find_basics() -> Iterator[Finding]:
    yield Finding(
        "llmopt", present=True, detail=f"{__version__} on Python {platform.python_version()}"
    )
    memory = psutil.virtual_memory()
    cores = psutil.cpu_count(logical=True)
    detail = (
        f"{cores} cores, {format_bytes(memory.available)} of {format_bytes(memory.total)} RAM free"
    )
    yield Finding("machine", present=True, detail=detail)
    yield Finding(
        "disk", present=True, detail=f"{format_bytes(shutil.disk_usage('.').free)} free here"
    )
    sets = list_shipped_sets()
    yield Finding(
        "calibration sets",
        present=bool(sets),
        detail=", ".join(sets) or "none found",
        purpose="default calibration data",
        remedy="reinstall llmopt: the sets are part of the package",
    )


def _find_libraries() -> Iterator[Finding]:
    for name, (purpose, remedy) in LIBRARIES.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(
                name, present=False, detail="not installed", purpose=purpose, remedy=remedy
            )
        else:
            yield Finding(name, present=True, detail=version, purpose=purpose)


def _find_gpu() -> Finding:
    purpose = "--device cuda"
    if importlib.util.find_spec("torch") is None:
        return Finding("CUDA GPU", present=False, detail="torch is missing", purpose=purpose)
    import torch  # noqa: PLC0415 - doctor asks torch itself

    if torch.cuda.is_available():
        return Finding("CUDA GPU", present=True, detail=torch.cuda.get_device_name())
    return Finding(
        "CUDA GPU",
        present=False,
        detail=f"none seen by torch {torch.__version__}; everything runs on the CPU",
        purpose=purpose,
        remedy="a machine with an NVIDIA GPU and a CUDA build of torch",
    )


def _find_tensorrt() -> Iterator[Finding]:
    """Says of each TensorRT whether it builds here, and whether its engines run here."""
    gpus = list_gpus()
    for backend in BACKENDS.values():
        reason = why_not_built_here(backend, None, gpus)
        yield Finding(
            f"{backend.title} builds engines",
            present=reason is None,
            detail=reason or f"{backend.name} {backend.version}",
            purpose=f"`build.tensorrt` with backend: {backend.name}",
            remedy=backend.remedy,
        )
        capabilities = backend.runs_on or tuple(gpu.compute_capability for gpu in gpus)
        reason = why_not_run_here(backend, capabilities, gpus)
        yield Finding(
            f"{backend.title} runs engines",
            present=reason is None,
            detail=reason or gpus[0].name,
            purpose="`llmopt verify`, which then loads an engine and runs it",
            remedy="a machine with such a GPU, its driver, and " + backend.name,
        )


def _find_tritonserver() -> Finding:
    found = find_server()
    reason = why_no_server_here()
    detail = reason or f"none in {locate_cache_folder()} ({CACHE_VARIABLE} names another place)"
    return Finding(
        "tritonserver",
        present=found is not None,
        detail=detail
        if found is None
        else f"{SERVER_VERSION}, as in the container {SERVER_RELEASE}, in {found.folder}",
        purpose="`llmopt triton-repo --smoke`, and the tests with a real server",
        remedy=f"{GET_REMEDY} (55 MB to fetch, 150 MB unpacked)"
        if reason is None
        else "a container of NVIDIA's, on such a machine",
    )


def _find_environment(name: str, title: str, purpose: str) -> Finding:
    checkout = PACKAGE_FOLDER.parent
    python = checkout / ".venvs" / name / "bin" / "python"
    return Finding(
        title,
        present=python.exists(),
        detail=str(python.relative_to(checkout)) if python.exists() else f"no .venvs/{name}",
        purpose=purpose,
        remedy=f"make {name}-env (in a checkout of the repository)",
    )


def _find_browser() -> Finding:
    path = shutil.which("chromium")
    return Finding(
        "Chromium for tests",
        present=path is not None,
        detail=path or "no chromium on PATH",
        purpose="`make test-full`, which opens a report in a real browser",
        remedy="apt-get install chromium",
    )
