"""The run of `bench.onnx`; imports torch and onnxruntime, so only the step's `run()` imports it."""

import json
import statistics

import torch
from pydantic import JsonValue

from llmopt.artifacts.onnx_digests import require_unchanged
from llmopt.export.bench import BenchJob, BenchResult, measure_in_process
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.bench_onnx import BenchOnnx
from llmopt.steps.device import describe_device

FIGURES = ("prefill_tokens_per_s", "decode_tokens_per_s", "load_s", "added_rss_bytes")


def run_bench(step: BenchOnnx, inputs: StepInputs, context: RunContext) -> Outcome:
    """Measures every export in every round, in turn, each in a process of its own.

    Raises:
        InputError: One of them was changed since it was exported, or can't be run.
        ResourceError: There is not enough memory for it.
    """
    given = list(inputs.values())
    for each in given:
        require_unchanged(each.path)
    results: dict[str, list[BenchResult]] = {each.name: [] for each in given}
    context.progress.start("measuring", step.rounds * len(given))
    for _ in range(step.rounds):
        for each in given:
            job = BenchJob(
                folder=str(each.path),
                batch=step.batch,
                prompt_tokens=step.prompt_tokens,
                new_tokens=step.new_tokens,
                threads=context.threads,
            )
            results[each.name].append(measure_in_process(job))
            context.progress.advance()
    single = {name: [r.model_dump() for r in rounds] for name, rounds in results.items()}
    text = json.dumps(single, indent=1)
    (context.work_folder / "rounds.json").write_text(text + "\n", encoding="utf-8")
    medians = {
        name: {figure: _median(rounds, figure) for figure in FIGURES}
        for name, rounds in results.items()
    }
    metrics: dict[str, JsonValue] = {
        name: {**figures, **_compare(figures, medians[given[0].name])}
        for name, figures in medians.items()
    }
    return Outcome(metrics=metrics, machine=describe_device(torch.device("cpu")))


def _compare(figures: dict[str, float], first: dict[str, float]) -> dict[str, float]:
    """Returns how many times as fast a candidate is as the first, which any machine can gate."""
    return {
        f"{phase}_speedup": round(
            figures[f"{phase}_tokens_per_s"] / first[f"{phase}_tokens_per_s"], 4
        )
        for phase in ("prefill", "decode")
    }


def _median(rounds: list[BenchResult], figure: str) -> float:
    return round(statistics.median(float(getattr(each, figure)) for each in rounds), 4)
