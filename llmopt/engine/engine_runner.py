"""The process that loads an engine, lists what it holds, and runs it on the GPU at hand.

Run as `python -m llmopt.engine.engine_runner JOB.json PARENT_PID`. bfloat16, which numpy lacks,
passes as uint16.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmopt.artifacts.child_events import ChildEvent
from llmopt.artifacts.child_work import ChildError, run_process, say
from llmopt.artifacts.engine_description import (
    ENGINE_NAME,
    EngineDescription,
    read_engine_description,
)
from llmopt.artifacts.optimization_profile import POINTS
from llmopt.artifacts.tensor_spec import FoundTensor, TensorSpec, describe_differences
from llmopt.engine.build_job import EngineJob, Request
from llmopt.engine.cuda_driver import MACHINE_ERRORS, OUT_OF_MEMORY, CudaDriver, CudaError
from llmopt.engine.probe_inputs import NUMPY_DTYPES
from llmopt.engine.tensorrt_process import (
    DTYPES,
    load_backend,
    make_logger,
    refuse,
    unavailable,
)


@dataclass(frozen=True)
class Gpu:
    """The GPU at hand, and a stream on it."""

    driver: CudaDriver
    stream: int


def run(text: str) -> ChildEvent:
    """Loads the engine of a job (JSON), says its faults, runs its requests.

    Raises:
        ChildError: It does not load or run here.
    """
    job = EngineJob.model_validate_json(text)
    folder = Path(job.folder)
    description = read_engine_description(folder)
    gpu = open_gpu()
    trt = load_backend(description.backend)
    logger = make_logger(trt)
    try:
        runtime = trt.Runtime(logger)  # which outlives the engine
    except (TypeError, RuntimeError):  # what a constructor gives that returns null
        raise unavailable("; ".join(logger.errors) or "it makes no runtime") from None
    engine = load_engine(runtime, logger, (folder / ENGINE_NAME).read_bytes())
    for fault in find_faults(engine, description):
        say(ChildEvent(kind="fault", text=fault))
    context = engine.create_execution_context()
    if context is None:
        raise refuse("; ".join(logger.errors) or "it gives no execution context")
    for request in job.requests:
        try:
            run_request(gpu, context, logger, request, description)
        except CudaError as error:
            raise judge_cuda_error(error) from None
    return ChildEvent(kind="done", text=str(trt.__version__))


def open_gpu() -> Gpu:
    """Takes the first GPU and makes a stream on it.

    Raises:
        ChildError: It is absent, busy or full, whatever the engine.
    """
    try:
        driver = CudaDriver()
        driver.open_first()
        return Gpu(driver, driver.make_stream())
    except CudaError as error:
        raise unavailable(str(error)) from None


def judge_cuda_error(error: CudaError) -> ChildError:
    """Tells the state of the GPU from what an engine did to it."""
    if error.status == OUT_OF_MEMORY:
        return ChildError(ChildEvent(kind="memory", text=str(error)))
    return unavailable(str(error)) if error.status in MACHINE_ERRORS else refuse(str(error))


def load_engine(runtime: Any, logger: Any, data: bytes) -> Any:
    """Deserialises an engine.

    Raises:
        ChildError: TensorRT does not take it.
    """
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise refuse("; ".join(logger.errors) or "TensorRT does not load it")
    return engine


def find_faults(engine: Any, description: EngineDescription) -> Iterator[str]:
    """Yields in what a loaded engine differs from its description."""
    model, tensors = description.model, [*_list_tensors(engine)]
    inputs = [tensor for mode, tensor in tensors if mode == "INPUT"]
    outputs = [tensor for mode, tensor in tensors if mode != "INPUT"]
    yield from describe_differences("input", model.inputs, inputs)
    yield from describe_differences("output", model.outputs, outputs)
    if engine.num_optimization_profiles != len(description.profiles):
        yield (
            f"the engine has {engine.num_optimization_profiles} profiles, engine.json "
            f"{len(description.profiles)}"
        )
        return
    for index, profile in enumerate(description.profiles):
        for spec in model.inputs:
            found = engine.get_tensor_profile_shape(spec.name, index)
            pairs = zip(POINTS, found, profile.shapes(spec), strict=True)
            for point, shape, said in pairs:
                if tuple(shape) != said:
                    yield f"profile {profile.name}: {spec.name} at {point} is {tuple(shape)}"


def _list_tensors(engine: Any) -> Iterator[tuple[str, FoundTensor]]:
    """Yields `INPUT` or `OUTPUT` with each tensor; sizes are held against the profiles."""
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        found = FoundTensor(name, DTYPES.get(dtype, dtype), None)
        yield engine.get_tensor_mode(name).name, found


def run_request(
    gpu: Gpu, context: Any, logger: Any, request: Request, description: EngineDescription
) -> None:
    """Runs one request and writes its outputs.

    Raises:
        ChildError: TensorRT refuses the shapes, or the run.
    """
    with np.load(request.feeds_path) as feeds:
        arrays = dict(feeds)
    driver, stream = gpu.driver, gpu.stream
    context.set_optimization_profile_async(request.profile, stream)
    driver.wait(stream)
    addresses: dict[str, int] = {}
    try:
        for name, array in arrays.items():
            if not context.set_input_shape(name, array.shape):
                raise refuse(f"shape {array.shape} of {name} is refused")
            addresses[name] = driver.allocate(array.nbytes)
            driver.copy_to(addresses[name], np.ascontiguousarray(array))
        outputs = make_outputs(context, description.model.outputs)
        addresses |= {name: driver.allocate(array.nbytes) for name, array in outputs.items()}
        for name, address in addresses.items():
            context.set_tensor_address(name, address)
        if not context.execute_async_v3(stream):
            raise refuse("; ".join(["the run was refused", *logger.errors]))
        driver.wait(stream)
        for name, array in outputs.items():
            driver.copy_from(addresses[name], array)
    finally:
        for address in addresses.values():
            driver.free(address)
    np.savez(request.outputs_path, **outputs)  # type: ignore[arg-type]


def make_outputs(context: Any, specs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
    """Makes arrays of the shapes that the outputs will have."""
    return {
        spec.name: np.empty(tuple(context.get_tensor_shape(spec.name)), NUMPY_DTYPES[spec.dtype])
        for spec in specs
    }


if __name__ == "__main__":
    sys.exit(run_process(run))
