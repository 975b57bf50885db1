"""The run of `eval.lm_eval`; imports torch and lm_eval, so only the step's `run()` imports it."""

import contextlib
import difflib
import json
import time
from collections.abc import Mapping
from typing import Any

import lm_eval
import torch
from jinja2 import TemplateError
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.resident_model import load_resident_model, require_memory
from llmopt.errors import InputError
from llmopt.evaluate.harness_results import TaskMetrics, flatten_results
from llmopt.steps.base import Outcome, ResolvedInput, RunContext, StepInputs
from llmopt.steps.device import describe_device, select_device
from llmopt.steps.eval_lm_eval import EvalLmEval

SAMPLES_NAME = "samples.jsonl"
NUM_RESAMPLES = 1000  # of lm_eval's standard errors, where it has no formula
PREFIXES = {"": "model", "baseline_": "baseline"}
ROW_TOKENS = 2048  # a question with its examples, for the estimate of memory
UNFIT_TASK = (ConnectionError, FileNotFoundError, KeyError, TypeError, ValueError, TemplateError)


def run_lm_eval(step: EvalLmEval, inputs: StepInputs, context: RunContext) -> Outcome:
    """Runs the tasks on one model after the other; answers go to `samples.jsonl`."""
    device = select_device(context)
    started = time.perf_counter()
    manager = _index_tasks(step)
    metrics: TaskMetrics = {}
    with (context.work_folder / SAMPLES_NAME).open("w", encoding="utf-8") as file:
        for prefix, key in PREFIXES.items():
            if key not in inputs:
                continue
            found = _evaluate(step, inputs[key], device, manager)
            for task, figures in flatten_results(found["results"], prefix).items():
                metrics.setdefault(task, {}).update(figures)
            for task, counts in found["n-samples"].items():
                metrics[task]["num_samples"] = counts["effective"]
            for row in _list_samples(found["samples"]):
                file.write(json.dumps({"model": key, **row}, ensure_ascii=False, default=str))
                file.write("\n")
    return Outcome(
        metrics={**metrics},
        timings={"examine_s": round(time.perf_counter() - started, 3)},
        machine=describe_device(device),
    )


def _index_tasks(step: EvalLmEval) -> TaskManager:
    include = None if step.task_folder is None else str(step.task_folder.resolve())
    manager = TaskManager(include_path=include)
    for name in step.tasks:
        if name not in manager.all_tasks:
            close = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"; close to it: {', '.join(close)}" if close else ""
            raise InputError(
                f"lm_eval {lm_eval.__version__} knows no task {name!r}{hint}",
                remedy="`lm_eval ls tasks` lists them; own ones lie in the folder `task_path`",
            )
    return manager


def _evaluate(
    step: EvalLmEval, given: ResolvedInput, device: torch.device, manager: TaskManager
) -> dict[str, Any]:
    checkpoint = Checkpoint.open(given.path, trust_remote_code=given.trust_remote_code)
    checkpoint.require_tokenizer()
    dtype = getattr(torch, step.dtype)
    longest = min(checkpoint.config.max_position_embeddings, ROW_TOKENS)
    require_memory(checkpoint, device, dtype, step.batch_size, longest)
    wrapped = HFLM(
        pretrained=load_resident_model(checkpoint, device, dtype),
        tokenizer=AutoTokenizer.from_pretrained(
            checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code
        ),
        batch_size=step.batch_size,
    )
    # lm_eval reads the data files of a task from the working directory.
    folder = step.task_folder
    with contextlib.nullcontext() if folder is None else contextlib.chdir(folder):
        try:
            found: dict[str, Any] = lm_eval.simple_evaluate(
                model=wrapped,
                tasks=list(step.tasks),
                task_manager=manager,
                num_fewshot=step.num_fewshot,
                limit=step.limit,
                bootstrap_iters=NUM_RESAMPLES,
                apply_chat_template=step.template == "chat",
            )
        except UNFIT_TASK as error:
            raise InputError(
                f"lm_eval can't run {', '.join(step.tasks)}: {type(error).__name__}: {error}",
                remedy="check the task's YAML and that its data can be reached",
            ) from error
    return found


def _list_samples(samples: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    kept = ("doc_id", "doc_hash", "filter", "target", "filtered_resps")
    return [
        {"task": task, **{key: row[key] for key in (*kept, *row["metrics"])}}
        for task, rows in samples.items()
        for row in rows
    ]
