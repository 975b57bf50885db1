"""A decoder in onnxruntime, on the CPU or a GPU; the cache stays where it is computed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from .decoder import Array, Cache

LOG_ERRORS = 3
NUMPY_DTYPES = {"float32": np.float32, "float16": np.float16}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxDecoder:
    """Runs an exported model.

    Args:
        model_path: The graph; its weights lie beside it.
        cache: The cache's inputs in order: {"name", "output", "dtype", "num_heads", "head_size"}.
        session_options: Entries of onnxruntime's session config.
        device: "cpu" or "cuda".
        device_id: Of the GPU.
        threads: None leaves onnxruntime's choice.

    Raises:
        RuntimeError: onnxruntime lacks the device; it is not replaced by another.
    """

    def __init__(
        self,
        model_path: Path,
        cache: Sequence[Mapping[str, Any]],
        session_options: Mapping[str, str],
        device: str,
        device_id: int,
        threads: int | None,
    ) -> None:
        provider = PROVIDERS[device]
        if provider not in ort.get_available_providers():
            raise RuntimeError(
                f"onnxruntime {ort.__version__} has no {provider}; it has "
                f"{', '.join(ort.get_available_providers())}"
            )
        options = ort.SessionOptions()
        options.log_severity_level = LOG_ERRORS
        if threads is not None:
            options.intra_op_num_threads = threads
        for key, value in session_options.items():
            options.add_session_config_entry(key, value)
        providers = [provider if device == "cpu" else (provider, {"device_id": device_id})]
        self._session = ort.InferenceSession(str(model_path), options, providers=providers)
        self._specs, self._device, self._device_id = list(cache), device, device_id
        self._inputs = {each.name for each in self._session.get_inputs()}

    def attach(self) -> None:
        """Needs nothing: sessions may be called from any thread."""

    def empty_cache(self, num_rows: int) -> Cache:
        """Returns the cache before the first token."""
        return self.write_cache(
            [
                np.empty(
                    (num_rows, spec["num_heads"], 0, spec["head_size"]),
                    NUMPY_DTYPES[spec["dtype"]],
                )
                for spec in self._specs
            ]
        )

    def forward(
        self, ids_BT: Array, mask_BL: Array, positions_BT: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        """Runs new tokens, see `Decoder.forward`."""
        binding = self._session.io_binding()
        feeds = {"input_ids": ids_BT, "attention_mask": mask_BL, "position_ids": positions_BT}
        for name, array in feeds.items():
            if name in self._inputs:
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for spec, handle in zip(self._specs, cache, strict=True):
            binding.bind_ortvalue_input(spec["name"], handle)
        binding.bind_output("logits", "cpu")
        for spec in self._specs:
            binding.bind_output(spec["output"], self._device, self._device_id)
        self._session.run_with_iobinding(binding)
        logits, *new_cache = binding.get_outputs()
        return np.asarray(logits.numpy()[:, -1], np.float32), new_cache

    def read_cache(self, cache: Cache) -> list[Array]:
        """Copies a cache to the host."""
        return [handle.numpy() for handle in cache]

    def write_cache(self, arrays: Sequence[Array]) -> Cache:
        """Copies a cache to where it is computed."""
        return [
            ort.OrtValue.ortvalue_from_numpy(
                np.ascontiguousarray(array), self._device, self._device_id
            )
            for array in arrays
        ]

    def free_cache(self, cache: Cache) -> None:
        """Needs nothing: onnxruntime frees what no Python object holds."""
