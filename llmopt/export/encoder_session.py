"""Exported encoders in onnxruntime: rows of tokens, padded on the right."""

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.errors import InputError
from llmopt.export.session import Array, run_named


class OnnxEncoder:
    """An encoder in onnxruntime.

    Shapes: B = rows, T = tokens with padding, W = vocabulary or hidden size.
    """

    def __init__(self, session: ort.InferenceSession, description: OnnxDescription) -> None:
        self._session = session
        self._output = description.outputs[0].name
        self._max_tokens = description.max_position_embeddings

    def forward(
        self,
        ids_BT: Array,
        mask_BT: Array,
        types_BT: Array | None = None,
        masked_positions_B: Array | None = None,
    ) -> Array:
        """Returns logits or the last hidden state, float32 [B, T, W]; padding gives no result.

        With masked positions, the logits of these alone, float32 [B, W].

        Args:
            ids_BT: int64.
            mask_BT: int64, 0 where a row is padded.
            types_BT: int64, each token's segment; None is all of the first one.
            masked_positions_B: int64, for exports that take them.

        Raises:
            InputError: There are more tokens than the model has positions.
        """
        if ids_BT.shape[1] > self._max_tokens:
            raise InputError(
                f"rows of {ids_BT.shape[1]} tokens, the model has positions for "
                f"{self._max_tokens} (max_position_embeddings)",
                remedy=f"cut rows to {self._max_tokens} tokens, special tokens included",
            )
        feeds = {
            "input_ids": ids_BT,
            "attention_mask": mask_BT,
            "token_type_ids": np.zeros_like(ids_BT) if types_BT is None else types_BT,
        }
        if masked_positions_B is not None:
            feeds["masked_positions"] = masked_positions_B
        return run_named(self._session, feeds, self._output)


def mask_right(lengths: Sequence[int]) -> Array:
    """Returns the mask of rows that are padded on the right, int64 [B, T]."""
    return (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
