"""The few lines that close a run: sizes, errors, verdicts, where things lie, what to try next."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.files import format_bytes
from llmopt.evaluate.comparison_table import format_interval, write_table
from llmopt.recipe.execute import RunResult
from llmopt.steps.base import StepBase
from llmopt.steps.eval_gate import EvalGate, list_required

COMPARE = "eval.compare"


def summarise_run(result: RunResult, output_folder: Path, steps: Mapping[str, StepBase]) -> str:
    """Returns the summary of a finished run as text; `steps` are the recipe's, with its limits."""
    lines = ["", "summary"]
    for name, artifact in result.artifacts.items():
        if artifact.manifest.step.uses == COMPARE:
            table = write_table(artifact.manifest.metrics)  # type: ignore[arg-type]
            lines += [f"  {name}:", *(f"    {line}" for line in table.splitlines())]
        else:
            figures = [*_describe_limits(steps[name], artifact), *describe_artifact(artifact)]
            lines.append(f"  {name}: {'; '.join(figures)}")
        lines += [f"    degraded: {fault}" for fault in artifact.manifest.degraded]
        lines.append(f"    {_relative(output_folder / name)}")
    for name, reason in result.unavailable.items():
        lines.append(f"  {name}: not run: {reason}")
        if name in result.deferred:
            place = _relative(output_folder / name)
            lines.append(f"    deferred; llmopt verify {place} says what it needs")
    checkpoints = [
        name
        for name, artifact in result.artifacts.items()
        if artifact.manifest.kind == "quantized_checkpoint"
    ]
    hints = [f"llmopt verify {_relative(output_folder / name)}" for name in checkpoints[-1:]]
    if result.artifacts:
        hints.append(f"llmopt report {_relative(output_folder)}")
    for name, artifact in result.artifacts.items():
        if artifact.manifest.kind == "triton_repository":
            place = _relative(output_folder / name)
            metrics: Mapping[str, Any] = artifact.manifest.metrics
            arguments = metrics["server_arguments"]
            hints.append(" ".join((f"tritonserver --model-repository={place}", *arguments)))
            guide = f"{place}/README.md has the docker command"
            hints.append(f"  (tritonserver lies in NVIDIA's container: {guide})")
    lines += [f"{'      ' if index else 'next: '}{hint}" for index, hint in enumerate(hints)]
    return "\n".join(lines)


def _describe_limits(step: StepBase, artifact: Artifact) -> Iterator[str]:
    """Yields a gate's measured values, each with what is required of it now."""
    if isinstance(step, EvalGate):
        yield f"kept {', '.join(list_required(step.require, artifact.manifest.metrics))}"


def describe_artifact(artifact: Artifact) -> Iterator[str]:
    """Yields the figures that matter of an artifact, by its kind."""
    metrics = artifact.manifest.metrics
    if artifact.manifest.kind == "quantized_checkpoint":
        yield from _describe_checkpoint(metrics)
    elif artifact.manifest.kind == "onnx_model":
        yield from _describe_onnx(metrics)
    elif artifact.manifest.kind == "tensorrt_engine":
        yield from _describe_engine(metrics)
    elif artifact.manifest.kind == "triton_repository":
        yield from _describe_repository(metrics)
    else:
        yield from _describe_evaluation(metrics)


def _describe_checkpoint(metrics: Mapping[str, Any]) -> Iterator[str]:
    size, source = metrics["weights_bytes"], metrics["source_weights_bytes"]
    yield f"{format_bytes(size)} of weights, {source / size:.2f} x less than {format_bytes(source)}"
    if metrics.get("lowest_snr_db") is not None:
        yield f"lowest SNR {metrics['lowest_snr_db']:.1f} dB in {metrics['lowest_snr_layer']}"


def _describe_onnx(metrics: Mapping[str, Any]) -> Iterator[str]:
    size = metrics["weights_bytes"] + metrics["graph_bytes"]
    layers = metrics["integer_layers"]
    yield format_bytes(size) + (f", {layers} layers as integers" if layers else "")
    yield f"within {metrics['relative_error']:.2g} of PyTorch's largest value"
    if "cosine_distance" in metrics:
        yield f"cosine distance {metrics['cosine_distance']:.2g}"
    positions = f"{metrics['compared_positions']} positions"
    if "top1_agreement" in metrics:
        yield f"same top token at {100 * metrics['top1_agreement']:.1f} % of {positions}"
    else:
        yield f"compared at {positions}"


def _describe_engine(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield f"{format_bytes(metrics['engine_bytes'])}, profiles {', '.join(metrics['profiles'])}"


def _describe_repository(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{metrics['shape']} repository of {metrics['model_name']} for Triton "
        f"{metrics['triton_release']} on {metrics['device']}"
    )
    yield f"{format_bytes(metrics['repository_bytes'])} in {_count_models(metrics['models'])}"
    if "answer" in metrics:
        yield f"tritonserver {metrics['answered_by_release']} answers {metrics['answer']!r}"


def _count_models(names: list[str]) -> str:
    return "1 model" if len(names) == 1 else f"{len(names)} models"


def _describe_nested(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yields the figures of candidates or tasks by their names."""
    known = {name for figures in metrics.values() for name in figures}
    if "kl_mean" in known:
        yield f"judged in the comparison of {', '.join(metrics)}"
    elif "decode_tokens_per_s" in known:
        yield from _describe_speeds(metrics)
    else:
        yield from _describe_tasks(metrics)


def _describe_load(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yields rates and latencies of `bench.triton`, by clients at once."""
    for name, figures in metrics.items():
        if not name.startswith("clients_"):
            continue
        rate = f"{figures['requests_per_s']:.1f} requests/s"
        if "tokens_per_s" in figures:
            rate = f"{figures['tokens_per_s']:.0f} tokens/s"
        clients = name.removeprefix("clients_")
        yield f"{clients} at once: {rate}, p99 {figures['latency_p99_ms']:.0f} ms"
    if metrics.get("chosen_delay_ms") is not None:
        yield f"chosen delay {metrics['chosen_delay_ms']:g} ms"


def _describe_speeds(metrics: Mapping[str, Any]) -> Iterator[str]:
    for name, figures in metrics.items():
        yield (
            f"{name}: prefill {figures['prefill_tokens_per_s']:.0f} tokens/s, decode "
            f"{figures['decode_tokens_per_s']:.1f} ({figures['decode_speedup']:.2f} x), "
            f"{format_bytes(figures['added_rss_bytes'])} of memory"
        )


def _describe_evaluation(metrics: Mapping[str, Any]) -> Iterator[str]:
    if all(isinstance(value, dict) for value in metrics.values()):
        yield from _describe_nested(metrics)
    yield from _describe_load(metrics)
    if "kl_mean" in metrics:
        yield (
            f"KL {metrics['kl_mean']:.6f}{format_interval(metrics, 'kl_mean', 6)} "
            f"(p99 {metrics['kl_p99']:.4f}{format_interval(metrics, 'kl_p99', 4)})"
        )
    if "baseline_perplexity" in metrics:
        yield (
            f"perplexity {metrics['perplexity']:.3f} against {metrics['baseline_perplexity']:.3f} "
            f"({metrics['perplexity_increase_pct']:+.2f} %"
            f"{format_interval(metrics, 'perplexity_increase_pct', 2)})"
        )
    elif "perplexity" in metrics:
        yield f"perplexity {metrics['perplexity']:.3f}{format_interval(metrics, 'perplexity', 3)}"
    if "top1_agreement" in metrics:
        yield (
            f"top-1 agreement {100 * metrics['top1_agreement']:.2f} %"
            f"{format_interval(metrics, 'top1_agreement', 2, 100)}"
        )
    if "accuracy" in metrics:
        yield f"{100 * metrics['accuracy']:.1f} % of {metrics['num_items']} tasks right"
    if "agreement" in metrics:
        yield (
            f"baseline {100 * metrics['baseline_accuracy']:.1f} %, "
            f"agreement {100 * metrics['agreement']:.1f} %"
            f"{format_interval(metrics, 'agreement', 1, 100)}"
        )
    if "num_tokens" in metrics:
        yield f"{metrics['num_tokens']} tokens of {metrics['num_documents']} documents"


def _describe_tasks(metrics: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yields a task of lm_eval at a time; how large the errors are stands in the manifest."""
    for task, figures in metrics.items():
        shown = []
        for name, value in figures.items():
            if "_stderr" in name or name.startswith(("baseline_", "num_")):
                continue
            baseline = figures.get(f"baseline_{name}")
            beside = "" if baseline is None else f" (baseline {baseline:.4f})"
            shown.append(f"{name} {value:.4f}{beside}")
        yield f"{task} {', '.join(shown)}"


def _relative(path: Path) -> str:
    return os.path.relpath(path)
