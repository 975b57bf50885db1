"""The building process: parses an ONNX file and builds an engine, TensorRT or TensorRT-RTX.

Run as `python -m llmopt.engine.builder JOB.json`. TensorRT reports by its logger and returns None;
some graphs kill it. So it lives in a process of its own, whose standard output is BuildEvents
and whose standard error is the log.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from llmopt.engine.build_job import BuildEvent, BuildJob

FAILED = 1


class BuildError(Exception):
    """The build can't go on; carries the event that says why."""

    def __init__(self, event: BuildEvent) -> None:
        super().__init__(event.text)
        self.event = event


def say(event: BuildEvent) -> None:
    """Writes one event."""
    sys.stdout.write(event.model_dump_json() + "\n")
    sys.stdout.flush()


def refuse(text: str) -> BuildError:
    """Makes the error of a graph or setting that is at fault."""
    return BuildError(BuildEvent(kind="refused", text=text))


def load_backend(name: str) -> ModuleType:
    """Imports TensorRT's Python bindings.

    Raises:
        BuildError: They are not installed, or their libraries are not.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise BuildError(BuildEvent(kind="unavailable", text=f"{name}: {error}")) from None


def make_logger(trt: Any) -> Any:
    """Makes TensorRT's logger, which keeps errors and passes warnings on."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            sys.stderr.write(f"[{severity.name}] {message}\n")
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                say(BuildEvent(kind="warning", text=message))

    return Logger()


def make_monitor(trt: Any) -> Any:
    """Makes TensorRT's progress monitor, which passes on the outermost phases."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.outer: set[str] = set()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.outer.add(phase_name)
                say(BuildEvent(kind="phase", text=phase_name, total=num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            del step
            if phase_name in self.outer:
                say(BuildEvent(kind="advance"))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.outer.discard(phase_name)

    return Monitor()


def build(job: BuildJob) -> str:
    """Builds an engine and writes it; returns TensorRT's version.

    Raises:
        BuildError: What TensorRT reported.
    """
    trt: Any = load_backend(job.backend)
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flag)
    parser = trt.OnnxParser(network, logger)
    say(BuildEvent(kind="phase", text="parsing the graph", total=1))
    if not parser.parse_from_file(job.onnx_path):
        errors = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        raise refuse("; ".join(errors or logger.errors) or "the parser refused it without a word")
    say(BuildEvent(kind="advance"))
    config = configure(trt, builder, job)
    config.progress_monitor = make_monitor(trt)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise refuse("; ".join(logger.errors) or "the builder gave no engine and no reason")
    Path(job.engine_path).write_bytes(memoryview(engine))
    return str(trt.__version__)


def configure(trt: Any, builder: Any, job: BuildJob) -> Any:
    """Makes the builder's configuration: limits, flags, GPUs and profiles.

    Raises:
        BuildError: The backend lacks what is asked for, or refuses a profile.
    """
    config, settings = builder.create_builder_config(), job.settings
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    for name, wanted in (("WEIGHT_STREAMING", settings.weight_streaming), ("TF32", settings.tf32)):
        if wanted:
            config.set_flag(getattr(trt.BuilderFlag, name))
        else:
            config.clear_flag(getattr(trt.BuilderFlag, name))
    set_capabilities(trt, config, job)
    for number, shapes in enumerate(job.profiles):
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in shapes.items():
            profile.set_shape(name, low, best, high)
        if config.add_optimization_profile(profile) < 0:
            raise refuse(f"profile {number} is refused")
    return config


def set_capabilities(trt: Any, config: Any, job: BuildJob) -> None:
    """Names the GPUs that the engine is for, where the backend lets one.

    Raises:
        BuildError: It does not, or lacks one of them.
    """
    wanted = job.settings.compute_capabilities
    if not wanted:
        return
    if not hasattr(config, "set_compute_capability"):
        raise refuse(f"{job.backend} builds for the GPU at hand: leave compute_capabilities out")
    config.num_compute_capabilities = len(wanted)
    for index, capability in enumerate(wanted):
        name = f"SM{capability.replace('.', '')}"
        known = [each for each in dir(trt.ComputeCapability) if each.startswith("SM")]
        if name not in known:
            allowed = ", ".join(f"{each[2:-1]}.{each[-1]}" for each in known)
            raise refuse(f"compute capability {capability} is unknown to {job.backend}: {allowed}")
        if not config.set_compute_capability(getattr(trt.ComputeCapability, name), index):
            raise refuse(f"{job.backend} refuses compute capability {capability}")


def main() -> int:
    """Builds what the job file says; returns the exit status."""
    job = BuildJob.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        version = build(job)
    except BuildError as error:
        say(error.event)
        return FAILED
    say(BuildEvent(kind="done", text=version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
