"""Holds an exported encoder in onnxruntime against transformers.

The reference takes one row at a time, unpadded, in float32. The export takes rows of several
lengths together, padded on the right with random tokens, which its mask must hide, and one row as
long as the model allows.

Shapes: B = rows, T = tokens of a row, W = vocabulary or hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue

from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.checkpoint.encoder_config import EncoderConfig
from llmopt.errors import NumericalError
from llmopt.export.encoder_session import OnnxEncoder, mask_right
from llmopt.export.session import Array

ROW_LENGTHS = (37, 26, 11, 1)  # none of them traced, three of them padded
POSITIONS_PER_ROW = 4  # of exports that take masked_positions; each is a pass of its own
LONGEST_ROW = 512  # of models with more positions: attention's memory grows with the square
SEED = 20


@dataclass(frozen=True)
class EncoderParity:
    """How near an exported encoder is to transformers.

    Cosines are those of the angle between both outputs of one position; logits are centred
    first, since a softmax does not see what they have in common.

    Attributes:
        output: `logits` or `last_hidden_state`.
        max_abs_error: Largest difference of a value.
        relative_error: That over the largest magnitude.
        cosine_distance: 1 - cosine, mean over the positions.
        largest_cosine_distance: The same of the worst position.
        top1_agreement: Share of positions with the same largest logit; None without logits.
        num_positions: How many were compared.
    """

    output: str
    max_abs_error: float
    relative_error: float
    cosine_distance: float
    largest_cosine_distance: float
    top1_agreement: float | None
    num_positions: int

    def require(self, tolerance: float) -> None:
        """Refuses an export that is further from transformers than it may be.

        Raises:
            NumericalError: It is, or holds NaN.
        """
        if not self.relative_error <= tolerance:
            raise NumericalError(
                f"the exported encoder differs from PyTorch: error {self.relative_error:.3g} of "
                f"the largest value of {self.output}, allowed {tolerance:.3g} "
                f"(absolute {self.max_abs_error:.3g}, {self.num_positions} positions)",
                remedy="export with dtype: float32, or allow more with tolerance",
            )

    def require_cosine(self, tolerance: float) -> None:
        """Refuses an export in integers that turned too far away.

        Rounding to 8 bits is noise: its largest value grows with how many are compared, and says
        nothing of a single position. What rankings and similarities go by is the angle.

        Raises:
            NumericalError: The mean cosine distance is above the tolerance, or NaN.
        """
        if not self.cosine_distance <= tolerance:
            raise NumericalError(
                f"the int8 encoder differs from PyTorch: mean cosine distance "
                f"{self.cosine_distance:.3g} of {self.output}, allowed {tolerance:.3g} (worst "
                f"{self.largest_cosine_distance:.3g} of {self.num_positions} positions)",
                remedy="export with weights: plain, or allow more with tolerance",
            )

    def metrics(self) -> dict[str, JsonValue]:
        """Returns the figures for a manifest."""
        figures: dict[str, JsonValue] = {
            "max_abs_error": self.max_abs_error,
            "relative_error": self.relative_error,
            "cosine_distance": self.cosine_distance,
            "largest_cosine_distance": self.largest_cosine_distance,
            "compared_positions": self.num_positions,
        }
        if self.top1_agreement is not None:
            figures["top1_agreement"] = self.top1_agreement
        return figures


def check_encoder(
    encoder: OnnxEncoder, description: OnnxDescription, config: EncoderConfig, reference: Any
) -> EncoderParity:
    """Compares an exported encoder with transformers on random tokens of random segments.

    Args:
        encoder: The export.
        description: Of the export.
        config: Of the checkpoint.
        reference: The model of transformers, in float32.
    """
    compared = _Compared()
    for batch in _draw_batches(config):
        positions_BN = _draw_positions(batch) if description.masked_positions else None
        if positions_BN is None:
            output_BTW = encoder.forward(batch.ids_BT, batch.mask_BT, batch.types_BT)
        else:
            output_BTW = _run_at(encoder, batch, positions_BN)
        for row, length in enumerate(batch.mask_BT.sum(1).tolist()):
            expected_TW = _run_alone(
                reference, batch.ids_BT[row, :length], batch.types_BT[row, :length]
            )
            if positions_BN is not None:
                expected_TW = expected_TW[positions_BN[row]]
            ours_TW = output_BTW[row, : len(expected_TW)]
            compared.add(ours_TW, expected_TW, description.outputs[0].name)
    return compared.summarise(description.outputs[0].name)


@dataclass(frozen=True)
class _Batch:
    """Rows of one request, int64."""

    ids_BT: Array
    mask_BT: Array
    types_BT: Array


def _draw_batches(config: EncoderConfig) -> Iterator[_Batch]:
    generator = np.random.default_rng(SEED)
    longest = min(config.max_position_embeddings, LONGEST_ROW)
    for lengths in ([min(length, longest) for length in ROW_LENGTHS], [longest]):
        shape = (len(lengths), max(lengths))
        yield _Batch(
            ids_BT=generator.integers(0, config.vocab_size, shape),
            mask_BT=mask_right(lengths),
            types_BT=generator.integers(0, config.type_vocab_size, shape),
        )


def _draw_positions(batch: _Batch) -> Array:
    """Returns positions inside each row, int64 [B, N], its last one among them."""
    lengths_B1 = batch.mask_BT.sum(1, keepdims=True)
    shape = (len(lengths_B1), POSITIONS_PER_ROW - 1)
    drawn_BN = np.random.default_rng(SEED).integers(0, lengths_B1, shape)
    return np.concatenate([lengths_B1 - 1, drawn_BN], axis=1)


def _run_at(encoder: OnnxEncoder, batch: _Batch, positions_BN: Array) -> Array:
    """Returns the logits of these positions, float32 [B, N, W]; one pass for each column."""
    passes = [
        encoder.forward(batch.ids_BT, batch.mask_BT, batch.types_BT, positions_B)
        for positions_B in positions_BN.T
    ]
    return np.stack(passes, axis=1)


def _run_alone(reference: Any, ids_T: Array, types_T: Array) -> Array:
    """Returns the first output of transformers for one row, float32 [T, W]."""
    with torch.inference_mode():
        output_1TW: torch.Tensor = reference(
            input_ids=torch.from_numpy(ids_T)[None], token_type_ids=torch.from_numpy(types_T)[None]
        )[0]
    return output_1TW[0].numpy()


class _Compared:
    """Gathers what rows differ by, so that one row's logits are held at a time."""

    def __init__(self) -> None:
        self._max_errors: list[Array] = []
        self._max_values: list[Array] = []
        self._distances: list[Array] = []
        self._agrees: list[Array] = []

    def add(self, ours_TW: Array, expected_TW: Array, output: str) -> None:
        """Compares one row."""
        self._max_errors.append(np.abs(ours_TW - expected_TW).max(-1))
        self._max_values.append(np.abs(expected_TW).max(-1))
        self._agrees.append(ours_TW.argmax(-1) == expected_TW.argmax(-1))
        if output == "logits":
            ours_TW = ours_TW - ours_TW.mean(-1, keepdims=True)
            expected_TW = expected_TW - expected_TW.mean(-1, keepdims=True)
        self._distances.append(_cosine_distances(ours_TW, expected_TW))

    def summarise(self, output: str) -> EncoderParity:
        """Returns what all rows differ by; NaN stays NaN."""
        error = float(np.concatenate(self._max_errors).max())
        distances = np.concatenate(self._distances)
        agrees = np.concatenate(self._agrees)
        return EncoderParity(
            output=output,
            max_abs_error=error,
            relative_error=error / float(np.concatenate(self._max_values).max()),
            cosine_distance=float(distances.mean()),
            largest_cosine_distance=float(distances.max()),
            top1_agreement=float(agrees.mean()) if output == "logits" else None,
            num_positions=len(distances),
        )


def _cosine_distances(a_TW: Array, b_TW: Array) -> Array:
    norms_T = np.linalg.norm(a_TW, axis=-1) * np.linalg.norm(b_TW, axis=-1)
    distances_T: Array = np.maximum(0, 1 - (a_TW * b_TW).sum(-1) / norms_T)
    return distances_T
