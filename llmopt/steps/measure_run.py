"""The run of a scoring step; imports torch, so only a step's `run()` imports it."""

import json
import time

import torch

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.data.documents import Document
from llmopt.data.mixture import select_documents
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import InputError
from llmopt.evaluate.metrics import summarise, summarise_documents
from llmopt.evaluate.scoring import score_windows
from llmopt.evaluate.windows import Window, cut_windows
from llmopt.steps.base import Outcome, ResolvedInput, RunContext, StepInputs
from llmopt.steps.dataset_input import load_parts, name_rows
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
    tokenizer = DocumentTokenizer(candidate.folder, trust_remote_code=candidate.trust_remote_code)
    documents = _select_documents(inputs["data"], tokenizer)
    windows = _cut_documents(candidate, tokenizer, documents, inputs["data"], (max_length, stride))
    scores = score_windows(
        windows,
        StreamedModel(candidate, device, torch.float32),
        None if baseline is None else StreamedModel(baseline, device, torch.float32),
        context.progress,
    )
    categories = [document.category for document in documents]
    origins = list(name_rows(inputs["data"], documents))
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


def _select_documents(data: ResolvedInput, tokenizer: DocumentTokenizer) -> list[Document]:
    assert data.dataset is not None
    parts = load_parts(data, tokenizer)
    try:
        return select_documents(parts, data.dataset)
    except InputError as error:
        raise InputError(f"data set {data.name}: {error.message}", remedy=error.remedy) from None


def _cut_documents(
    checkpoint: Checkpoint,
    tokenizer: DocumentTokenizer,
    documents: list[Document],
    data: ResolvedInput,
    window: tuple[int, int],
) -> list[Window]:
    assert data.dataset is not None
    windows: list[Window] = []
    for index, document in enumerate(documents):
        ids = tokenizer.encode(document, data.dataset.template)
        if ids and max(ids) >= checkpoint.config.vocab_size:
            raise InputError(
                f"the tokenizer of {checkpoint.folder} gives token id {max(ids)}, but the "
                f"model's vocab_size is {checkpoint.config.vocab_size}",
                remedy="use the tokenizer that belongs to the model",
            )
        windows += cut_windows(index, ids, *window)
    if not windows:
        raise InputError(f"data set {data.name} holds no document of two tokens or more")
    return windows
