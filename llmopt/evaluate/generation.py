"""Greedy decoding with a key-value cache: at every step the most probable token.

Shapes: B = batch, T = tokens, V = vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmopt.artifacts.progress import Progress
from llmopt.errors import NumericalError


@dataclass(frozen=True)
class DecodeLimits:
    """Where decoding ends.

    Attributes:
        stop_ids: Tokens that end an answer; they are no part of it.
        max_new_tokens: The longest answer.
        batch_size: Prompts decoded together, padded on the left to one length.
    """

    stop_ids: Collection[int]
    max_new_tokens: int
    batch_size: int


def decode_greedily(
    model: Any, prompts: Sequence[Sequence[int]], limits: DecodeLimits, progress: Progress
) -> list[list[int]]:
    """Continues every prompt; the same call on the same machine gives the same tokens.

    Args:
        model: A causal model of transformers.
        prompts: Token ids, at least one each.
        limits: Where to end.
        progress: Hears of every batch.

    Returns:
        The answer of each prompt, without the token that ended it.

    Raises:
        NumericalError: The model's output is NaN or infinite.
    """
    answers: dict[int, list[int]] = {}
    batches = list(_batch_by_length(prompts, limits.batch_size))
    progress.start("decoding batches", len(batches))
    with torch.inference_mode():
        for batch in batches:
            decoded = _decode_batch(model, [prompts[index] for index in batch], limits)
            answers |= zip(batch, decoded, strict=True)
            progress.advance()
    return [answers[index] for index in range(len(prompts))]


def _batch_by_length(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yields indices of prompts of similar length."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _decode_batch(
    model: Any, prompts: Sequence[Sequence[int]], limits: DecodeLimits
) -> list[list[int]]:
    ids_BT, mask_BT = _pad_left(prompts, model.device)
    positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
    answers: list[list[int]] = [[] for _ in prompts]
    unfinished = set(range(len(prompts)))
    cache = None
    for _ in range(limits.max_new_tokens):
        output = model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        next_B = _choose_tokens(output.logits[:, -1])
        for row, token in enumerate(next_B.tolist()):
            if token in limits.stop_ids:
                unfinished.discard(row)
            elif row in unfinished:
                answers[row].append(token)
        if not unfinished:
            break
        ids_BT = next_B[:, None]
        mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=-1)
        positions_BT = positions_BT[:, -1:] + 1
    return answers


def _choose_tokens(logits_BV: Tensor) -> Tensor:
    if not bool(torch.isfinite(logits_BV).all()):
        raise NumericalError("the model's logits hold NaN or infinity")
    return logits_BV.float().argmax(-1)


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Stacks prompts, zeros in front, with a mask that is 1 where a token stands, both [B, T]."""
    length = max(len(ids) for ids in prompts)
    pads = [length - len(ids) for ids in prompts]
    ids_BT = [[0] * pad + list(ids) for pad, ids in zip(pads, prompts, strict=True)]
    mask_BT = [[0] * pad + [1] * (length - pad) for pad in pads]
    return torch.tensor(ids_BT, device=device), torch.tensor(mask_BT, device=device)
