"""A step's data set: read part by part, its rows named without where the files lay."""

from collections.abc import Iterator

from llmopt.data.documents import Document
from llmopt.data.mixture import LoadedPart
from llmopt.data.requirements import check_tokens
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import InputError
from llmopt.steps.base import ResolvedInput


def load_parts(data: ResolvedInput, tokenizer: DocumentTokenizer) -> list[LoadedPart]:
    """Reads every part, and checks what `require` says of the documents' tokens.

    Raises:
        InputError: A part can't be read, or a document is too short.
    """
    assert data.dataset is not None
    parts = [LoadedPart(str(located.path), located.read()) for located in data.parts]
    require = data.dataset.require
    if require is not None and require.min_document_tokens is not None:
        documents = [document for part in parts for document in part.documents]
        lengths = [len(tokenizer.encode(d, data.dataset.template)) for d in documents]
        try:
            check_tokens(documents, lengths, require)
        except InputError as error:
            raise InputError(f"data set {data.name}: {error.message}") from None
    return parts


def name_rows(data: ResolvedInput, documents: list[Document]) -> Iterator[str]:
    """Yields each document's line or row, after `mix.N` where it comes from a further part.

    An artifact's bytes must not depend on where its inputs lay.
    """
    sources = [located.source for located in data.parts]
    for document in documents:
        index = next(
            i for i, s in enumerate(sources) if document.origin.startswith((s + ":", s + "#"))
        )
        row = document.origin.removeprefix(sources[index])
        yield row if index == 0 else f"mix.{index - 1}{row}"
