"""Steps that package, and exports and engines that are described without being made."""

from pathlib import Path
from typing import Any

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.engine_description import ENGINE_NAME, EngineDescription
from llmopt.artifacts.engine_settings import BackendName, EngineSettings
from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.optimization_profile import AxisRange, OptimizationProfile
from llmopt.artifacts.progress import SilentProgress
from llmopt.steps.base import Outcome, ResolvedInput, RunContext, StepInputs
from llmopt.steps.package_triton import PackageTriton
from tests.engine.descriptions import describe

PREFILL = {"batch": (1, 1, 4), "sequence": (1, 32, 64), "past_sequence": (0, 0, 0)}
DECODE = {"batch": (1, 4, 8), "sequence": (1, 1, 1), "past_sequence": (1, 64, 255)}
ENSEMBLE = {"shape": "ensemble", "task": "score"}
ONE_PASS = {"kv_cache": False, "last_token_logits": True}
BY_BUCKET = {
    "short": {"batch": (1, 4, 8), "sequence": (1, 64, 64)},
    "long": {"batch": (1, 4, 8), "sequence": (65, 128, 128)},
}


def make_step(shape: str = "generate", **fields: object) -> PackageTriton:
    given = {"uses": "package.triton", "shape": shape, "model": "served", "model_name": "apparel"}
    return PackageTriton.model_validate({**given, **fields})


def given(kind: str, folder: Path, tokenizer: Path | None = None) -> StepInputs:
    inputs = {"model": ResolvedInput("served", kind, "", folder)}  # type: ignore[arg-type]
    if tokenizer is not None:
        inputs["tokenizer"] = ResolvedInput("base", "checkpoint", "", tokenizer)
    return inputs


def run(step: PackageTriton, inputs: StepInputs, folder: Path) -> Outcome:
    """Writes the repository into a folder; the scratch folder lies beside it, as in real runs."""
    folder.mkdir(parents=True)
    scratch = folder.with_name(f"{folder.name}.scratch")
    return step.run(inputs, RunContext(folder, scratch, "cpu", 1, SilentProgress()))


def describe_export(folder: Path, **changes: Any) -> Path:
    """Writes the description of an export that need not be there."""
    folder.mkdir(parents=True)
    description = describe().model_copy(update={"dtype": "float32", **changes})
    OnnxDescription.model_validate(description.model_dump()).write(folder)
    return folder


def describe_engine(
    folder: Path,
    backend: BackendName = "tensorrt",
    version: str = "10.5.0",
    profiles: dict[str, dict[str, tuple[int, int, int]]] | None = None,
    **changes: Any,
) -> Path:
    """Writes the description of an engine, and a file in its place."""
    folder.mkdir(parents=True)
    (folder / ENGINE_NAME).write_bytes(b"plan")
    named = {"prefill": PREFILL, "decode": DECODE} if profiles is None else profiles
    EngineDescription(
        backend=backend,
        tensorrt_version=version,
        compute_capabilities=("8.9",),
        model=describe().model_copy(update=changes),
        profiles=tuple(
            OptimizationProfile(
                name=name,
                axes={a: AxisRange(min=s[0], opt=s[1], max=s[2]) for a, s in axes.items()},
            )
            for name, axes in named.items()
        ),
        settings=EngineSettings(),
        onnx_sha256="0" * 64,
        weights_sha256=None,
        engine_sha256=digest_file(folder / ENGINE_NAME),
    ).write(folder)
    return folder
