"""Resolves the data sets of a recipe: where they lie, what names them, whether they are fit."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from llmopt.artifacts.digest import FileHasher, digest_value
from llmopt.data.dataset_files import LocatedPart, locate_parts
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.data.documents import Document
from llmopt.data.requirements import check_documents
from llmopt.errors import InputError
from llmopt.steps.base import ResolvedInput

# What says where the documents are, and what they must be like, changes none of them.
NOT_CONTENT = {"path", "set", "hf", "revision", "split", "mix", "require"}


def resolve_dataset(
    name: str, spec: DatasetSpec, base: Path, hasher: FileHasher | None
) -> ResolvedInput:
    """Locates a data set; without a hasher its digest is empty.

    Raises:
        InputError: No such set, split or file.
    """
    parts = locate_parts(spec, base)
    return ResolvedInput(
        name,
        "dataset",
        "" if hasher is None else _digest_parts(spec, parts, hasher),
        parts[0].path,
        dataset=spec,
        mixed=parts[1:],
        origin=_describe_parts(spec, parts),
    )


def list_related(datasets: Mapping[str, DatasetSpec], names: Iterable[str]) -> set[str]:
    """Returns the data sets among `names`, and those that requirements name, in turn."""
    related: set[str] = set()
    found = set(names) & set(datasets)
    while found - related:
        related |= found
        found = {o for n in related if (r := datasets[n].require) for o in r.max_overlap}
    return related


def check_requirements(resolved: Mapping[str, ResolvedInput]) -> None:
    """Holds every data set that is here against its `require`, but for what needs a tokenizer.

    Raises:
        InputError: Names the data set, the numbers and the worst offender.
    """
    for given in resolved.values():
        require = None if given.dataset is None else given.dataset.require
        if require is None or not _is_here(given):
            continue
        others = {
            name: _read(resolved[name]) for name in require.max_overlap if _is_here(resolved[name])
        }
        documents = _read(given)
        try:
            check_documents(documents, require, others)
        except InputError as error:
            message = f"data set {given.name} ({given.origin}): {error.message}"
            raise InputError(message, remedy=error.remedy) from None


def _is_here(given: ResolvedInput) -> bool:
    return all(located.path.exists() for located in given.parts)


def _read(given: ResolvedInput) -> list[Document]:
    return [document for located in given.parts for document in located.read()]


def _digest_parts(spec: DatasetSpec, parts: tuple[LocatedPart, ...], hasher: FileHasher) -> str:
    value: dict[str, object] = {
        **parts[0].identity(hasher),
        "spec": spec.model_dump(mode="json", exclude=NOT_CONTENT),
    }
    if spec.mix:
        value["mix"] = [
            {
                **located.identity(hasher),
                "spec": part.model_dump(mode="json", exclude=NOT_CONTENT),
            }
            for part, located in zip(spec.mix, parts[1:], strict=True)
        ]
    if spec.require is not None and spec.require.min_document_tokens is not None:
        # The one requirement that only a running step checks: a stricter one must run it again.
        value["min_document_tokens"] = spec.require.min_document_tokens
    return digest_value(value)


def _describe_parts(spec: DatasetSpec, parts: tuple[LocatedPart, ...]) -> str:
    commits = [
        f"{located.part.label} is commit {located.commit}"
        for located in parts
        if located.commit is not None
        and located.path.is_dir()
        and located.commit != located.part.revision
    ]
    return "; ".join([spec.describe(), *commits])
