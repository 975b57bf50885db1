"""Reads the next block's tensors from the disk while the present one is worked on."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from llmopt.checkpoint.safetensors_header import TensorEntry
from llmopt.checkpoint.tensor_files import read_tensor


class ReadAhead:
    """Tensors that are being read in one background thread, each handed out once.

    For a GPU, which is idle while the disk is read, at the price of one block more in (pinned)
    host memory. On a CPU the thread would only take time from the work.

    Args:
        device: Where the tensors will go.
    """

    def __init__(self, device: torch.device) -> None:
        self._pins = device.type == "cuda"
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
        self._pending: dict[str, Future[Tensor]] = {}

    def start(self, entries: Mapping[str, TensorEntry]) -> None:
        """Begins to read, in the order of `entries`."""
        for name, entry in entries.items():
            if name not in self._pending:
                self._pending[name] = self._pool.submit(self._read, entry)

    def take(self, name: str) -> Tensor | None:
        """Waits for a tensor and hands it out; None where it was not begun.

        Raises:
            InputError: The file ended too early.
        """
        future = self._pending.pop(name, None)
        return None if future is None else future.result()

    def close(self) -> None:
        """Drops what is not yet read."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def _read(self, entry: TensorEntry) -> Tensor:
        tensor = read_tensor(entry)
        return tensor.pin_memory() if self._pins else tensor
