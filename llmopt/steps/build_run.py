"""The run of `build.tensorrt`; imports onnx, so only the step's `run()` imports it."""

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.deferred_build import DeferredBuild, read_deferred_build
from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.engine_description import ENGINE_NAME, EngineDescription
from llmopt.artifacts.engine_settings import BackendName
from llmopt.artifacts.onnx_description import (
    MODEL_NAME,
    OnnxDescription,
    read_onnx_description,
)
from llmopt.artifacts.onnx_digests import require_unchanged
from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.engine.build_job import BuildJob
from llmopt.engine.build_needs import check_memory
from llmopt.engine.build_process import run_build
from llmopt.engine.onnx_checks import OnnxFile, check_parsable, check_signature, open_onnx
from llmopt.errors import InputError
from llmopt.steps.base import Outcome, RunContext
from llmopt.steps.build_tensorrt import BuildTensorrt


@dataclass(frozen=True)
class _Checked:
    """A model that a builder may see.

    Attributes:
        file: Its graph.
        description: What it says of itself.
        profiles: For it.
    """

    file: OnnxFile
    description: OnnxDescription
    profiles: tuple[OptimizationProfile, ...]


def run_build_step(
    step: BuildTensorrt, backend: BackendName, folder: Path, context: RunContext
) -> Outcome:
    """Checks the graph, builds the engine and describes it.

    Args:
        step: The settings.
        backend: Which TensorRT builds.
        folder: Of the exported model.
        context: Where the engine goes.
    """
    started = time.perf_counter()
    checked = _check(step, folder)
    check_memory(checked.file.path, checked.file.num_bytes, psutil.virtual_memory().available)
    onnx_sha256, weights_sha256 = require_unchanged(folder)
    begun = time.perf_counter()
    work = context.work_folder
    result = run_build(_make_job(step, backend, checked, work), context.progress)
    built = time.perf_counter()
    engine = work / ENGINE_NAME
    EngineDescription(
        backend=backend,
        tensorrt_version=result.tensorrt_version,
        compute_capabilities=result.compute_capabilities,
        model=checked.description,
        profiles=checked.profiles,
        settings=step.engine_settings,
        onnx_sha256=onnx_sha256,
        weights_sha256=weights_sha256,
        engine_sha256=digest_file(engine),
        warnings=result.warnings,
    ).write(work)
    return Outcome(
        metrics={
            "engine_bytes": engine.stat().st_size,
            "onnx_bytes": checked.file.num_bytes,
            "profiles": [profile.name for profile in checked.profiles],
            "warnings": len(result.warnings),
        },
        timings={"check_s": round(begun - started, 3), "build_s": round(built - begun, 3)},
        machine={
            "backend": backend,
            "tensorrt": result.tensorrt_version,
            **step.identity_machine(),
        },
    )


def run_deferral(step: BuildTensorrt, folder: Path, context: RunContext, reason: str) -> Outcome:
    """Checks all that needs no TensorRT, and writes the build down for another machine."""
    started = time.perf_counter()
    checked = _check(step, folder)
    onnx_sha256, weights_sha256 = require_unchanged(folder)
    wanted = step.wanted_backends
    DeferredBuild(
        backends=tuple(backend.name for backend in wanted),
        tensorrt_version=step.tensorrt_version,
        compute_capabilities=step.compute_capabilities,
        needs_gpu=not any(backend.builds_without_gpu for backend in wanted),
        model=checked.description,
        profiles=checked.profiles,
        settings=step.engine_settings,
        onnx_sha256=onnx_sha256,
        weights_sha256=weights_sha256,
        onnx_bytes=checked.file.num_bytes,
        reason=reason,
    ).write(context.work_folder)
    return Outcome(
        metrics={
            "onnx_bytes": checked.file.num_bytes,
            "profiles": [profile.name for profile in checked.profiles],
        },
        timings={"check_s": round(time.perf_counter() - started, 3)},
    )


def check_sealed(deferred: Artifact, folder: Path) -> None:
    """Holds a deferred build against the exported model that lies here.

    Raises:
        InputError: One of them is not what was sealed.
    """
    faults = deferred.find_faults()
    if faults:
        raise InputError(
            f"the deferred build {deferred.path} is damaged: {'; '.join(faults)}",
            remedy="copy it again, or build without it: --force the step",
        )
    others = list(read_deferred_build(deferred.path).find_other_files(folder))
    if others:
        raise InputError(
            "; ".join(others),
            remedy="was the recipe changed since? then --force the step builds, or seals, what "
            "lies here; else copy the model again",
        )


def _check(step: BuildTensorrt, folder: Path) -> _Checked:
    """Checks a model and the profiles for it.

    Raises:
        InputError: It is no whole model of its description.
        IncompatibleError: TensorRT would not take it, or not so.
    """
    description = read_onnx_description(folder)
    file = open_onnx(folder / MODEL_NAME)
    check_signature(file, description)
    check_parsable(file)
    profiles = step.read_profiles(description)
    return _Checked(file, description, profiles)


def _make_job(step: BuildTensorrt, backend: BackendName, checked: _Checked, work: Path) -> BuildJob:
    description = checked.description
    shapes = (
        {spec.name: profile.shapes(spec) for spec in description.inputs}
        for profile in checked.profiles
    )
    timings = step.timing_path
    return BuildJob(
        backend=backend,
        onnx_path=str(checked.file.path.resolve()),
        inputs=description.inputs,
        outputs=description.outputs,
        profiles=tuple(shapes),
        settings=step.engine_settings,
        known_timings=None if timings is None else str(timings.resolve()),
        folder=str(work.resolve()),
    )
