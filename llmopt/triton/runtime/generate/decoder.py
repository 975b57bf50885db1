"""What the scheduler needs of a decoder with a key-value cache, whatever runs it.

Shapes: B = rows, T = new tokens, L = tokens of the cache, H = heads of keys and values, D = size of
a head, V = vocabulary. Rows are padded on the left.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Cache = list[Any]  # one handle for each tensor of the cache, wherever its bytes lie


class Decoder(Protocol):
    """A decoder."""

    def attach(self) -> None:
        """Is called once, in the thread that will make all the other calls."""

    def empty_cache(self, num_rows: int) -> Cache:
        """Returns the cache before the first token."""

    def forward(
        self, ids_BT: Array, mask_BL: Array, positions_BT: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        """Runs new tokens; frees the old cache, where it raises too.

        Args:
            ids_BT: int64.
            mask_BL: int64 over the cache's tokens and the new ones, 0 where a row is padded.
            positions_BT: int64.
            cache: Of earlier tokens.

        Returns:
            The logits of the last position, float32 [B, V], and the cache with the new tokens.
        """

    def read_cache(self, cache: Cache) -> list[Array]:
        """Returns the tensors of a cache as arrays [B, H, L, D], and frees it."""

    def write_cache(self, arrays: Sequence[Array]) -> Cache:
        """Returns the cache that holds such arrays."""

    def free_cache(self, cache: Cache) -> None:
        """Frees a cache that nobody needs; one that is freed already stays so. Raises nothing."""


def warm_up(decoder: Decoder, num_tokens: int) -> None:
    """Runs a prompt of so many tokens and one token after it."""
    ids_BT = np.ones((1, num_tokens), np.int64)
    positions_BT = np.arange(num_tokens)[None]
    cache = decoder.empty_cache(1)
    _, cache = decoder.forward(ids_BT, np.ones_like(ids_BT), positions_BT, cache)
    mask_BL = np.ones((1, num_tokens + 1), np.int64)
    _, cache = decoder.forward(ids_BT[:, :1], mask_BL, np.array([[num_tokens]]), cache)
    decoder.free_cache(cache)


def gather_rows(parts: Sequence[tuple[Sequence[Array], Sequence[int]]], length: int) -> list[Array]:
    """Makes one cache of rows of several, in one pass over their bytes.

    Args:
        parts: Tensors of a cache [B, H, L, D], and which of its rows.
        length: Tokens of the result: of longer rows the last, before shorter ones zeros.
    """
    num_tensors = len(parts[0][0])
    return [
        _align_right([arrays[index][row] for arrays, rows in parts for row in rows], length)
        for index in range(num_tensors)
    ]


def _align_right(rows_HLD: Sequence[Array], length: int) -> Array:
    """Stacks rows [H, L, D] of any lengths."""
    heads, _, size = rows_HLD[0].shape
    stacked = np.empty((len(rows_HLD), heads, length, size), rows_HLD[0].dtype)
    for target, row in zip(stacked, rows_HLD, strict=True):
        kept = min(length, row.shape[1])
        target[:, : length - kept] = 0
        target[:, length - kept :] = row[:, row.shape[1] - kept :]
    return stacked
