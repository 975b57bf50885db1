"""Texts of a request as rows of tokens, padded to a bucket.

Requests are batched where their shapes are equal, so lengths come from a small grid.

Shapes: B = rows, T = the bucket's tokens.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class RequestError(Exception):
    """A request can't be answered; the message goes to its sender."""


def read_texts(raw_B: Sequence[bytes], max_bytes: int) -> list[str]:
    """Decodes the texts of a request.

    Raises:
        RequestError: One is no UTF-8, or longer than any bucket could hold.
    """
    texts = []
    for row, raw in enumerate(raw_B):
        if len(raw) > max_bytes:
            raise RequestError(f"text_input has {len(raw)} bytes in row {row}; at most {max_bytes}")
        try:
            texts.append(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise RequestError(
                f"text_input is no UTF-8 in row {row}: byte 0x{raw[error.start]:02x} at "
                f"{error.start}"
            ) from None
    return texts


def choose_bucket(rows: Sequence[Sequence[int]], buckets: Sequence[int]) -> int:
    """Returns the smallest bucket that holds every row.

    Raises:
        RequestError: A row has no tokens, or more than the largest bucket.
    """
    for row, ids in enumerate(rows):
        if not ids:
            raise RequestError(f"text_input has no tokens in row {row}")
        if len(ids) > buckets[-1]:
            raise RequestError(
                f"text_input has {len(ids)} tokens in row {row}, special ones included; at most "
                f"{buckets[-1]}"
            )
    longest = max(map(len, rows))
    return next(bucket for bucket in buckets if bucket >= longest)


def pad_rows(
    rows: Sequence[Sequence[int]], length: int, pad_id: int, *, is_left: bool
) -> tuple[Array, Array]:
    """Stacks rows of tokens.

    Args:
        rows: None longer than `length`.
        length: Of the padded rows.
        pad_id: What stands in the padding; the mask hides it.
        is_left: Whether the padding goes before a row, so that the last column is its last token.

    Returns:
        Tokens and mask, int64 [B, T].
    """
    ids_BT = np.full((len(rows), length), pad_id, np.int64)
    mask_BT = np.zeros_like(ids_BT)
    for row, ids in enumerate(rows):
        place = slice(length - len(ids), None) if is_left else slice(len(ids))
        ids_BT[row, place] = ids
        mask_BT[row, place] = 1
    return ids_BT, mask_BT


def find_masks(ids_BT: Array, mask_id: int, mask_text: str) -> Array:
    """Returns the position of the first mask in each row, int64 [B, 1].

    Raises:
        RequestError: A row holds none.
    """
    is_mask_BT = ids_BT == mask_id
    without = np.flatnonzero(~is_mask_BT.any(1))
    if len(without):
        raise RequestError(f"text_input holds no {mask_text} in row {without[0]}")
    positions_B1: Array = is_mask_BT.argmax(1)[:, None]
    return positions_B1
