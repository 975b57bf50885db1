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
from llmopt.data.documents import Document, order_documents, read_documents
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import IncompatibleError, InputError
from llmopt.evaluate.metrics import summarise, summarise_documents
from llmopt.evaluate.scoring import TokenScores, score_windows
from llmopt.evaluate.windows import cut_windows
from llmopt.steps.base import Outcome, ResolvedInput, RunContext, StepInputs
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
    opened = {key: _open(inputs[key]) for key in model_keys(inputs)}
    check_same_vocabulary(list(opened.values()))
    max_length, stride = min(choose_window(step, inputs, c) for c in opened.values())
    documents = _select_documents(inputs["data"])
    ids = _encode_alike(list(opened.values()), documents, inputs["data"])
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
        # Lines alone: an artifact's bytes must not depend on where its inputs lay.
        origins=[d.origin.removeprefix(str(inputs["data"].path)) for d in documents],
        categories=[document.category for document in documents],
        protocol={"max_length": max_length, "stride": stride},
        timings={"score_s": round(time.perf_counter() - started, 3)},
        machine=describe_device(device),
    )


def write_documents(context: RunContext, rows: Sequence[dict[str, JsonValue]]) -> None:
    """Writes one line per document."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (context.work_folder / DOCUMENTS_NAME).write_text("".join(lines), encoding="utf-8")


def _open(model: ResolvedInput) -> Checkpoint:
    checkpoint = Checkpoint.open(model.path, trust_remote_code=model.trust_remote_code)
    checkpoint.require_tokenizer()
    return checkpoint


def _select_documents(data: ResolvedInput) -> list[Document]:
    assert data.dataset is not None
    documents = read_documents(data.path, data.dataset.field)
    wanted = data.dataset.samples
    if wanted is None:
        return documents
    if wanted > len(documents):
        raise InputError(
            f"data set {data.name}: samples is {wanted}, but {data.path} holds "
            f"{len(documents)} documents"
        )
    return order_documents(documents, data.dataset.seed)[:wanted]


def _encode_alike(
    checkpoints: Sequence[Checkpoint], documents: Sequence[Document], data: ResolvedInput
) -> list[list[int]]:
    """Encodes every document, by every model's tokenizer: they must agree to be compared."""
    last = checkpoints[-1]
    expected = _encode(last, documents, data)
    for checkpoint in checkpoints[:-1]:
        for document, found, wanted in zip(
            documents, _encode(checkpoint, documents, data), expected, strict=True
        ):
            if found != wanted:
                raise IncompatibleError(
                    f"the tokenizers of {checkpoint.folder} and {last.folder} give different "
                    f"tokens for {document.origin}",
                    remedy="put the same tokenizer files into both folders",
                )
    return expected


def _encode(
    checkpoint: Checkpoint, documents: Sequence[Document], data: ResolvedInput
) -> list[list[int]]:
    assert data.dataset is not None
    tokenizer = DocumentTokenizer(checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code)
    encoded = [tokenizer.encode(document, data.dataset.template) for document in documents]
    largest = max((max(ids) for ids in encoded if ids), default=0)
    if largest >= checkpoint.config.vocab_size:
        raise InputError(
            f"the tokenizer of {checkpoint.folder} gives token id {largest}, but the "
            f"model's vocab_size is {checkpoint.config.vocab_size}",
            remedy="use the tokenizer that belongs to the model",
        )
    return encoded
