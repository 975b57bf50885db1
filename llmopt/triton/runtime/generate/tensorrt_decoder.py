"""A decoder as a TensorRT engine; the cache stays in the GPU's memory.

Written after TensorRT's documentation; no GPU that the engines run on was at hand to run it.
"""

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .cuda_driver import CudaDriver, CudaError
from .decoder import Array, Cache, warm_up

logger = logging.getLogger(__name__)
NUMPY_DTYPES = {"float32": np.float32, "float16": np.float16, "int64": np.int64}


@dataclass
class DeviceArray:
    """Memory of the GPU, with the shape of what lies there; at address 0 once it is freed."""

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
        device_id: Of the GPU.
        warm_up_tokens: Of the prompt that loading runs; 0 for none.
    """

    def __init__(
        self,
        engine_path: Path,
        backend: str,
        cache: Sequence[Mapping[str, Any]],
        profiles: Sequence[Mapping[str, Any]],
        device_id: int,
        warm_up_tokens: int,
    ) -> None:
        self._trt = importlib.import_module(backend)
        self._path, self._specs, self._profiles = engine_path, list(cache), list(profiles)
        self._device_id, self._warm_up_tokens = device_id, warm_up_tokens

    def attach(self) -> None:
        """Loads the engine in the thread that runs it, since a CUDA context belongs to a thread."""
        self._driver = CudaDriver()
        self._driver.open(self._device_id)
        self._stream = self._driver.make_stream()
        self._runtime = self._trt.Runtime(self._trt.Logger(self._trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        if self._engine is None:
            raise RuntimeError(f"TensorRT {self._trt.__version__} does not load {self._path.name}")
        self._context = self._engine.create_execution_context()
        self._profile = -1
        if self._warm_up_tokens:
            warm_up(self, self._warm_up_tokens)

    def empty_cache(self, num_rows: int) -> Cache:
        """Returns the cache before the first token."""
        with self._make_cache() as cache:
            for spec in self._specs:
                shape = (num_rows, spec["num_heads"], 0, spec["head_size"])
                self._allocate(shape, spec["dtype"], cache)
        return cache

    def forward(
        self, ids_BT: Array, mask_BL: Array, positions_BT: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        """Runs new tokens, see `Decoder.forward`."""
        held: Cache = list(cache)
        try:
            num_rows, num_new = ids_BT.shape
            self._choose_profile(batch=num_rows, sequence=num_new, past_sequence=cache[0].shape[2])
            feeds = {"input_ids": ids_BT, "attention_mask": mask_BL, "position_ids": positions_BT}
            handles = {name: self._upload(array, held) for name, array in feeds.items()}
            named = zip(self._specs, cache, strict=True)
            handles |= {spec["name"]: handle for spec, handle in named}
            for name, handle in handles.items():
                if not self._context.set_input_shape(name, handle.shape):
                    raise RuntimeError(f"the engine refuses {name} of shape {handle.shape}")
            logits = self._make_output("logits", self._dtype_of("logits"), held)
            with self._make_cache() as present:
                for spec in self._specs:
                    name = spec["output"]
                    handles[name] = self._make_output(name, spec["dtype"], present)
                self._run({**handles, "logits": logits})
                logits_BTV = self._download(logits)
        finally:
            self.free_cache(held)
        return np.asarray(logits_BTV[:, -1], np.float32), present

    def read_cache(self, cache: Cache) -> list[Array]:
        """Copies a cache to the host and frees its memory on the GPU."""
        try:
            return [self._download(handle) for handle in cache]
        finally:
            self.free_cache(cache)

    def write_cache(self, arrays: Sequence[Array]) -> Cache:
        """Copies a cache to the GPU."""
        with self._make_cache() as cache:
            for array in arrays:
                self._upload(array, cache)
        return cache

    def free_cache(self, cache: Cache) -> None:
        """Frees what of a cache is not freed; after a fault of the GPU it may refuse that too."""
        for handle in cache:
            address, handle.address = handle.address, 0
            try:
                if address:
                    self._driver.free(address)
            except CudaError:
                logger.exception("memory of the GPU could not be freed")

    @contextmanager
    def _make_cache(self) -> Iterator[Cache]:
        """Gives a list for new memory, which is freed where its making fails."""
        cache: Cache = []
        try:
            yield cache
        except BaseException:
            self.free_cache(cache)
            raise

    def _run(self, handles: Mapping[str, DeviceArray]) -> None:
        for name, handle in handles.items():
            self._context.set_tensor_address(name, handle.address)
        if not self._context.execute_async_v3(self._stream):
            raise RuntimeError("the engine refused the run")
        self._driver.wait(self._stream)

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

    def _make_output(self, name: str, dtype: str, owner: Cache) -> DeviceArray:
        return self._allocate(tuple(self._context.get_tensor_shape(name)), dtype, owner)

    def _allocate(self, shape: tuple[int, ...], dtype: str, owner: Cache) -> DeviceArray:
        """Makes memory and puts it at once into the list of what its owner frees."""
        array = DeviceArray(0, shape, dtype)
        array.address = self._driver.allocate(array.num_bytes)
        owner.append(array)
        return array

    def _upload(self, array: Array, owner: Cache) -> DeviceArray:
        handle = self._allocate(array.shape, str(array.dtype), owner)
        self._driver.copy_to(handle.address, np.ascontiguousarray(array))
        return handle

    def _download(self, handle: DeviceArray) -> Array:
        array = np.empty(handle.shape, NUMPY_DTYPES[handle.dtype])
        self._driver.copy_from(handle.address, array)
        return array
