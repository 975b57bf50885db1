"""The run of a scoring step; imports torch, so only a step's `run()` imports it."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import JsonValue

from llmopt.checkpoint.activation_store import ActivationStore
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.data.documents import Document
from llmopt.data.mixture import select_documents
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import IncompatibleError, InputError
from llmopt.evaluate.metrics import summarise, summarise_documents
from llmopt.evaluate.scoring import TokenScores, score_windows
from llmopt.evaluate.windows import cut_windows
from llmopt.steps.base import Outcome, ResolvedInput, RunContext, StepInputs
from llmopt.steps.dataset_input import load_parts, name_rows
from llmopt.steps.device import describe_device, select_device
from llmopt.steps.measure_fields import (
    ScoringFields,
    check_same_vocabulary,
    choose_window,
    model_keys,
)

DOCUMENTS_NAME = "documents.jsonl"


@dataclass(frozen=True)
class Measurement:
    """What a scoring step measured.

    Attributes:
        scores: Per-token scores of each model but the baseline, in the order of the inputs.
        origins: Where each document stands in its file.
        categories: Each document's category.
        protocol: The window: `max_length` and `stride`, in tokens.
        timings: Seconds.
        machine: What it was computed on.
    """

    scores: list[TokenScores]
    origins: list[str]
    categories: list[str]
    protocol: dict[str, JsonValue]
    timings: dict[str, float]
    machine: dict[str, str]


def run_scoring(step: ScoringFields, inputs: StepInputs, context: RunContext) -> Outcome:
    """Scores the documents and writes per-document rows beside the metrics."""
    measured = measure(step, inputs, context)
    (scores,) = measured.scores
    write_documents(context, summarise_documents(scores, measured.origins, measured.categories))
    metrics = summarise(scores, measured.categories, step.bootstrap_samples)
    return Outcome(
        metrics={**metrics, **measured.protocol},
        timings=measured.timings,
        machine=measured.machine,
    )


def measure(step: ScoringFields, inputs: StepInputs, context: RunContext) -> Measurement:
    """Scores the documents under all models in one pass.

    Raises:
        IncompatibleError: The models or the window do not go together.
        InputError: A model or the data is unsuitable.
        NumericalError: A model's output is NaN or infinite.
    """
    device = select_device(context)
    started = time.perf_counter()
    opened = {key: open_scored_model(inputs[key]) for key in model_keys(inputs)}
    checkpoints = list(opened.values())
    check_same_vocabulary(checkpoints)
    max_length, stride = min(choose_window(step, inputs, c) for c in checkpoints)
    tokenizers = [load_tokenizer(checkpoint) for checkpoint in checkpoints]
    documents = _select_documents(inputs["data"], tokenizers[-1])
    ids = _encode_alike(checkpoints, tokenizers, documents, inputs["data"])
    windows = [
        window
        for index, document_ids in enumerate(ids)
        for window in cut_windows(index, document_ids, max_length, stride)
    ]
    if not windows:
        raise InputError(f"data set {inputs['data'].name} holds no document of two tokens or more")
    spill = context.scratch_folder / "activations"
    shutil.rmtree(spill, ignore_errors=True)  # what a killed run spilled is worth nothing
    models = {key: StreamedModel(opened[key], device, torch.float32) for key in opened}
    scores = score_windows(
        windows,
        [model for key, model in models.items() if key != "baseline"],
        models.get("baseline"),
        ActivationStore(spill, int(step.activation_memory_gb * 1e9), device),
        context.progress,
    )
    return Measurement(
        scores,
        origins=list(name_rows(inputs["data"], documents)),
        categories=[document.category for document in documents],
        protocol={"max_length": max_length, "stride": stride},
        timings={"score_s": round(time.perf_counter() - started, 3)},
        machine=describe_device(device),
    )


def write_documents(context: RunContext, rows: Sequence[dict[str, JsonValue]]) -> None:
    """Writes one line per document."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (context.work_folder / DOCUMENTS_NAME).write_text("".join(lines), encoding="utf-8")


def open_scored_model(model: ResolvedInput) -> Checkpoint:
    """Opens a model that is to be scored.

    Raises:
        InputError: It is unsuitable, or has no tokenizer.
    """
    checkpoint = Checkpoint.open(model.path, trust_remote_code=model.trust_remote_code)
    checkpoint.require_tokenizer()
    return checkpoint


def _select_documents(data: ResolvedInput, tokenizer: DocumentTokenizer) -> list[Document]:
    assert data.dataset is not None
    parts = load_parts(data, tokenizer)
    try:
        return select_documents(parts, data.dataset)
    except InputError as error:
        raise InputError(f"data set {data.name}: {error.message}", remedy=error.remedy) from None


def load_tokenizer(checkpoint: Checkpoint) -> DocumentTokenizer:
    """Loads the tokenizer that lies beside a model."""
    return DocumentTokenizer(checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code)


def _encode_alike(
    checkpoints: Sequence[Checkpoint],
    tokenizers: Sequence[DocumentTokenizer],
    documents: Sequence[Document],
    data: ResolvedInput,
) -> list[list[int]]:
    """Encodes every document, by every model's tokenizer: they must agree to be compared."""
    encoded = [
        _encode(checkpoint, tokenizer, documents, data)
        for checkpoint, tokenizer in zip(checkpoints, tokenizers, strict=True)
    ]
    last, expected = checkpoints[-1], encoded[-1]
    for checkpoint, by_other in zip(checkpoints[:-1], encoded[:-1], strict=True):
        for document, found, wanted in zip(documents, by_other, expected, strict=True):
            if found != wanted:
                raise IncompatibleError(
                    f"the tokenizers of {checkpoint.folder} and {last.folder} give different "
                    f"tokens for {document.origin}",
                    remedy="put the same tokenizer files into both folders",
                )
    return expected


def _encode(
    checkpoint: Checkpoint,
    tokenizer: DocumentTokenizer,
    documents: Sequence[Document],
    data: ResolvedInput,
) -> list[list[int]]:
    assert data.dataset is not None
    encoded = [tokenizer.encode(document, data.dataset.template) for document in documents]
    largest = max((max(ids) for ids in encoded if ids), default=0)
    if largest >= checkpoint.config.vocab_size:
        raise InputError(
            f"the tokenizer of {checkpoint.folder} gives token id {largest}, but the "
            f"model's vocab_size is {checkpoint.config.vocab_size}",
            remedy="use the tokenizer that belongs to the model",
        )
    return encoded
