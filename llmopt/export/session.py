"""Exported decoders in onnxruntime: rows of tokens, padded on the left."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.tensor_spec import BATCH

Array = NDArray[Any]


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
