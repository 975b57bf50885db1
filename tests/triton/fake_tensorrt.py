"""Stands in for NVIDIA's `tensorrt`, on the host's memory: a decoder that adds up its tokens.

An engine is JSON: its profiles' axes, a token that it does not run, seconds that a run takes. The
cache holds each token's number; the next token is the sum of all before, modulo the vocabulary.
"""

import ctypes
import json
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.triton.good_generate import HEAD_SIZE, HEADS, WORDS

__version__ = "10.5.0"
RUNS: list[tuple[int, int, int]] = []  # profile, rows and new tokens of each run
CACHE_AXES = ("batch", None, "past_sequence", None)


def nptype(dtype: type) -> type:
    """Returns numpy's dtype."""
    return dtype


class Logger:
    """A logger."""

    ERROR = 1

    def __init__(self, severity: int) -> None:
        self.severity = severity


@dataclass
class Runtime:
    """Loads engines."""

    logger: Logger

    def deserialize_cuda_engine(self, data: bytes) -> "Engine":
        """Reads one."""
        return Engine(**json.loads(data))


@dataclass
class Engine:
    """An engine."""

    profiles: list[dict[str, list[int]]]
    refused_token: int
    run_s: float

    def create_execution_context(self) -> "Context":
        """Makes a context."""
        return Context(self)

    def get_tensor_dtype(self, name: str) -> type:
        """Returns that of `logits`."""
        assert name == "logits"
        return np.float32


@dataclass
class Context:
    """A context: the profile, shapes and addresses that were set last."""

    engine: Engine
    profile: int = 0
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        """Takes another profile."""
        self.profile = index
        return stream != 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Takes a shape that the profile holds."""
        axes = {"input_ids": ("batch", "sequence"), "position_ids": ("batch", "sequence")}
        names = CACHE_AXES if name.startswith("past") else axes.get(name, ("batch",))
        self.shapes[name] = shape
        limits = self.engine.profiles[self.profile]
        pairs = zip(names, shape, strict=False)
        return all(limits[a][0] <= size <= limits[a][1] for a, size in pairs if a is not None)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Returns an output's shape."""
        batch, total = self.shapes["attention_mask"]
        return (batch, 1, len(WORDS)) if name == "logits" else (batch, HEADS, total, HEAD_SIZE)

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Takes an address."""
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """Runs the model, or refuses to."""
        ids_BT = self._view("input_ids", np.int64)
        RUNS.append((self.profile, *ids_BT.shape))
        time.sleep(self.engine.run_s)
        if stream == 0 or self.engine.refused_token in ids_BT:
            return False
        for part in ("key", "value"):
            past = self._view(f"past_key_values.0.{part}", np.float32)
            new = np.broadcast_to(ids_BT[:, None, :, None], (*past.shape[:2], ids_BT.shape[1], 4))
            present = self._view(f"present.0.{part}", np.float32)
            present[:] = np.concatenate([past, new], axis=2)
        mask_BL = self._view("attention_mask", np.int64)
        sums_B = (present[:, 0, :, 0] * mask_BL).sum(1).astype(int)
        self._view("logits", np.float32)[:, 0] = np.eye(len(WORDS))[sums_B % len(WORDS)]
        return True

    def _view(self, name: str, dtype: type) -> Any:
        shape = self.shapes[name] if name in self.shapes else self.get_tensor_shape(name)
        count, size = int(np.prod(shape)), np.dtype(dtype).itemsize
        bytes_ = (ctypes.c_byte * (count * size)).from_address(self.addresses[name])
        return np.frombuffer(bytes_, dtype, count).reshape(shape)
