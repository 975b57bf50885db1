"""Activations between blocks and their stages: in memory up to a budget, beyond it on disk."""

from pathlib import Path

import torch
from torch import Tensor

from llmopt.checkpoint.safetensors_header import read_header
from llmopt.checkpoint.tensor_files import read_tensor, write_tensors

TENSOR_NAME = "activation"


class ActivationStore:
    """Tensors by key, within a declared memory budget.

    Args:
        folder: Where tensors go that do not fit; made when first needed.
        budget_bytes: Bytes of tensors kept in memory.
        device: Where tensors are returned.
        stored_dtype: What tensors are kept in; they come back in the dtype they came in. None
            keeps them as they are.
    """

    def __init__(
        self,
        folder: Path,
        budget_bytes: int,
        device: torch.device,
        stored_dtype: torch.dtype | None = None,
    ) -> None:
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._device = device
        self._stored_dtype = stored_dtype
        self._dtypes: dict[str, torch.dtype] = {}
        self._tensors: dict[str, Tensor] = {}
        self._files: dict[str, Path] = {}
        self._used_bytes = 0

    @property
    def num_spilled(self) -> int:
        """How many tensors are on disk now."""
        return len(self._files)

    def __contains__(self, key: str) -> bool:
        """Tells whether there is a tensor of that key."""
        return key in self._tensors or key in self._files

    def put(self, key: str, tensor: Tensor) -> None:
        """Keeps a tensor, replacing an older one of that key."""
        self.drop(key)
        self._dtypes[key] = tensor.dtype
        tensor = tensor if self._stored_dtype is None else tensor.to(self._stored_dtype)
        if self.has_room(tensor):
            self._tensors[key] = tensor
            self._used_bytes += tensor.nbytes
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{key}.safetensors"
        write_tensors(path, {TENSOR_NAME: tensor})
        self._files[key] = path

    def has_room(self, tensor: Tensor) -> bool:
        """Tells whether a tensor of a new key would stay in memory."""
        return self._used_bytes + tensor.nbytes <= self._budget_bytes

    def get(self, key: str) -> Tensor:
        """Returns the tensor of that key."""
        return self.get_stored(key).to(self._dtypes[key])

    def get_stored(self, key: str) -> Tensor:
        """Returns the tensor of that key in the dtype that it is kept in."""
        if key in self._tensors:
            return self._tensors[key]
        return read_tensor(read_header(self._files[key])[TENSOR_NAME]).to(self._device)

    def take(self, key: str) -> Tensor:
        """Returns the tensor of that key and forgets it."""
        tensor = self.get(key)
        self.drop(key)
        return tensor

    def drop(self, key: str) -> None:
        """Forgets the tensor of that key, if there is one."""
        self._dtypes.pop(key, None)
        if key in self._tensors:
            self._used_bytes -= self._tensors.pop(key).nbytes
        elif key in self._files:
            self._files.pop(key).unlink()
