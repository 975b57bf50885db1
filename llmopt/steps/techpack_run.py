"""The run of `eval.techpack`; imports torch, so only the step's `run()` imports it."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue

from llmopt.checkpoint.activation_store import ActivationStore
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.resident_model import load_resident_model, require_memory
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.data.documents import Document
from llmopt.data.task_items import TaskItem
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import IncompatibleError, InputError
from llmopt.evaluate.answer_checks import judge_answer
from llmopt.evaluate.answer_ranking import EncodedTask, Ranking, cut_answers, rank_answers
from llmopt.evaluate.generation import DecodeLimits, decode_greedily
from llmopt.evaluate.scoring import score_windows
from llmopt.evaluate.task_metrics import Verdicts, describe_mean, summarise_verdicts
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.device import describe_device, select_device
from llmopt.steps.eval_techpack import EvalTechpack
from llmopt.steps.measure_fields import check_same_vocabulary
from llmopt.steps.measure_run import load_tokenizer, open_scored_model

ANSWERS_NAME = "answers.jsonl"
Row = dict[str, JsonValue]


@dataclass(frozen=True)
class _Examination:
    """What one model made of the tasks.

    Attributes:
        right: Whether each is answered rightly.
        same_as: What must be equal in two models for them to agree, per task.
        rows: What is written of each task.
        rankings: Of each task; empty where answers were generated.
    """

    right: list[bool]
    same_as: list[Any]
    rows: list[Row]
    rankings: list[Ranking]


def run_techpack(step: EvalTechpack, inputs: StepInputs, context: RunContext) -> Outcome:
    """Examines the models one after the other and writes each task's verdict."""
    device = select_device(context)
    started = time.perf_counter()
    items = step.read_items(inputs)
    models = [open_scored_model(inputs[name]) for name in ("model", "baseline") if name in inputs]
    if step.protocol == "likelihood":
        check_same_vocabulary(models)
    examine = _generate if step.protocol == "generate" else _rank
    found = [examine(step, items, model, device, context) for model in models]
    _write_answers(context, items, found)
    agrees = None
    if len(found) > 1:
        agrees = np.array([a == b for a, b in zip(found[0].same_as, found[1].same_as, strict=True)])
    verdicts = Verdicts(
        np.array(found[0].right), np.array(found[1].right) if len(found) > 1 else None, agrees
    )
    metrics = summarise_verdicts(verdicts, [item.check.kind for item in items])
    for prefix, examination in zip(("", "baseline_"), found, strict=False):
        metrics |= _summarise_rankings(prefix, examination.rankings)
    return Outcome(
        metrics=metrics,
        timings={"examine_s": round(time.perf_counter() - started, 3)},
        machine=describe_device(device),
    )


def _generate(
    step: EvalTechpack,
    items: Sequence[TaskItem],
    checkpoint: Checkpoint,
    device: torch.device,
    context: RunContext,
) -> _Examination:
    tokenizer = load_tokenizer(checkpoint)
    prompts = [_encode_prompt(tokenizer, item, step) for item in items]
    longest = max(len(ids) for ids in prompts) + step.max_new_tokens
    _check_length(checkpoint, longest, f"the longest prompt and max_new_tokens {longest}")
    dtype = getattr(torch, step.dtype)
    require_memory(checkpoint, device, dtype, min(step.batch_size, len(items)), longest)
    model = load_resident_model(checkpoint, device, dtype)
    limits = DecodeLimits(
        _list_stop_ids(checkpoint, tokenizer), step.max_new_tokens, step.batch_size
    )
    decoded = decode_greedily(model, prompts, limits, context.progress)
    answers = [tokenizer.decode_answer(ids) for ids in decoded]
    reasons = [judge_answer(i.check, a) for i, a in zip(items, answers, strict=True)]
    for index, ids in enumerate(decoded):
        if len(ids) == step.max_new_tokens:
            reasons[index] = reasons[index] or f"cut off after {step.max_new_tokens} tokens"
    rows: list[Row] = [
        {"answer": answer, "right": reason is None, "reason": reason}
        for answer, reason in zip(answers, reasons, strict=True)
    ]
    return _Examination([reason is None for reason in reasons], answers, rows, [])


def _rank(
    step: EvalTechpack,
    items: Sequence[TaskItem],
    checkpoint: Checkpoint,
    device: torch.device,
    context: RunContext,
) -> _Examination:
    tokenizer = load_tokenizer(checkpoint)
    tasks = [_encode_task(tokenizer, item, step) for item in items]
    windows = cut_answers(tasks)
    longest = max(len(window.ids) for window in windows)
    _check_length(checkpoint, longest, f"the longest prompt and answer {longest}")
    model = StreamedModel(checkpoint, device, getattr(torch, step.dtype))
    spill = context.scratch_folder / "activations"
    shutil.rmtree(spill, ignore_errors=True)  # what a killed run spilled is worth nothing
    streams = ActivationStore(spill, int(step.activation_memory_gb * 1e9), device)
    (scores,) = score_windows(windows, [model], None, streams, context.progress)
    rankings = rank_answers(tasks, scores)
    right = [ranking.is_right for ranking in rankings]
    pairs = zip(items, rankings, strict=True)
    rows = [_describe_ranking(item, ranking) for item, ranking in pairs]
    return _Examination(right, right, rows, rankings)


def _summarise_rankings(prefix: str, rankings: Sequence[Ranking]) -> dict[str, JsonValue]:
    if not rankings:
        return {}
    margins = np.array([ranking.margin for ranking in rankings])
    shares = np.array([ranking.pair_share for ranking in rankings])
    return {
        **describe_mean(f"{prefix}mean_margin", margins),
        **describe_mean(f"{prefix}pair_accuracy", shares),
    }


def _describe_ranking(item: TaskItem, ranking: Ranking) -> Row:
    best = int(np.argmax(ranking.logprobs))
    preferred = (item.answer, *item.distractors)[best]
    reason = None if ranking.is_right else "a wrong answer is no less probable"
    return {
        "answer": preferred,
        "right": ranking.is_right,
        "reason": reason,
        "margin": ranking.margin,
        "logprobs": list(ranking.logprobs),
    }


def _encode_prompt(tokenizer: DocumentTokenizer, item: TaskItem, step: EvalTechpack) -> list[int]:
    turns = tuple({"role": turn.role, "content": turn.content} for turn in item.messages)
    document = Document(f"task {item.id}", item.topic, messages=turns)
    return tokenizer.encode_prompt(document, step.template)


def _encode_task(tokenizer: DocumentTokenizer, item: TaskItem, step: EvalTechpack) -> EncodedTask:
    answers = [tuple(tokenizer.encode_as_is(a)) for a in (item.answer, *item.distractors)]
    return EncodedTask(tuple(_encode_prompt(tokenizer, item, step)), tuple(answers))


def _check_length(checkpoint: Checkpoint, num_tokens: int, what: str) -> None:
    limit = checkpoint.config.max_position_embeddings
    if num_tokens > limit:
        raise IncompatibleError(
            f"{what} tokens exceed max_position_embeddings {limit} of {checkpoint.folder}",
            remedy="lower max_new_tokens, or use shorter tasks",
        )


def _list_stop_ids(checkpoint: Checkpoint, tokenizer: DocumentTokenizer) -> frozenset[int]:
    """Reads what ends an answer: generation_config.json, else config.json, else the tokenizer."""
    path = checkpoint.folder / "generation_config.json"
    try:
        generation = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    given = generation.get("eos_token_id") or checkpoint.config.raw.get("eos_token_id")
    ids = given if isinstance(given, list) else [given]
    named = [*ids, tokenizer.eos_id]
    return frozenset(token for token in named if token is not None)


def _write_answers(
    context: RunContext, items: Sequence[TaskItem], found: Sequence[_Examination]
) -> None:
    with (context.work_folder / ANSWERS_NAME).open("w", encoding="utf-8") as file:
        for index, item in enumerate(items):
            row: Row = {"id": item.id, "check": item.check.kind, **found[0].rows[index]}
            if len(found) > 1:
                baseline = found[1].rows[index]
                row |= {f"baseline_{key}": value for key, value in baseline.items()}
                row["agrees"] = found[0].same_as[index] == found[1].same_as[index]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
