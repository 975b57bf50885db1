"""A decoder as a TensorRT engine; the cache stays in the GPU's memory.

Written after TensorRT's documentation; no GPU that the engines run on was at hand to run it.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .cuda_driver import CudaDriver
from .decoder import Array, Cache

NUMPY_DTYPES = {"float32": np.float32, "float16": np.float16, "int64": np.int64}


@dataclass
class DeviceArray:
    """Memory of the GPU, with the shape of what lies there."""

    address: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return int(prod(self.shape)) * int(np.dtype(NUMPY_DTYPES[self.dtype]).itemsize)


class TensorrtDecoder:
    """Runs an engine, see `Decoder`.

    Args:
        engine_path: The serialised engine.
        backend: The module that made it, "tensorrt" or "tensorrt_rtx".
        cache: As for OnnxDecoder.
        profiles: In the engine's order: {"axes": {name: [min, max]}}.
    """

    def __init__(
        self,
        engine_path: Path,
        backend: str,
        cache: Sequence[Mapping[str, Any]],
        profiles: Sequence[Mapping[str, Any]],
    ) -> None:
        self._trt = importlib.import_module(backend)
        self._path, self._specs, self._profiles = engine_path, list(cache), list(profiles)

    def attach(self) -> None:
        """Loads the engine in the thread that runs it, since a CUDA context belongs to a thread."""
        self._driver = CudaDriver()
        self._driver.open_first()
        self._stream = self._driver.make_stream()
        self._runtime = self._trt.Runtime(self._trt.Logger(self._trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        if self._engine is None:
            raise RuntimeError(f"TensorRT {self._trt.__version__} does not load {self._path.name}")
        self._context = self._engine.create_execution_context()
        self._profile = -1

    def empty_cache(self, num_rows: int) -> Cache:
        """Returns the cache before the first token."""
        shapes = [(num_rows, each["num_heads"], 0, each["head_size"]) for each in self._specs]
        return [
            self._allocate(shape, each["dtype"])
            for shape, each in zip(shapes, self._specs, strict=True)
        ]

    def forward(
        self, ids_BT: Array, mask_BL: Array, positions_BT: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        """Runs new tokens, see `Decoder.forward`; the old cache's memory is freed."""
        past = cache[0].shape[2]
        self._choose_profile(batch=ids_BT.shape[0], sequence=ids_BT.shape[1], past_sequence=past)
        feeds = {"input_ids": ids_BT, "attention_mask": mask_BL, "position_ids": positions_BT}
        inputs = {name: self._upload(array) for name, array in feeds.items()}
        named = zip(self._specs, cache, strict=True)
        inputs |= {spec["name"]: handle for spec, handle in named}
        for name, handle in inputs.items():
            if not self._context.set_input_shape(name, handle.shape):
                raise RuntimeError(f"the engine refuses {name} of shape {handle.shape}")
        outputs = {spec["output"]: self._make_output(spec["output"], spec) for spec in self._specs}
        logits = self._make_output("logits", {"dtype": self._dtype_of("logits")})
        for name, handle in {**inputs, **outputs, "logits": logits}.items():
            self._context.set_tensor_address(name, handle.address)
        if not self._context.execute_async_v3(self._stream):
            raise RuntimeError("the engine refused the run")
        self._driver.wait(self._stream)
        logits_BTV = self._download(logits)
        for handle in (*inputs.values(), logits):
            self._driver.free(handle.address)
        return np.asarray(logits_BTV[:, -1], np.float32), list(outputs.values())

    def read_cache(self, cache: Cache) -> list[Array]:
        """Copies a cache to the host and frees its memory on the GPU."""
        arrays = [self._download(handle) for handle in cache]
        for handle in cache:
            self._driver.free(handle.address)
        return arrays

    def write_cache(self, arrays: Sequence[Array]) -> Cache:
        """Copies a cache to the GPU."""
        return [self._upload(array) for array in arrays]

    def _choose_profile(self, **sizes: int) -> None:
        for index, profile in enumerate(self._profiles):
            axes = profile["axes"]
            if all(axes[name][0] <= size <= axes[name][1] for name, size in sizes.items()):
                if index != self._profile:
                    self._context.set_optimization_profile_async(index, self._stream)
                    self._driver.wait(self._stream)
                    self._profile = index
                return
        raise RuntimeError(f"no profile of the engine holds {sizes}")

    def _dtype_of(self, name: str) -> str:
        return str(np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))).name)

    def _make_output(self, name: str, spec: Mapping[str, Any]) -> DeviceArray:
        return self._allocate(tuple(self._context.get_tensor_shape(name)), spec["dtype"])

    def _allocate(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        array = DeviceArray(0, shape, dtype)
        array.address = self._driver.allocate(array.num_bytes)
        return array

    def _upload(self, array: Array) -> DeviceArray:
        handle = self._allocate(array.shape, str(array.dtype))
        self._driver.copy_to(handle.address, np.ascontiguousarray(array))
        return handle

    def _download(self, handle: DeviceArray) -> Array:
        array = np.empty(handle.shape, NUMPY_DTYPES[handle.dtype])
        self._driver.copy_from(handle.address, array)
        return array
