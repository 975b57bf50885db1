"""Runs the streaming steps by themselves, as the executor would."""

from pathlib import Path

from llmopt.artifacts.progress import Progress, SilentProgress
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.steps.base import Outcome, ResolvedInput, RunContext, StepBase


def run_step(
    step: StepBase,
    model: Path,
    folder: Path,
    *,
    documents: Path | None = None,
    progress: Progress | None = None,
    threads: int | None = 1,
) -> tuple[Path, Outcome]:
    """Runs a step into `folder`/work; returns the artifact's folder and what it reports."""
    work, scratch = folder / "work", folder / "scratch"
    work.mkdir(parents=True)
    scratch.mkdir(exist_ok=True)
    inputs = make_inputs(model, documents)
    context = RunContext(work, scratch, "cpu", threads, progress or SilentProgress())
    return work, step.run(inputs, context)


def make_inputs(model: Path, documents: Path | None = None) -> dict[str, ResolvedInput]:
    """Resolves a model, and a calibration set of 4 windows of 64 tokens."""
    inputs = {"model": ResolvedInput("base", "checkpoint", "", model)}
    if documents is not None:
        spec = DatasetSpec(path=str(documents), samples=4, seq_len=64)
        inputs["data"] = ResolvedInput("calibration", "dataset", "", documents, dataset=spec)
    return inputs
