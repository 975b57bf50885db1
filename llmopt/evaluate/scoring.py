"""Scores documents under one model, or under a candidate and its baseline in one pass.

Blocks are streamed: at any moment one block of each model is in memory, and the residual
streams of all windows. Everything is computed in float32.

Shapes: B = windows in a batch, T = tokens, D = hidden size, S = scored tokens, V = vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmopt.artifacts.progress import Progress
from llmopt.checkpoint.decoder_block import DecoderBlock
from llmopt.checkpoint.streamed_model import OutputHead, StreamedModel
from llmopt.errors import NumericalError
from llmopt.evaluate.windows import Window, batch_windows

BATCH_TOKENS = 4096
HEAD_ROWS = 1024  # rows of logits held at once, [HEAD_ROWS, V] float32 per model


@dataclass(frozen=True)
class TokenScores:
    """Per-token scores, all arrays of one length, tokens of a window together.

    Attributes:
        document: Index of the token's document.
        nll: Negative log-likelihood under the candidate, in nats.
        baseline_nll: The same under the baseline; None without one.
        kl: KL(baseline || candidate) of the next-token distributions, in nats.
        agrees: Whether both models' most probable token is the same.
    """

    document: NDArray[np.int64]
    nll: NDArray[np.float64]
    baseline_nll: NDArray[np.float64] | None = None
    kl: NDArray[np.float64] | None = None
    agrees: NDArray[np.bool_] | None = None


def score_windows(
    windows: Sequence[Window],
    candidate: StreamedModel,
    baseline: StreamedModel | None,
    progress: Progress,
) -> TokenScores:
    """Scores every window.

    Raises:
        NumericalError: A model's output is NaN or infinite.
    """
    models = [candidate] if baseline is None else [candidate, baseline]
    batches = list(batch_windows(windows, BATCH_TOKENS))
    progress.start("scoring blocks", sum(model.num_blocks for model in models))
    with torch.inference_mode():
        streams = [_run_blocks(model, batches, progress) for model in models]
        heads = [model.read_head() for model in models]
        parts = [
            _score_batch(batch, [stream[index] for stream in streams], heads)
            for index, batch in enumerate(batches)
        ]
    return _concatenate(parts)


def _run_blocks(
    model: StreamedModel, batches: Sequence[list[Window]], progress: Progress
) -> list[Tensor]:
    """Returns the residual stream after the last block, one [B, T, D] per batch."""
    hidden = list(model.embed(_pad(batch) for batch in batches))
    for index in range(model.num_blocks):
        block = DecoderBlock(model, index, max(stream.shape[1] for stream in hidden))
        for number, stream in enumerate(hidden):
            hidden[number] = block.forward(stream)
        progress.advance()
    return hidden


def _pad(batch: Sequence[Window]) -> Tensor:
    """Stacks ids [B, T], zeros on the right; causal attention keeps them from mattering."""
    length = max(len(window.ids) for window in batch)
    return torch.tensor([[*w.ids, *[0] * (length - len(w.ids))] for w in batch])


def _score_batch(
    batch: Sequence[Window], hidden: Sequence[Tensor], heads: Sequence[OutputHead]
) -> TokenScores:
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for row, window in enumerate(batch):
        first = len(window.ids) - window.num_scored
        rows += [row] * window.num_scored
        columns += range(first - 1, len(window.ids) - 1)
        targets += window.ids[first:]
    document = np.array([batch[row].document for row in rows], dtype=np.int64)
    parts = []
    for start in range(0, len(rows), HEAD_ROWS):
        cut = slice(start, start + HEAD_ROWS)
        log_probs = [
            _log_probs(head(stream[rows[cut], columns[cut]]))
            for head, stream in zip(heads, hidden, strict=True)
        ]
        parts.append(_compare(document[cut], torch.tensor(targets[cut]), log_probs))
    return _concatenate(parts)


def _log_probs(logits_SV: Tensor) -> Tensor:
    if not bool(torch.isfinite(logits_SV).all()):
        raise NumericalError("the model's logits hold NaN or infinity")
    return torch.log_softmax(logits_SV.float(), dim=-1)


def _compare(
    document: NDArray[np.int64], targets_S: Tensor, log_probs_SV: Sequence[Tensor]
) -> TokenScores:
    index_S1 = targets_S.to(log_probs_SV[0].device)[:, None]
    nlls = [_to_numpy(-log_probs.gather(1, index_S1)[:, 0]) for log_probs in log_probs_SV]
    if len(log_probs_SV) == 1:
        return TokenScores(document, nlls[0])
    candidate_SV, baseline_SV = log_probs_SV
    kl_S = (baseline_SV.exp() * (baseline_SV - candidate_SV)).sum(-1)
    agrees_S = candidate_SV.argmax(-1) == baseline_SV.argmax(-1)
    return TokenScores(document, nlls[0], nlls[1], _to_numpy(kl_S), agrees_S.cpu().numpy())


def _to_numpy(values: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.double().cpu().numpy()
    return array


def _concatenate(parts: Sequence[TokenScores]) -> TokenScores:
    document = np.concatenate([part.document for part in parts])
    nll = np.concatenate([part.nll for part in parts])
    if parts[0].kl is None:
        return TokenScores(document, nll)
    return TokenScores(
        document,
        nll,
        np.concatenate([part.baseline_nll for part in parts if part.baseline_nll is not None]),
        np.concatenate([part.kl for part in parts if part.kl is not None]),
        np.concatenate([part.agrees for part in parts if part.agrees is not None]),
    )
