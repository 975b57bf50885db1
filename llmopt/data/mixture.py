"""Mixes the parts of a data set in the shares that it gives them.

Shapes: N = windows, T = tokens per window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmopt.data.calibration_windows import CalibrationWindows, build_windows
from llmopt.data.dataset_spec import DatasetSpec, share_out
from llmopt.data.documents import Document, order_documents, order_indices
from llmopt.data.requirements import require_samples
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import InputError


@dataclass(frozen=True)
class LoadedPart:
    """The documents of one part of a data set; the data set itself is the first.

    Attributes:
        label: Where they come from, for messages.
        documents: All of them, in the file's order.
    """

    label: str
    documents: Sequence[Document]


def build_mixed_windows(
    parts: Sequence[LoadedPart], tokenizer: DocumentTokenizer, spec: DatasetSpec
) -> CalibrationWindows:
    """Builds exactly `samples` windows; each part gives its share, of windows of its own.

    Each part is packed as a data set without `mix` would be; the windows [N, T] then come in an
    order that depends on the seed alone.

    Raises:
        InputError: A part does not give its share; the numbers are named.
    """
    if not spec.mix:
        return build_windows(parts[0].documents, tokenizer, spec)
    samples = spec.num_windows
    counts = share_out(samples, spec.weights())
    built = []
    for part, count in zip(parts, counts, strict=True):
        share = spec.model_copy(update={"samples": count, "mix": ()})
        try:
            built.append(build_windows(part.documents, tokenizer, share))
        except InputError as error:
            message = f"{part.label}, {count} of {samples} samples: {error.message}"
            raise InputError(message, remedy=error.remedy) from None
    order_N = order_indices(samples, spec.seed)
    return CalibrationWindows(
        np.concatenate([windows.ids_NT for windows in built])[order_N],
        np.concatenate([windows.lengths_N for windows in built])[order_N],
    )


def select_documents(parts: Sequence[LoadedPart], spec: DatasetSpec) -> list[Document]:
    """Selects the documents of an evaluation: `samples` of them in the parts' shares, or all.

    Raises:
        InputError: A part holds fewer than its share, or a mix has no `samples`.
    """
    if not spec.mix:
        documents = list(parts[0].documents)
        return documents if spec.samples is None else _take(parts[0], spec.samples, spec.seed)
    require_samples(spec)
    assert spec.samples is not None
    counts = share_out(spec.samples, spec.weights())
    chosen = [
        document
        for part, count in zip(parts, counts, strict=True)
        for document in _take(part, count, spec.seed)
    ]
    return order_documents(chosen, spec.seed)


def _take(part: LoadedPart, count: int, seed: int) -> list[Document]:
    if count > len(part.documents):
        raise InputError(
            f"{count} documents of {part.label} are wanted (samples), but it holds "
            f"{len(part.documents)}"
        )
    return order_documents(part.documents, seed)[:count]
