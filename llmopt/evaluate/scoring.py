"""Scores documents under one model, or under candidates and their baseline in one pass.

Blocks are streamed: all models walk in step, and at any moment one block of one of them is in
memory. The residual streams between blocks lie in an activation store, which spills to disk
beyond its budget. Everything is computed in float32.

Shapes: B = windows in a batch, T = tokens, D = hidden size, S = scored tokens, V = vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmopt.artifacts.progress import Progress
from llmopt.checkpoint.activation_store import ActivationStore
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

    def select(self, chosen: NDArray[np.bool_]) -> "TokenScores":
        """Returns the scores of the chosen tokens."""
        return TokenScores(
            self.document[chosen],
            self.nll[chosen],
            None if self.baseline_nll is None else self.baseline_nll[chosen],
            None if self.kl is None else self.kl[chosen],
            None if self.agrees is None else self.agrees[chosen],
        )


def score_windows(
    windows: Sequence[Window],
    candidates: Sequence[StreamedModel],
    baseline: StreamedModel | None,
    streams: ActivationStore,
    progress: Progress,
) -> list[TokenScores]:
    """Scores every window under each candidate; the baseline is run once for all of them.

    One embedding table or one block is in memory at a time, at the end two output heads: the
    baseline's and one candidate's.

    Args:
        windows: What to score.
        candidates: The models to score.
        baseline: The model that they should equal.
        streams: Keeps the residual streams, tokens × D × 4 bytes per model; empty afterwards.
        progress: Hears of every block of every model.

    Returns:
        One per candidate, tokens in the same order in all of them.

    Raises:
        NumericalError: A model's output is NaN or infinite.
    """
    models = [*candidates, *([] if baseline is None else [baseline])]
    batches = list(batch_windows(windows, BATCH_TOKENS))
    progress.start("scoring blocks", sum(model.num_blocks for model in models))
    with torch.inference_mode():
        for number, model in enumerate(models):
            for index, hidden_BTD in enumerate(model.embed(_pad(batch) for batch in batches)):
                streams.put(_key(number, index), hidden_BTD)
        longest = max(len(window.ids) for window in windows)
        for index in range(max(model.num_blocks for model in models)):
            for number, model in enumerate(models):
                if index < model.num_blocks:
                    keys = [_key(number, batch) for batch in range(len(batches))]
                    _run_block(DecoderBlock(model, index, longest), keys, streams)
                    progress.advance()
        return _score_candidates(batches, candidates, baseline, streams)


def _key(model: int, batch: int) -> str:
    return f"hidden-{model}-{batch}"


def _pad(batch: Sequence[Window]) -> Tensor:
    """Stacks ids [B, T], zeros on the right; causal attention keeps them from mattering."""
    length = max(len(window.ids) for window in batch)
    return torch.tensor([[*w.ids, *[0] * (length - len(w.ids))] for w in batch])


def _run_block(block: DecoderBlock, keys: Sequence[str], streams: ActivationStore) -> None:
    for key in keys:
        streams.put(key, block.forward(streams.take(key)))


def _score_candidates(
    batches: Sequence[list[Window]],
    candidates: Sequence[StreamedModel],
    baseline: StreamedModel | None,
    streams: ActivationStore,
) -> list[TokenScores]:
    baseline_head = None if baseline is None else baseline.read_head()
    found = []
    for number, candidate in enumerate(candidates):
        head = candidate.read_head()
        parts = []
        for index, batch in enumerate(batches):
            pairs = [(head, streams.take(_key(number, index)))]
            if baseline_head is not None:
                pairs.append((baseline_head, streams.get(_key(len(candidates), index))))
            parts.append(_score_batch(batch, pairs))
        found.append(_concatenate(parts))
    for index in range(len(batches)):
        streams.drop(_key(len(candidates), index))
    return found


def _score_batch(
    batch: Sequence[Window], pairs: Sequence[tuple[OutputHead, Tensor]]
) -> TokenScores:
    """Scores one batch by each model's head and final stream, the candidate's first."""
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
        log_probs = [_log_probs(head(hidden[rows[cut], columns[cut]])) for head, hidden in pairs]
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
