"""Whether an engine's folder is what its description says and, on a GPU that it is for, runs."""

import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmopt.artifacts.child_events import ChildEvent
from llmopt.artifacts.child_process import ChildEnd, run_child
from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.engine_description import (
    ENGINE_NAME,
    EngineDescription,
    read_engine_description,
)
from llmopt.artifacts.optimization_profile import POINTS
from llmopt.engine.backends import BACKENDS, why_not_run_here
from llmopt.engine.build_job import EngineJob, Request
from llmopt.engine.cuda_driver import list_gpus
from llmopt.engine.probe_inputs import make_feeds

if TYPE_CHECKING:
    from llmopt.engine.onnx_reference import OnnxReference

MODULE = "llmopt.engine.engine_runner"
RTX_MAGIC = b"vtrt"  # undocumented, over all engines seen: a sanity check of the file's length
SIZE_OFFSET = 16
# Largest difference from onnxruntime, as a share of the largest value.
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 8e-2}
TF32_TOLERANCE = 1e-2


@dataclass
class EngineReport:
    """What was looked at, what was wrong, and what could not be looked at here.

    Attributes:
        checked: One line each.
        faults: One sentence each; empty where the engine is sound as far as was looked.
        not_checked: What this machine could not do, with the reason.
    """

    checked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Probe:
    """One run: a profile at one of its points."""

    title: str
    feeds: dict[str, NDArray[Any]]
    request: Request


def verify_engine(folder: Path, model: Path | None) -> EngineReport:
    """Checks an engine's digest and, on a GPU that it is for, loads and runs it.

    Each profile is run at its minimum, optimum and maximum.

    Args:
        folder: Holds the engine and its description.
        model: The exported model that it was built from, to compare with; None runs without.

    Raises:
        InputError: The folder holds no description that can be read.
    """
    description = read_engine_description(folder)
    backend = BACKENDS[description.backend]
    report = EngineReport(
        [
            f"{backend.title} {description.tensorrt_version} engine of a {description.model.dtype} "
            f"{description.model.model_type}, profiles "
            f"{', '.join(profile.name for profile in description.profiles)}, for compute "
            f"capability {', '.join(description.compute_capabilities)}"
        ],
        list(_find_file_faults(folder, description)),
    )
    if model is not None:
        others = list(description.find_other_files(model))
        report.faults += others
        if not others:
            report.checked.append(f"built from the model in {model}")
    reason = why_not_run_here(backend, description.compute_capabilities, list_gpus())
    if reason is not None:
        report.not_checked.append(_not_run(reason))
    elif not report.faults:
        _run(folder, description, _choose_reference(report, description, model), report)
    return report


def _find_file_faults(folder: Path, description: EngineDescription) -> Iterator[str]:
    path = folder / ENGINE_NAME
    if not path.is_file():
        yield f"{ENGINE_NAME} is missing"
        return
    if digest_file(path) != description.engine_sha256:
        yield f"{ENGINE_NAME} is not the file that engine.json was written for (sha256 differs)"
    with path.open("rb") as file:
        header = file.read(SIZE_OFFSET + 8)
    if description.backend != "tensorrt_rtx" or len(header) < SIZE_OFFSET + 8:
        return
    (size,) = struct.unpack_from("<Q", header, SIZE_OFFSET)
    if not header.startswith(RTX_MAGIC) or size != path.stat().st_size:
        yield f"{ENGINE_NAME} has no header of a TensorRT-RTX engine of its length"


def _choose_reference(
    report: EngineReport, description: EngineDescription, model: Path | None
) -> Path | None:
    """Returns the exported model to compare with, or says why there is none."""
    what = "its outputs against onnxruntime's"
    if model is None:
        report.not_checked.append(f"{what}: name the exported model with --onnx")
    elif description.model.dtype == "bfloat16":
        report.not_checked.append(f"{what}: its CPU provider lacks bfloat16")
    else:
        return model
    return None


def _run(
    folder: Path, description: EngineDescription, model: Path | None, report: EngineReport
) -> None:
    """Loads the engine and runs each profile at each point, in a process of its own."""

    def hear(event: ChildEvent) -> None:
        if event.kind == "fault":
            report.faults.append(event.text)

    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        probes = list(make_probes(description, scratch))
        job = EngineJob(folder=str(folder.resolve()), requests=tuple(p.request for p in probes))
        end = run_child(MODULE, job, scratch / "run.log", hear)
        if not end.is_done:
            _judge_end(end, report)
            return
        report.checked.append(f"loaded, and run {len(probes)} times")
        reference = None if model is None else _open_reference(model, description)
        for probe in probes:
            with np.load(probe.request.outputs_path) as outputs:
                report.faults += find_output_faults(probe, dict(outputs), description, reference)
    if model is not None and not report.faults:
        report.checked.append(f"{len(description.model.outputs)} outputs against onnxruntime's")


def _open_reference(model: Path, description: EngineDescription) -> "OnnxReference":
    from llmopt.engine.onnx_reference import OnnxReference  # noqa: PLC0415 - onnxruntime

    return OnnxReference(model, description.model)


def make_probes(description: EngineDescription, scratch: Path) -> Iterator[Probe]:
    """Yields a run for each profile and point, its inputs written to a file."""
    for index, profile in enumerate(description.profiles):
        for point in POINTS:
            feeds = make_feeds(description.model, profile.sizes_at(point), seed=index)
            stem = f"{index}-{point}"
            feeds_path, outputs_path = scratch / f"{stem}.in.npz", scratch / f"{stem}.out.npz"
            np.savez(feeds_path, **feeds)  # type: ignore[arg-type]
            request = Request(
                profile=index, feeds_path=str(feeds_path), outputs_path=str(outputs_path)
            )
            yield Probe(f"profile {profile.name} at {point}", feeds, request)


def find_output_faults(
    probe: Probe,
    outputs: Mapping[str, NDArray[Any]],
    description: EngineDescription,
    reference: "OnnxReference | None",
) -> Iterator[str]:
    """Yields what is wrong with what an engine gave for a probe, the cache as well as the logits.

    Args:
        probe: What it was run on.
        outputs: By name; bfloat16 as its bits.
        description: Of the engine.
        reference: What they are held against, None for nothing but that they are finite.
    """
    expected = {} if reference is None else reference.run(probe.feeds)
    tolerance = TOLERANCES[description.model.dtype]
    if description.model.dtype == "float32" and description.settings.tf32:
        tolerance = TF32_TOLERANCE
    for spec in description.model.outputs:
        values = to_float32(outputs[spec.name])
        if not np.isfinite(values).all():
            yield f"{probe.title}: {spec.name} holds NaN or infinity"
        elif spec.name in expected:
            error = relative_error(values, expected[spec.name])
            if not error <= tolerance:
                yield (
                    f"{probe.title}: {spec.name} is {error:.2g} of its largest value away from "
                    f"onnxruntime's; {tolerance:g} is allowed"
                )


def _judge_end(end: ChildEnd, report: EngineReport) -> None:
    """Tells an engine that does not run from a machine that can't run it now.

    Raises:
        LlmoptError, OSError, ChildBug: What the process met with says nothing of either.
    """
    end.raise_error()
    reason = end.reason
    if end.ran_out_of_memory:
        cause = "killed, most likely because memory ran out" if reason is None else reason.text
        report.not_checked.append(_not_run(cause))
    elif reason is not None and reason.kind == "unavailable":
        report.not_checked.append(_not_run(reason.text))
    else:
        said = f"{end.cause}: {end.log_tail}" if reason is None else reason.text
        report.faults.append(f"it does not run: {said}")


def _not_run(reason: str) -> str:
    return f"loading and running it: not run, because {reason}"


def to_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Widens an output; bfloat16 comes as its bits, uint16."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def relative_error(values: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Returns the largest difference as a share of the reference's largest value; NaN is kept."""
    if values.shape != reference.shape:
        return float("inf")
    if values.size == 0:
        return 0.0
    return float(np.abs(values - reference).max() / max(float(np.abs(reference).max()), 1e-30))
