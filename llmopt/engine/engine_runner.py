"""The process that loads an engine, lists what it holds, and runs it on the GPU at hand.

Run as `python -m llmopt.engine.engine_runner JOB.json PARENT_PID`. bfloat16, which numpy lacks,
passes as uint16.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmopt.artifacts.engine_description import (
    ENGINE_NAME,
    EngineDescription,
    read_engine_description,
)
from llmopt.artifacts.optimization_profile import POINTS
from llmopt.artifacts.tensor_spec import TensorSpec
from llmopt.engine.build_job import ChildEvent, EngineJob, Request
from llmopt.engine.cuda_driver import CudaDriver, CudaError
from llmopt.engine.probe_inputs import NUMPY_DTYPES
from llmopt.engine.tensorrt_process import (
    DTYPES,
    load_backend,
    make_logger,
    refuse,
    run_process,
    say,
    unavailable,
)


def run(text: str) -> ChildEvent:
    """Loads the engine of a job (JSON), says its faults, runs its requests.

    Raises:
        ChildError: It does not load or run here.
    """
    job = EngineJob.model_validate_json(text)
    folder = Path(job.folder)
    description = read_engine_description(folder)
    trt = load_backend(description.backend)
    logger = make_logger(trt)
    try:
        driver = CudaDriver()
        driver.open_first()
        runtime = trt.Runtime(logger)  # which outlives the engine
        engine = load_engine(runtime, logger, (folder / ENGINE_NAME).read_bytes())
        for fault in find_faults(engine, description):
            say(ChildEvent(kind="fault", text=fault))
        context = engine.create_execution_context()
        if context is None:
            raise refuse("; ".join(logger.errors) or "it gives no execution context")
        stream = driver.make_stream()
        for request in job.requests:
            run_request(driver, context, stream, request, description)
    except CudaError as error:
        raise unavailable(str(error)) from None
    return ChildEvent(kind="done", text=str(trt.__version__))


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
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    model = description.model
    for spec in (*model.inputs, *model.outputs):
        if spec.name not in names:
            yield f"the engine has no tensor {spec.name}"
            continue
        names.discard(spec.name)
        dtype = DTYPES.get(engine.get_tensor_dtype(spec.name).name)
        if dtype != spec.dtype:
            yield f"{spec.name} is {dtype} in the engine, {spec.dtype} in engine.json"
    yield from (f"tensor {name} of the engine is not in engine.json" for name in sorted(names))
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


def run_request(
    driver: CudaDriver, context: Any, stream: int, request: Request, description: EngineDescription
) -> None:
    """Runs one request and writes its outputs.

    Raises:
        ChildError: TensorRT refuses the shapes, or the run.
    """
    with np.load(request.feeds_path) as feeds:
        arrays = dict(feeds)
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
            raise refuse("the run was refused")
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
