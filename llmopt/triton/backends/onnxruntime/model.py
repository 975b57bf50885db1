"""Stands in for Triton's onnxruntime backend: a python-based backend over the wheel, on the CPU.

It reads the same config.pbtxt and model.onnx, and checks what the real one checks when it loads:
names, data types, ranks and the batch axis. It never pads: equal shapes alone are run together.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

DTYPES = {
    "tensor(int64)": "TYPE_INT64", "tensor(int32)": "TYPE_INT32", "tensor(bool)": "TYPE_BOOL",
    "tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16", "tensor(string)": "TYPE_STRING",
}  # fmt: skip
DYNAMIC = -1
PASSED_ON = "session.use_device_allocator_for_initializers"  # the one entry that the backend takes


class TritonPythonModel:
    """One instance: a session on the CPU."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the graph and holds the config against it."""
        config = json.loads(args["model_config"])
        # A python-based backend gets the model's own folder as its repository.
        name = config.get("default_model_filename") or "model.onnx"
        path = Path(args["model_repository"]) / args["model_version"] / name
        if not path.exists():
            raise pb_utils.TritonModelException(
                f"unable to find '{path}' for model instance '{config['name']}'"
            )
        self._batches = config["max_batch_size"] > 0
        self._session = ort.InferenceSession(
            str(path), _read_options(config), providers=["CPUExecutionProvider"]
        )
        faults = [
            *self._find_faults("input", self._session.get_inputs(), config["input"]),
            *self._find_faults("output", self._session.get_outputs(), config["output"]),
        ]
        if faults:
            raise pb_utils.TritonModelException("; ".join(faults))
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Runs requests of equal shapes together, others one by one."""
        feeds = [self._read(request) for request in requests]
        shapes = {tuple(array.shape[1:] for array in feed.values()) for feed in feeds}
        if not self._batches or len(shapes) > 1:
            return [self._respond(self._session.run(self._outputs, feed)) for feed in feeds]
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs}
        results = self._session.run(self._outputs, joined)
        ends = np.cumsum([len(feed[self._inputs[0]]) for feed in feeds])[:-1]
        parts = zip(*(np.split(result, ends) for result in results), strict=True)
        return [self._respond(part) for part in parts]

    def _read(self, request: Any) -> dict[str, NDArray[Any]]:
        return {n: pb_utils.get_input_tensor_by_name(request, n).as_numpy() for n in self._inputs}

    def _respond(self, arrays: Iterable[NDArray[Any]]) -> Any:
        named = zip(self._outputs, arrays, strict=True)
        tensors = [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in named]
        return pb_utils.InferenceResponse(tensors)

    def _find_faults(
        self, side: str, found: Sequence[Any], configured: Sequence[Mapping[str, Any]]
    ) -> Iterator[str]:
        graph = {tensor.name: tensor for tensor in found}
        names = {tensor["name"] for tensor in configured}
        if side == "input" and names != graph.keys():
            yield f"model has inputs {sorted(graph)}, the configuration {sorted(names)}"
        for tensor in configured:
            name = tensor["name"]
            if name not in graph:
                yield f"unexpected {side} '{name}', allowed: {sorted(graph)}"
                continue
            if DTYPES.get(graph[name].type) != tensor["data_type"]:
                yield f"{side} '{name}' is {graph[name].type}, configured {tensor['data_type']}"
            shape = [size if isinstance(size, int) else DYNAMIC for size in graph[name].shape]
            wanted = [int(size) for size in _read_sizes(tensor)]
            wanted = [DYNAMIC, *wanted] if self._batches else wanted
            if self._batches and shape[:1] != [DYNAMIC]:
                yield f"{side} '{name}': the first axis of {shape} is no variable-size batch"
            elif not _fits(shape, wanted, is_exact=side == "output"):
                yield f"{side} '{name}' has shape {shape} in the model, configured {wanted}"


def _read_sizes(tensor: Mapping[str, Any]) -> Sequence[Any]:
    reshape = tensor.get("reshape")
    sizes: Sequence[Any] = tensor["dims"] if reshape is None else reshape.get("shape", [])
    return sizes


def _fits(shape: Sequence[int], wanted: Sequence[int], *, is_exact: bool) -> bool:
    """Tells whether a graph's shape takes what is configured; outputs must be the same."""
    return len(shape) == len(wanted) and all(
        size == given
        for size, given in zip(shape, wanted, strict=True)
        if is_exact or size != DYNAMIC
    )


def _read_options(config: Mapping[str, Any]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    given = {name: each["string_value"] for name, each in config.get("parameters", {}).items()}
    if "intra_op_thread_count" in given:
        options.intra_op_num_threads = int(given["intra_op_thread_count"])
    if PASSED_ON in given:
        options.add_session_config_entry(PASSED_ON, given[PASSED_ON])
    return options
