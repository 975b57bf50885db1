"""The run of `bench.triton`; imports protobuf, so only the step's `run()` imports it."""

import json
from collections.abc import Mapping
from dataclasses import replace

from pydantic import JsonValue

from llmopt.artifacts.triton_description import read_triton_description
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.bench_triton import BenchTriton
from llmopt.triton.load import OpenAsker, ask_generating, ask_once, put_load
from llmopt.triton.served_repository import (
    ServedRepository,
    TrialOptions,
    describe_trial,
    serve_repository,
)
from llmopt.triton.server_distribution import SERVER_RELEASE

SENTENCE = "袖口はリブ編み、身幅は±1cm、素材は綿100%。裏地の縫製仕様を書いてください。"
TEXTS = tuple((SENTENCE * 4)[: 8 + 8 * index] for index in range(16))
WARM_UP_S = 1.0
RESULTS_NAME, TABLE_NAME = "results.json", "bench.md"
US_PER_MS = 1000
COLUMNS = {
    "requests_per_s": "requests/s", "tokens_per_s": "tokens/s", "latency_p50_ms": "p50 ms",
    "latency_p99_ms": "p99 ms", "first_token_p50_ms": "first token p50 ms",
    "first_token_p99_ms": "first token p99 ms", "failed_requests": "failed",
}  # fmt: skip
Levels = dict[str, dict[str, float]]


def run_triton_bench(step: BenchTriton, inputs: StepInputs, context: RunContext) -> Outcome:
    """Measures at every number of clients, and for an ensemble with every delay."""
    folder = inputs["repository"].path
    description = read_triton_description(folder)
    num_loads = max(len(step.delays_ms), 1) * len(step.clients)
    context.progress.start("asking the server", num_loads)
    context.scratch_folder.mkdir(parents=True, exist_ok=True)
    options = TrialOptions(context.scratch_folder / "server.log")
    with serve_repository(folder, description, options, context.progress.note) as served:
        degraded = describe_trial(served.overridden, served.stand_ins)
        if step.delays_ms:
            outcome = _try_delays(step, served, context, degraded)
        else:
            levels = _measure(step, served, context, degraded)
            _write_results(context, json.dumps(levels, indent=1), write_table(levels))
            outcome = Outcome(metrics=_list_metrics(levels))
    return replace(
        outcome,
        degraded=[*degraded, *outcome.degraded],
        machine={"tritonserver": SERVER_RELEASE},
    )


def _try_delays(
    step: BenchTriton, served: ServedRepository, context: RunContext, degraded: list[str]
) -> Outcome:
    """Measures with every delay; the figures are those of the one that is chosen."""
    found: dict[float, Levels] = {}
    for delay in step.delays_ms:
        served.reload_engine(round(delay * US_PER_MS))
        found[delay] = _measure(step, served, context, degraded)
    chosen = choose_delay(found, step.latency_budget_ms)
    headline, lateness = choose_headline(found, chosen, step.latency_budget_ms)
    named = {f"{delay:g} ms": levels for delay, levels in found.items()}
    tables = (f"delay {name}\n\n{write_table(levels)}" for name, levels in named.items())
    _write_results(context, json.dumps(named, indent=1), "\n\n".join(tables))
    return Outcome(
        metrics={**_list_metrics(found[headline]), "chosen_delay_ms": chosen}, degraded=lateness
    )


def choose_delay(found: Mapping[float, Levels], budget_ms: float | None) -> float | None:
    """Returns the delay with the most requests per second at the most clients.

    Args:
        found: Delay in ms → clients → figures.
        budget_ms: What the p99 at every number of clients may be; None for anything.

    Returns:
        None where no delay keeps the budget.
    """
    kept = {
        delay: list(levels.values())[-1]["requests_per_s"]
        for delay, levels in found.items()
        if budget_ms is None or all(f["latency_p99_ms"] <= budget_ms for f in levels.values())
    }
    return max(kept, key=lambda delay: kept[delay]) if kept else None


def choose_headline(
    found: Mapping[float, Levels], chosen: float | None, budget_ms: float | None
) -> tuple[float, list[str]]:
    """Returns the delay whose figures are reported, and what makes them less than was asked.

    Args:
        found: Delay in ms → clients → figures.
        chosen: As `choose_delay` says; where it is None, the one with the lowest p99 at its worst
            number of clients stands in.
        budget_ms: What no delay keeps then.
    """
    if chosen is not None:
        return chosen, []
    assert budget_ms is not None, "any delay keeps no budget"
    quickest = min(found, key=lambda delay: _worst_p99_ms(found[delay]))
    return quickest, [
        f"no delay keeps latency_budget_ms {budget_ms:g}; the figures are those of {quickest:g} ms,"
        f" whose p99 is the lowest, {_worst_p99_ms(found[quickest]):g} ms"
    ]


def write_table(levels: Levels) -> str:
    """Returns a Markdown table: a row for each number of clients."""
    names = [name for name in COLUMNS if any(name in figures for figures in levels.values())]
    lines = [["clients", *(COLUMNS[name] for name in names)], ["---"] * (len(names) + 1)]
    for level, figures in levels.items():
        lines.append([level.removeprefix("clients_"), *(f"{figures[n]:g}" for n in names)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _measure(
    step: BenchTriton, served: ServedRepository, context: RunContext, degraded: list[str]
) -> Levels:
    """Measures at every number of clients; notes in `degraded` what was not answered."""
    open_asker = _choose_asker(step, served)
    texts = step.texts or TEXTS
    put_load(open_asker, texts, 1, min(WARM_UP_S, step.seconds))
    levels: Levels = {}
    for clients in step.clients:
        result = put_load(open_asker, texts, clients, step.seconds)
        levels[f"clients_{clients}"] = result.summarise()
        if result.failures:
            asked = len(result.failures) + len(result.timings)
            degraded.append(
                f"{len(result.failures)} of {asked} requests of {clients} clients failed: "
                f"{result.failures[0]}"
            )
        context.progress.advance()
    return levels


def _choose_asker(step: BenchTriton, served: ServedRepository) -> OpenAsker:
    name = served.description.model_name
    if served.description.shape == "generate":
        return ask_generating(served.server, name, step.max_tokens)
    return ask_once(served.server, name, "text_input")


def _worst_p99_ms(levels: Levels) -> float:
    return max(figures["latency_p99_ms"] for figures in levels.values())


def _scale(levels: Levels) -> float:
    first, *_ = levels.values()
    last = list(levels.values())[-1]
    rate = "tokens_per_s" if "tokens_per_s" in first else "requests_per_s"
    return round(last[rate] / first[rate], 3)


def _list_metrics(levels: Levels) -> dict[str, JsonValue]:
    return {**{name: {**figures} for name, figures in levels.items()}, "scaling": _scale(levels)}


def _write_results(context: RunContext, results: str, table: str) -> None:
    (context.work_folder / RESULTS_NAME).write_text(results + "\n", encoding="utf-8")
    (context.work_folder / TABLE_NAME).write_text(table + "\n", encoding="utf-8")
