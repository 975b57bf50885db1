"""The building process: parses an ONNX file and builds an engine, TensorRT or TensorRT-RTX.

Run as `python -m llmopt.engine.builder JOB.json PARENT_PID`. One code serves TensorRT 10 and 11 and
TensorRT-RTX, which parts from them where it builds without a GPU.
"""

import sys
from pathlib import Path
from typing import Any

from llmopt.artifacts.child_events import ChildEvent
from llmopt.artifacts.child_work import run_process, say
from llmopt.artifacts.engine_description import ENGINE_NAME, TIMING_CACHE_NAME
from llmopt.artifacts.tensor_spec import FoundTensor, describe_differences
from llmopt.engine.backends import BACKENDS, RTX
from llmopt.engine.build_job import BuildJob
from llmopt.engine.cuda_driver import list_gpus
from llmopt.engine.tensorrt_process import (
    DTYPES,
    load_backend,
    make_logger,
    refuse,
    unavailable,
)

TURING = "7.5"  # left out of TensorRT-RTX's own choice


def make_monitor(trt: Any) -> Any:
    """Makes TensorRT's progress monitor, which passes on the outermost phases.

    Their steps are not passed on: most of the time lies in one that counts none.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del num_steps
            if not parent_phase:
                say(ChildEvent(kind="phase", text=phase_name))

        def step_complete(self, phase_name: str, step: int) -> bool:
            del phase_name, step
            return True

        def phase_finish(self, phase_name: str) -> None:
            del phase_name

    return Monitor()


def build(text: str) -> ChildEvent:
    """Builds the engine of a job (JSON) and writes it.

    Raises:
        ChildError: What TensorRT reported.
    """
    job = BuildJob.model_validate_json(text)
    trt = load_backend(job.backend)
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError):  # what a constructor gives that returns null
        raise unavailable("; ".join(logger.errors) or "it makes no builder") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = parse(trt, network, logger, job)  # which owns the weights until the engine is built
    config = builder.create_builder_config()
    capabilities = configure(trt, builder, config, job)
    timings = open_timings(config, job)
    config.progress_monitor = monitor = make_monitor(trt)
    engine = builder.build_serialized_network(network, config)
    del monitor, parser
    if engine is None:
        raise refuse("; ".join(logger.errors) or "the builder gave no engine and no reason")
    if timings is not None:
        Path(job.folder, TIMING_CACHE_NAME).write_bytes(memoryview(timings.serialize()))
    Path(job.folder, ENGINE_NAME).write_bytes(memoryview(engine))
    return ChildEvent(kind="done", text=str(trt.__version__), values=capabilities)


def parse(trt: Any, network: Any, logger: Any, job: BuildJob) -> Any:
    """Parses the graph, and sees to it that TensorRT reads the inputs and outputs that it names.

    Returns:
        The parser.

    Raises:
        ChildError: The parser's errors, or what it reads otherwise.
    """
    say(ChildEvent(kind="phase", text="parsing the graph"))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(job.onnx_path):
        errors = [describe_error(parser.get_error(i)) for i in range(parser.num_errors)]
        said = dict.fromkeys([*errors, *logger.errors])
        raise refuse("; ".join(said) or "the parser refused it without a word")
    inputs = [describe_tensor(network.get_input(i)) for i in range(network.num_inputs)]
    outputs = [describe_tensor(network.get_output(i)) for i in range(network.num_outputs)]
    differences = [
        *describe_differences("input", job.inputs, inputs),
        # Their sizes are what the parser could infer: -1 may stand for a fixed one.
        *describe_differences("output", job.outputs, outputs, is_inferred=True),
    ]
    if differences:
        raise refuse(f"it does not read what onnx.json says: {'; '.join(differences)}")
    return parser


def describe_error(error: Any) -> str:
    """Says what the parser has against which node; its description may be but `false`."""
    return f"node {error.node_name() or error.node()} ({error.node_operator()}): {error.desc()}"


def describe_tensor(tensor: Any) -> FoundTensor:
    """Describes a network's input or output."""
    dtype = DTYPES.get(tensor.dtype.name, tensor.dtype.name)
    return FoundTensor(tensor.name, dtype, tuple(tensor.shape))


def configure(trt: Any, builder: Any, config: Any, job: BuildJob) -> tuple[str, ...]:
    """Sets limits, flags, GPUs and profiles; returns the GPUs' compute capabilities.

    Raises:
        ChildError: The backend lacks what is asked for, or refuses a profile.
    """
    settings = job.settings
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    for name, wanted in (("WEIGHT_STREAMING", settings.weight_streaming), ("TF32", settings.tf32)):
        if wanted:
            config.set_flag(getattr(trt.BuilderFlag, name))
        else:
            config.clear_flag(getattr(trt.BuilderFlag, name))
    for number, shapes in enumerate(job.profiles):
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in shapes.items():
            profile.set_shape(name, low, best, high)
        if config.add_optimization_profile(profile) < 0:
            raise refuse(f"profile {number} is refused")
    if BACKENDS[job.backend].builds_without_gpu:
        return set_capabilities(trt, config, settings.compute_capabilities)
    return find_capability(job)


def set_capabilities(trt: Any, config: Any, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Names the GPUs that the engine is for, where not all but Turing are meant.

    Raises:
        ChildError: The backend lacks one of them.
    """
    members = {
        f"{name[2:-1]}.{name[-1]}": getattr(trt.ComputeCapability, name)
        for name in dir(trt.ComputeCapability)
        if name.startswith("SM")
    }
    if not wanted:  # left to the library: a list would shut out GPUs to come
        return tuple(c for c in RTX.runs_on or () if c in members and c != TURING)
    for capability in wanted:
        if capability not in members:
            allowed = ", ".join(members)
            raise refuse(f"compute capability {capability} is none that it builds for: {allowed}")
    config.num_compute_capabilities = len(wanted)
    for index, capability in enumerate(wanted):
        if not config.set_compute_capability(members[capability], index):
            raise refuse(f"compute capability {capability} is refused")
    return wanted


def find_capability(job: BuildJob) -> tuple[str, ...]:
    """Returns the GPU at hand, for which such a backend builds.

    Raises:
        ChildError: It is not the one that was asked for.
    """
    gpus, wanted = list_gpus(), job.settings.compute_capabilities
    if not gpus:
        raise unavailable("it builds on a GPU, and none is here")
    here = gpus[0].compute_capability
    if wanted and wanted != (here,):
        raise unavailable(
            f"it builds for the GPU at hand, {gpus[0].name} ({here}); compute_capabilities asks "
            f"for {', '.join(wanted)}"
        )
    return (here,)


def open_timings(config: Any, job: BuildJob) -> Any:
    """Gives the builder the timing cache to begin with; None where the backend times nothing.

    Raises:
        ChildError: One is given that the backend can't use.
    """
    if BACKENDS[job.backend].builds_without_gpu:  # its cache stays empty: kernels come at loading
        if job.known_timings is not None:
            raise refuse(f"{job.backend} times no kernels: leave timing_cache out")
        return None
    data = b"" if job.known_timings is None else Path(job.known_timings).read_bytes()
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        raise refuse(f"timing cache {job.known_timings} is of another GPU or TensorRT")
    return cache


if __name__ == "__main__":
    sys.exit(run_process(build))
