"""Attention as a graph computes it best: keys and values are read where the cache holds them.

transformers repeats each key-value head for the query heads that share it; in a graph that is a
copy of the whole cache in every step. Here those query heads are stacked as rows of one product.

Shapes: B = batch, H = query heads, K = key-value heads, G = H / K, T = new tokens, L = all tokens,
D = size of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

GROUPED = "llmopt_grouped"


def register_grouped_attention() -> str:
    """Makes the attention known to transformers; returns its name there."""
    AttentionInterface.register(GROUPED, _attend)
    AttentionMaskInterface.register(GROUPED, _make_mask)
    return GROUPED


def _attend(
    _module: nn.Module,
    query_BHTD: Tensor,
    key_BKLD: Tensor,
    value_BKLD: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_options: Any,
) -> tuple[Tensor, None]:
    """Returns [B, T, H, D], and no attention weights; see transformers' AttentionInterface."""
    batch, heads, tokens, size = query_BHTD.shape
    kv_heads = key_BKLD.shape[1]
    rows_BKRD = (query_BHTD * scaling).reshape(batch, kv_heads, -1, size)
    scores_BKRL = rows_BKRD @ key_BKLD.transpose(2, 3)
    scores_BKGTL = scores_BKRL.reshape(batch, kv_heads, heads // kv_heads, tokens, -1)
    weights_BKGTL = (scores_BKGTL + attention_mask[:, :, None]).softmax(-1)
    mixed_BKRD = weights_BKGTL.reshape(scores_BKRL.shape) @ value_BKLD
    return mixed_BKRD.reshape(batch, heads, tokens, -1).transpose(1, 2), None


def _make_mask(*, dtype: torch.dtype, **options: Any) -> Tensor:
    """Returns what is added to scores, [B, 1, T, L]: 0, or half the dtype's least where hidden.

    Half, so that a negative score does not make it -inf: a row that sees nothing stays finite.
    """
    options["allow_is_causal_skip"] = False
    seen_B1TL = sdpa_mask(**options)
    hidden = torch.tensor(torch.finfo(dtype).min / 2, dtype=dtype)
    return torch.where(seen_B1TL, torch.zeros((), dtype=dtype), hidden)
