"""Real builds for tests: profiles, jobs, recipes, and what lies in an artifact."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.artifact import describe_files
from llmopt.artifacts.engine_settings import EngineSettings
from llmopt.artifacts.manifest import Manifest, StepRecord, content_digest
from llmopt.artifacts.onnx_description import read_onnx_description
from llmopt.engine.build_job import BuildJob
from llmopt.engine.profile_entries import read_entries
from llmopt.engine.profiles import read_profile

PREFILL = {"batch": [1, 1, 2], "sequence": [1, 16, 64], "past_sequence": 0}
DECODE = {"batch": [1, 2, 4], "sequence": 1, "past_sequence": [1, 32, 127]}
CACHED: dict[str, Any] = {"prefill": PREFILL, "decode": DECODE}
WHOLE: dict[str, Any] = {"whole": {"batch": "1..2..4", "sequence": "1..16..64"}}
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="needs TensorRT-RTX: pip install 'llmopt[tensorrt]' (llmopt doctor)",
)


def make_job(model: Path, folder: Path, profiles: dict[str, Any] = CACHED) -> BuildJob:
    """Makes the job of an exported model, as the step does."""
    description = read_onnx_description(model)
    read = [read_profile(n, e, description) for n, e in read_entries(profiles).items()]
    return BuildJob(
        backend="tensorrt_rtx",
        onnx_path=str(model / "model.onnx"),
        inputs=description.inputs,
        outputs=description.outputs,
        profiles=tuple({spec.name: p.shapes(spec) for spec in description.inputs} for p in read),
        settings=EngineSettings(),
        known_timings=None,
        folder=str(folder),
    )


def seal_export(model: Path) -> None:
    """Writes the manifest that `export.onnx` leaves beside a model."""
    files = describe_files(model)
    Manifest(
        kind="onnx_model",
        identity="0" * 64,
        content_digest=content_digest(files),
        created="2026-01-01T00:00:00+00:00",
        step=StepRecord(id="onnx", uses="export.onnx", version=1, settings={}),
        inputs={},
        files=files,
    ).write(model)


def make_recipe(model: Path, **step: Any) -> dict[str, Any]:
    """Describes a build of an exported model."""
    engine = {"uses": "build.tensorrt", "onnx": "model", "profiles": CACHED, **step}
    return {
        "version": 1,
        "name": "small",
        "sources": {"model": {"path": str(model), "kind": "onnx_model"}},
        "steps": {"engine": engine},
    }
