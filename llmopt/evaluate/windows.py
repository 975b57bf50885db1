"""The strided windows in which a document is scored (docs/evaluation.md states the protocol).

A document of n tokens, its first one BOS where the tokenizer uses one, is scored on all but
its first token, each exactly once. It is cut into windows of `max_length` tokens that begin
`stride` tokens apart; a window scores the tokens that no earlier window did. So every token
has all of the document before it as context, or at least max_length - stride tokens of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """One window of a document.

    Attributes:
        document: Index of the document.
        ids: The tokens that the model sees.
        num_scored: How many of the last tokens are scored.
    """

    document: int
    ids: tuple[int, ...]
    num_scored: int


def cut_windows(
    document: int, ids: Sequence[int], max_length: int, stride: int
) -> Iterator[Window]:
    """Yields a document's windows.

    Raises:
        ValueError: The stride is not within 1..max_length-1, so a token would lack its context.
    """
    if not 1 <= stride < max_length:
        raise ValueError(
            f"stride is {stride}; it must be 1 or more and below max_length {max_length}"
        )
    scored_to = 1  # the first token has nothing before it
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        if end > scored_to:
            yield Window(document, tuple(ids[begin:end]), end - scored_to)
            scored_to = end
        if end == len(ids):
            return


def batch_windows(windows: Sequence[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Groups windows of similar length, at most `batch_tokens` tokens with padding."""
    batch: list[Window] = []
    for window in sorted(windows, key=lambda w: len(w.ids)):
        if batch and (len(batch) + 1) * len(window.ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
