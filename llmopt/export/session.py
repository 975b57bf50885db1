"""Exported models in onnxruntime, on the CPU."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from llmopt.artifacts.child_events import OUT_OF_MEMORY
from llmopt.artifacts.onnx_description import MODEL_NAME, OnnxDescription
from llmopt.artifacts.tensor_spec import BATCH
from llmopt.errors import InputError

Array = NDArray[Any]
LOG_FATAL = 4  # it raises its errors, and need not print them too
# Its codes and its own source's places, in front of what it says.
ERROR_CODES = re.compile(r".*\[ONNXRuntimeError\] : \d+ : \w+ : |\S+\.cc:\d+ \w+ ", re.DOTALL)
LOAD_ERRORS = (
    ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf, ort_errors.NoSuchFile, ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)  # fmt: skip


def open_session(
    folder: Path, description: OnnxDescription, threads: int | None = None
) -> ort.InferenceSession:
    """Loads an exported model.

    Args:
        folder: Holds `model.onnx`.
        description: Names the session options that it is to run with.
        threads: None leaves onnxruntime's choice.

    Raises:
        InputError: onnxruntime takes it not; its own words are in the message.
        MemoryError: There is not enough for it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = LOG_FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    for key, value in description.session_options.items():
        options.add_session_config_entry(key, value)
    path = folder / MODEL_NAME
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except LOAD_ERRORS as error:
        if OUT_OF_MEMORY.search(str(error)):
            raise MemoryError(str(error)) from None
        said = " ".join(ERROR_CODES.sub("", str(error)).split())
        raise InputError(
            f"onnxruntime does not load {path}: {said}",
            remedy="copy the folder again, or export the model anew",
        ) from None


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raises what onnxruntime says of memory that ran out in a run as a MemoryError."""
    try:
        yield
    except (ort_errors.Fail, ort_errors.RuntimeException) as error:
        if OUT_OF_MEMORY.search(str(error)):
            raise MemoryError(str(error)) from None
        raise


class OnnxDecoder:
    """A decoder with a key-value cache in onnxruntime: rows of tokens, padded on the left.

    Shapes: B = rows, T = new tokens, L = all tokens so far, V = vocabulary.
    """

    def __init__(self, session: ort.InferenceSession, description: OnnxDescription) -> None:
        self._session = session
        self._cache_specs = [s for s in description.inputs if s.name.startswith("past_key_values.")]
        self._outputs = [spec.name for spec in description.outputs]
        self._mask_BL: Array = np.empty((0, 0), np.int64)
        self._cache: list[Array] = []

    def start(self, num_rows: int) -> None:
        """Empties the cache, for this many rows."""
        self._mask_BL = np.empty((num_rows, 0), np.int64)
        self._cache = [
            np.empty(
                [num_rows if a.name == BATCH else max(a.size, 0) for a in spec.axes],
                np.dtype(spec.dtype),
            )
            for spec in self._cache_specs
        ]

    def forward(self, ids_BT: Array, mask_BT: Array) -> Array:
        """Runs new tokens after those so far; returns their logits, float32 [B, T, V].

        Args:
            ids_BT: int64.
            mask_BT: int64, 0 where a row is padded.
        """
        self._mask_BL = np.concatenate([self._mask_BL, mask_BT], axis=1)
        positions_BL = np.maximum(self._mask_BL.cumsum(1) - 1, 0)
        feeds: dict[str, Array] = {
            "input_ids": ids_BT,
            "attention_mask": self._mask_BL,
            "position_ids": positions_BL[:, -ids_BT.shape[1] :],
        }
        names = [spec.name for spec in self._cache_specs]
        feeds |= dict(zip(names, self._cache, strict=True))
        logits, *self._cache = self._session.run(self._outputs, feeds)
        return np.asarray(logits, np.float32)

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[list[int]]:
        """Decodes each prompt greedily, all rows together; returns the new tokens."""
        ids_BT, mask_BT = pad_left(prompts)
        self.start(len(prompts))
        chosen: list[Array] = []
        for _ in range(num_tokens):
            ids_BT = self.forward(ids_BT, mask_BT)[:, -1:].argmax(-1)
            mask_BT = np.ones_like(ids_BT)
            chosen.append(ids_BT)
        tokens: list[list[int]] = np.concatenate(chosen, axis=1).tolist()
        return tokens


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """Stacks rows of tokens, zeros on the left; returns ids and mask, int64 [B, T]."""
    longest = max(len(row) for row in rows)
    padding = [longest - len(row) for row in rows]
    ids_BT = np.array([[0] * n + list(row) for n, row in zip(padding, rows, strict=True)], np.int64)
    mask_BT = np.array([[0] * n + [1] * (longest - n) for n in padding], np.int64)
    return ids_BT, mask_BT


def run_named(session: ort.InferenceSession, feeds: Mapping[str, Array], output: str) -> Array:
    """Runs a model without cache; returns one output as float32."""
    return np.asarray(session.run([output], dict(feeds))[0], np.float32)
