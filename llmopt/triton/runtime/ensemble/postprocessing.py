"""What an engine's output is turned into.

Shapes: B = rows, T = tokens, H = hidden size, V = vocabulary, K = tokens that are returned.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SMALLEST_NORM = 1e-12


def rank_tokens(logits_BV: Array, num_tokens: int) -> tuple[Array, Array]:
    """Finds the likeliest tokens.

    Returns:
        Tokens, int64 [B, K], the likeliest first, the lower number first among equals; and their
        natural log-probabilities, float32 [B, K].
    """
    logits_BV = logits_BV.astype(np.float32)
    logits_BV -= logits_BV.max(1, keepdims=True)
    ids_BK = np.stack([_rank_row(row_V, num_tokens) for row_V in -logits_BV])
    log_sums_B1 = np.log(np.exp(logits_BV).sum(1, keepdims=True))
    logprobs_BK = np.take_along_axis(logits_BV, ids_BK, 1) - log_sums_B1
    return ids_BK.astype(np.int64), logprobs_BK.astype(np.float32)


def _rank_row(costs_V: Array, num_tokens: int) -> Array:
    """Returns the numbers of the smallest costs, [K]; equals in the order of their numbers."""
    last = np.partition(costs_V, num_tokens - 1)[num_tokens - 1]
    # As a negation it keeps NaN, so that there are always enough.
    candidates = np.flatnonzero(~(costs_V > last))
    ranked: Array = candidates[np.argsort(costs_V[candidates], kind="stable")[:num_tokens]]
    return ranked


def pool_mean(hidden_BTH: Array, mask_BT: Array) -> Array:
    """Returns the mean of each row's real positions at length 1, float32 [B, H]."""
    weights_BT1 = mask_BT[:, :, None].astype(np.float32)
    sums_BH = (hidden_BTH.astype(np.float32) * weights_BT1).sum(1)
    means_BH = sums_BH / weights_BT1.sum(1)
    norms_B1 = np.linalg.norm(means_BH, axis=1, keepdims=True)
    pooled_BH: Array = means_BH / np.maximum(norms_B1, SMALLEST_NORM)
    return pooled_BH.astype(np.float32)
