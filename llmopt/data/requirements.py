"""Holds documents against what a recipe requires of them; a miss is an error with the numbers."""

from collections.abc import Mapping, Sequence

from llmopt.data.dataset_spec import DataRequirements, DatasetSpec
from llmopt.data.documents import Document
from llmopt.data.text_measures import (
    collect_sequences,
    is_japanese,
    measure_japanese,
    measure_overlap,
)
from llmopt.errors import InputError


def check_documents(
    documents: Sequence[Document],
    require: DataRequirements,
    others: Mapping[str, Sequence[Document]],
) -> None:
    """Checks what needs no tokenizer.

    Args:
        documents: Of all parts.
        require: What they must be like.
        others: The documents of the data sets that `max_overlap` names.

    Raises:
        InputError: Names the numbers and the worst offender.
    """
    if require.min_rows is not None and len(documents) < require.min_rows:
        raise InputError(
            f"it holds {len(documents)} documents, require.min_rows is {require.min_rows}"
        )
    if require.min_japanese_share is not None:
        _check_japanese(documents, require.min_japanese_share)
    for name, allowed in require.max_overlap.items():
        if name in others:
            _check_overlap(documents, name, others[name], allowed)


def check_tokens(
    documents: Sequence[Document], lengths: Sequence[int], require: DataRequirements
) -> None:
    """Checks the documents' lengths in tokens.

    Raises:
        InputError: Names the numbers and the shortest document.
    """
    least = require.min_document_tokens or 0
    short = sum(length < least for length in lengths)
    if short:
        shortest = min(range(len(lengths)), key=lengths.__getitem__)
        raise InputError(
            f"{short} of {len(documents)} documents have fewer than {least} tokens "
            f"(require.min_document_tokens); the shortest is {documents[shortest].origin} with "
            f"{lengths[shortest]}"
        )


def require_samples(spec: DatasetSpec) -> None:
    """Refuses to evaluate on a mix of no said size.

    Raises:
        InputError: `samples` is not given.
    """
    if spec.mix and spec.samples is None:
        raise InputError(
            "a mix has shares of a number of documents, and no samples are given",
            remedy="set samples to the documents wanted",
        )


def _check_japanese(documents: Sequence[Document], least: float) -> None:
    texts = [document.join_text() for document in documents]
    count = sum(map(is_japanese, texts))
    if count < least * len(texts):
        shares = [measure_japanese(text) for text in texts]
        worst = min(range(len(shares)), key=shares.__getitem__)
        raise InputError(
            f"{count} of {len(texts)} documents ({count / len(texts):.1%}) are Japanese, "
            f"require.min_japanese_share is {least:.1%}; least so is {documents[worst].origin}: "
            f"{shares[worst]:.1%} of its characters are kana or kanji"
        )


def _check_overlap(
    documents: Sequence[Document], name: str, others: Sequence[Document], allowed: float
) -> None:
    texts = [document.join_text() for document in others]
    known = collect_sequences((d.join_text() for d in documents), collect_sequences(texts))
    overlaps = [measure_overlap(text, known) for text in texts]
    worst = max(range(len(overlaps)), key=overlaps.__getitem__)
    if overlaps[worst] > allowed:
        over = sum(overlap > allowed for overlap in overlaps)
        raise InputError(
            f"it holds {overlaps[worst]:.1%} of the 30-character sequences of "
            f"{others[worst].origin} in data set {name}, require.max_overlap.{name} is "
            f"{allowed:.1%}; {over} of {len(overlaps)} documents exceed it",
            remedy="take those documents, or what repeats them, out of one of the two sets",
        )
