"""The run of `bench.onnx`; imports onnxruntime, so only the step's `run()` imports it."""

import json
import statistics

from pydantic import JsonValue

from llmopt.export.bench import BenchJob, BenchResult, measure_in_process
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.bench_onnx import BenchOnnx

FIGURES = ("prefill_tokens_per_s", "decode_tokens_per_s", "load_s", "added_rss_bytes")


def run_bench(step: BenchOnnx, inputs: StepInputs, context: RunContext) -> Outcome:
    """Measures every export in every round, in turn, each in a process of its own."""
    given = list(inputs.values())
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
    metrics: dict[str, JsonValue] = {
        name: {figure: _median(rounds, figure) for figure in FIGURES}
        for name, rounds in results.items()
    }
    return Outcome(metrics=metrics)


def _median(rounds: list[BenchResult], figure: str) -> float:
    return round(statistics.median(float(getattr(each, figure)) for each in rounds), 4)
