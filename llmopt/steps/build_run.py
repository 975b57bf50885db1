"""The run of `build.tensorrt`; imports onnx, so only the step's `run()` imports it."""

import time
from pathlib import Path

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.engine_description import ENGINE_NAME, BackendName, EngineDescription
from llmopt.artifacts.onnx_description import DATA_NAME, read_onnx_description
from llmopt.engine.build_job import BuildJob, Shapes
from llmopt.engine.build_process import run_build
from llmopt.engine.onnx_checks import check_memory, check_parsable, open_onnx
from llmopt.steps.base import Outcome, RunContext
from llmopt.steps.build_tensorrt import BuildTensorrt


def run_build_step(
    step: BuildTensorrt, backend: BackendName, model: Path, context: RunContext
) -> Outcome:
    """Checks the graph, builds the engine and describes it."""
    started = time.perf_counter()
    description = read_onnx_description(model.parent)
    profiles = step.read_profiles(description)
    file = open_onnx(model)
    check_parsable(file)
    check_memory(file)
    shapes: list[dict[str, Shapes]] = [
        {spec.name: profile.shapes(spec) for spec in description.inputs}  # type: ignore[misc]
        for profile in profiles
    ]
    engine = context.work_folder / ENGINE_NAME
    job = BuildJob(
        backend=backend,
        onnx_path=str(model.resolve()),
        engine_path=str(engine),
        profiles=tuple(shapes),
        settings=step.engine_settings,
    )
    checked = time.perf_counter()
    result = run_build(job, context.work_folder, context.progress)
    weights = model.parent / DATA_NAME
    EngineDescription(
        backend=backend,
        tensorrt_version=result.tensorrt_version,
        model=description,
        profiles=profiles,
        settings=step.engine_settings,
        onnx_sha256=digest_file(model),
        weights_sha256=digest_file(weights) if weights.exists() else None,
        engine_sha256=digest_file(engine),
        warnings=result.warnings,
    ).write(context.work_folder)
    return Outcome(
        metrics={
            "engine_bytes": engine.stat().st_size,
            "onnx_bytes": file.num_bytes,
            "profiles": [profile.name for profile in profiles],
            "warnings": len(result.warnings),
        },
        timings={
            "check_s": round(checked - started, 3),
            "build_s": round(time.perf_counter() - checked, 3),
        },
    )
