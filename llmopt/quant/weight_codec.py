"""What turns one weight of a checkpoint into the tensors that are stored in its place."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llmopt.checkpoint.safetensors_header import TensorEntry, TensorPlan
from llmopt.checkpoint.tensor_files import read_elements
from llmopt.errors import InputError

SLICE_ELEMENTS = 1 << 20  # small enough for a core's cache, a multiple of every block size


@dataclass(frozen=True)
class EncodedWeight:
    """One layer as it is stored.

    Attributes:
        tensors: By what follows the layer's name and a dot.
        weight_mse: Mean squared error of the weights.
    """

    tensors: dict[str, Tensor]
    weight_mse: float


class WeightCodec(Protocol):
    """Quantises weights without looking at data."""

    def plan(self, shape_OI: tuple[int, ...]) -> dict[str, TensorPlan]:
        """Returns what a weight of that shape becomes, by what follows the layer's name and dot."""

    def encode(self, name: str, entry: TensorEntry) -> EncodedWeight:
        """Reads and quantises one weight, slice by slice.

        Raises:
            InputError: The weight holds NaN or infinity.
        """


def read_slices(name: str, entry: TensorEntry, slice_elements: int) -> Iterator[tuple[int, Tensor]]:
    """Yields a tensor in flat slices: where each begins, and its elements.

    Raises:
        InputError: The tensor holds NaN or infinity.
    """
    num_elements = entry.shape[0] * entry.shape[1]
    for start in range(0, num_elements, slice_elements):
        part = read_elements(entry, start, min(start + slice_elements, num_elements))
        if not bool(torch.isfinite(part).all()):
            raise InputError(f"{entry.file}: tensor {name} holds NaN or infinity")
        yield start, part
