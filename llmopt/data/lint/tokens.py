"""What a tokenizer makes of a set: lengths, and characters it has no tokens for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmopt.data.lint.finding import Finding, Place
from llmopt.data.lint.rows import Row
from llmopt.data.tokenization import DocumentTokenizer

BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
MAX_FALLBACK = 0.1  # of a set's tokens: beyond it a model hardly reads the language


@dataclass(frozen=True)
class TokenCounts:
    """One document in tokens.

    Attributes:
        total: All of them, BOS included.
        bytes: Those that are no whole character.
        unknown: Those that stand for what the tokenizer does not know.
    """

    total: int
    bytes: int
    unknown: int


class TokenCounter:
    """Counts the tokens of documents; remembers which of the vocabulary are bytes."""

    def __init__(self, tokenizer: DocumentTokenizer) -> None:
        self._tokenizer = tokenizer
        self._is_byte: dict[int, bool] = {}

    def count(self, row: Row) -> TokenCounts:
        """Counts one document's tokens."""
        ids = self._tokenizer.encode(row.document)
        unknown = self._tokenizer.unknown_id
        return TokenCounts(
            total=len(ids),
            bytes=sum(map(self.is_byte, ids)),
            unknown=0 if unknown is None else ids.count(unknown),
        )

    def is_byte(self, token: int) -> bool:
        """Tells whether a token is a byte, `<0x..>`, or not a sequence of whole characters."""
        if token not in self._is_byte:
            name = self._tokenizer.name_token(token)
            self._is_byte[token] = bool(
                BYTE_TOKEN.fullmatch(name) or "\ufffd" in self._tokenizer.decode([token])
            )
        return self._is_byte[token]


def measure_lengths(counts: Sequence[TokenCounts]) -> dict[str, int]:
    """Returns the least, median, 95th percentile, greatest and sum of the lengths, in tokens."""
    lengths = np.array([count.total for count in counts] or [0])
    median, p95 = np.percentile(lengths, [50, 95], method="inverted_cdf")
    return {
        "min": int(lengths.min()),
        "median": int(median),
        "p95": int(p95),
        "max": int(lengths.max()),
        "total": int(lengths.sum()),
    }


def report_tokens(rows: Sequence[Row], tokenizer: DocumentTokenizer) -> list[Finding]:
    """Reports lengths, the byte-fallback rate, and unknown tokens."""
    counter = TokenCounter(tokenizer)
    counts = [counter.count(row) for row in rows]
    lengths = measure_lengths(counts)
    described = ", ".join(f"{name} {value:,}" for name, value in lengths.items())
    return [
        Finding("tokens", "info", f"per document: {described}"),
        _report_fallback(rows, counts),
        _report_unknown(rows, counts),
    ]


def _report_fallback(rows: Sequence[Row], counts: Sequence[TokenCounts]) -> Finding:
    fallen = sum(count.bytes for count in counts)
    rate = fallen / max(sum(count.total for count in counts), 1)
    message = f"{rate:.1%} of the tokens are bytes, no whole characters"
    if rate <= MAX_FALLBACK:
        return Finding("byte-fallback", "info", message)
    places = tuple(
        Place(row.origin, f"{count.bytes / count.total:.0%} of {count.total:,} tokens")
        for row, count in zip(rows, counts, strict=True)
        if count.bytes > MAX_FALLBACK * count.total
    )
    return Finding("byte-fallback", "warning", f"{message} (over {MAX_FALLBACK:.0%})", places)


def _report_unknown(rows: Sequence[Row], counts: Sequence[TokenCounts]) -> Finding:
    places = tuple(
        Place(row.origin, f"{count.unknown:,} of {count.total:,} tokens")
        for row, count in zip(rows, counts, strict=True)
        if count.unknown
    )
    if not places:
        return Finding("unknown-tokens", "info", "none")
    unknown = sum(count.unknown for count in counts)
    message = f"{unknown:,} characters or words are unknown to the tokenizer"
    return Finding("unknown-tokens", "warning", message, places)
