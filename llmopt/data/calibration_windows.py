"""Cuts documents into the exact samples x seq_len token windows that calibration wants.

Shapes: N = windows, T = tokens per window.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmopt.data.dataset_spec import DatasetSpec
from llmopt.data.documents import Document, order_documents
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import InputError


@dataclass(frozen=True)
class CalibrationWindows:
    """Token windows of equal length.

    Attributes:
        ids_NT: int64 [N, T].
        lengths_N: int64 [N]; how many tokens of each window are real, the rest is padding.
    """

    ids_NT: NDArray[np.int64]
    lengths_N: NDArray[np.int64]

    @property
    def num_tokens(self) -> int:
        """The number of real tokens."""
        return int(self.lengths_N.sum())


def build_windows(
    documents: Sequence[Document], tokenizer: DocumentTokenizer, spec: DatasetSpec
) -> CalibrationWindows:
    """Builds exactly `samples` windows of `seq_len` tokens, in the seed's order.

    `concat` joins documents (each begins with BOS where the tokenizer uses one, else ends
    with EOS) and cuts the stream; `truncate` takes the head of each document that is long
    enough; `pad` takes each document's head and fills it up.

    Raises:
        InputError: The documents do not give that many windows; the numbers are named.
    """
    samples, seq_len = spec.num_windows, spec.window_tokens
    ordered = order_documents(documents, spec.seed)
    encoded = (tokenizer.encode(document, spec.template) for document in ordered)
    if spec.pack == "concat":
        return _concatenate((_end_document(ids, tokenizer) for ids in encoded), samples, seq_len)
    return _take_heads(encoded, samples, seq_len, pad=spec.pack == "pad")


def _end_document(ids: list[int], tokenizer: DocumentTokenizer) -> list[int]:
    if tokenizer.adds_bos or tokenizer.eos_id is None or ids[-1:] == [tokenizer.eos_id]:
        return ids
    return [*ids, tokenizer.eos_id]


def _concatenate(encoded: Iterable[list[int]], samples: int, seq_len: int) -> CalibrationWindows:
    stream: list[int] = []
    num_documents = 0
    for ids in encoded:
        stream += ids
        num_documents += 1
        if len(stream) >= samples * seq_len:
            break  # what is not needed is not tokenised
    available = len(stream)
    if available < samples * seq_len:
        raise InputError(
            f"calibration wants {samples} samples x {seq_len} tokens = {samples * seq_len} tokens; "
            f"the {num_documents} documents give {available}",
            remedy=f"use samples: {available // seq_len} or fewer, a smaller seq_len, or more data"
            if available >= seq_len
            else "give more data or a smaller seq_len",
        )
    ids_NT = np.array(stream[: samples * seq_len], dtype=np.int64).reshape(samples, seq_len)
    return CalibrationWindows(ids_NT, np.full(samples, seq_len, dtype=np.int64))


def _take_heads(
    encoded: Iterable[list[int]], samples: int, seq_len: int, *, pad: bool
) -> CalibrationWindows:
    usable: list[list[int]] = []
    num_documents = 0
    for ids in encoded:
        num_documents += 1
        if len(ids) >= 2 if pad else len(ids) >= seq_len:
            usable.append(ids)
        if len(usable) == samples:
            break
    if len(usable) < samples:
        wanted = "2" if pad else f"{seq_len} (seq_len)"
        raise InputError(
            f"calibration wants {samples} samples; of {num_documents} documents {len(usable)} "
            f"have at least {wanted} tokens",
            remedy="use fewer samples, a smaller seq_len, `pack: concat`, or more data",
        )
    ids_NT = np.zeros((samples, seq_len), dtype=np.int64)
    lengths_N = np.zeros(samples, dtype=np.int64)
    for row, ids in enumerate(usable):
        head = ids[:seq_len]
        ids_NT[row, : len(head)] = head
        lengths_N[row] = len(head)
    return CalibrationWindows(ids_NT, lengths_N)
