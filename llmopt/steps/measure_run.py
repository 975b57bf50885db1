"""The run of a scoring step; imports torch, so only a step's `run()` imports it."""

import json
import time

import torch

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.data.documents import Document, order_documents, read_documents
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import InputError
from llmopt.evaluate.metrics import summarise, summarise_documents
from llmopt.evaluate.scoring import score_windows
from llmopt.evaluate.windows import Window, cut_windows
from llmopt.steps.base import Outcome, ResolvedInput, RunContext, StepInputs
from llmopt.steps.device import describe_device, select_device
from llmopt.steps.measure_fields import ScoringFields, check_same_vocabulary, choose_window

DOCUMENTS_NAME = "documents.jsonl"


def run_scoring(step: ScoringFields, inputs: StepInputs, context: RunContext) -> Outcome:
    """Scores the documents and writes per-document rows beside the metrics."""
    device = select_device(context)
    started = time.perf_counter()
    candidate = _open(inputs["model"])
    baseline = _open(inputs["baseline"]) if "baseline" in inputs else None
    check_same_vocabulary([c for c in (candidate, baseline) if c is not None])
    max_length, stride = choose_window(step, inputs, candidate)
    documents = _select_documents(inputs["data"])
    windows = _cut_documents(candidate, documents, inputs["data"], max_length, stride)
    scores = score_windows(
        windows,
        StreamedModel(candidate, device, torch.float32),
        None if baseline is None else StreamedModel(baseline, device, torch.float32),
        context.progress,
    )
    categories = [document.category for document in documents]
    # Lines alone: an artifact's bytes must not depend on where its inputs lay.
    origins = [d.origin.removeprefix(str(inputs["data"].path)) for d in documents]
    rows = summarise_documents(scores, origins, categories)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (context.work_folder / DOCUMENTS_NAME).write_text("".join(lines), encoding="utf-8")
    metrics = summarise(scores, categories)
    metrics |= {"max_length": max_length, "stride": stride}
    return Outcome(
        metrics=metrics,
        timings={"score_s": round(time.perf_counter() - started, 3)},
        machine=describe_device(device),
    )


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


def _cut_documents(
    checkpoint: Checkpoint,
    documents: list[Document],
    data: ResolvedInput,
    max_length: int,
    stride: int,
) -> list[Window]:
    assert data.dataset is not None
    tokenizer = DocumentTokenizer(checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code)
    windows: list[Window] = []
    for index, document in enumerate(documents):
        ids = tokenizer.encode(document, data.dataset.template)
        if ids and max(ids) >= checkpoint.config.vocab_size:
            raise InputError(
                f"the tokenizer of {checkpoint.folder} gives token id {max(ids)}, but the "
                f"model's vocab_size is {checkpoint.config.vocab_size}",
                remedy="use the tokenizer that belongs to the model",
            )
        windows += cut_windows(index, ids, max_length, stride)
    if not windows:
        raise InputError(f"data set {data.name} holds no document of two tokens or more")
    return windows
