"""generation.json against what the writer would say of the model and engine in triton.json."""

from collections.abc import Iterator
from dataclasses import dataclass

from llmopt.artifacts.triton_description import TRITON_DESCRIPTION_NAME, TritonDescription
from llmopt.errors import IncompatibleError
from llmopt.triton.checks.json_file import ANEW, shorten
from llmopt.triton.checks.report import Fault
from llmopt.triton.checks.repository import ServedModel
from llmopt.triton.generate_model import (
    GenerateSettings,
    PromptFields,
    check_generates,
    fill_file,
)
from llmopt.triton.generation_file import SETTINGS_NAME, GenerationFile

# Fields that follow from the model and the engine alone.
DERIVED = ("session_options", "cache", "profiles", "vocab_size")


@dataclass(frozen=True)
class _Judged:
    """What stands in a version's generation.json, and what the writer would write there."""

    model: ServedModel
    version: int
    found: GenerationFile
    planned: GenerationFile

    def fault(self, field: str, found: str, allowed: str, fix: str) -> Fault:
        """Writes a fault of generation.json."""
        return self.model.fault(field, found, allowed, fix, f"{self.version}/{SETTINGS_NAME}")


def find_limit_faults(
    model: ServedModel, version: int, found: GenerationFile, description: TritonDescription
) -> Iterator[Fault]:
    """Judges sizes and limits, where the description names a model."""
    running = found.limits.max_running
    if running != description.max_batch_size:
        yield model.fault(
            "limits.max_running",
            f"is {running}",
            f"triton.json says {description.max_batch_size}",
            "make the repository anew for another batch",
            f"{version}/{SETTINGS_NAME}",
        )
    if description.model is None:
        return
    planned = _plan(model, found, description)
    if isinstance(planned, Fault):
        yield planned
        return
    judged = _Judged(model, version, found, planned)
    yield from _find_derived_faults(judged)
    yield from _find_context_faults(judged, description.model.max_position_embeddings)
    yield from _find_prefill_faults(judged)


def _plan(
    model: ServedModel, found: GenerationFile, description: TritonDescription
) -> GenerationFile | Fault:
    """Returns what the writer makes of the description; what is a choice is taken as found."""
    engine, exported = description.engine, description.model
    assert exported is not None
    settings = GenerateSettings(
        model=exported,
        model_file=found.model_file,
        decoder="onnxruntime" if engine is None else engine.backend,
        profiles=() if engine is None else engine.profiles,
        max_running=description.max_batch_size,
        max_waiting=found.limits.max_waiting,
        default_max_tokens=found.default_max_tokens,
        threads=found.threads,
        warm_up=found.warm_up,
    )
    try:
        check_generates(settings)
        return fill_file(settings, PromptFields())
    except IncompatibleError as error:
        fix = error.remedy or ANEW
        return Fault(
            model.name, TRITON_DESCRIPTION_NAME, "model" if engine is None else "engine",
            f"describes none that generates text so ({error.message})",
            "the one that was packaged is allowed", fix,
        )  # fmt: skip


def _find_derived_faults(judged: _Judged) -> Iterator[Fault]:
    found, planned = (each.model_dump(mode="json") for each in (judged.found, judged.planned))
    for name in DERIVED:
        if found[name] != planned[name]:
            yield judged.fault(
                name,
                f"is {shorten(found[name])}",
                f"triton.json's {'engine' if name == 'profiles' else 'model'} has "
                f"{shorten(planned[name])}",
                ANEW,
            )


def _find_context_faults(judged: _Judged, positions: int) -> Iterator[Fault]:
    found, planned = judged.found, judged.planned
    if found.max_context > planned.max_context:
        limits = f"the engine's profiles take {planned.max_context} tokens"
        if planned.max_context == positions:
            limits = f"the model has {positions} positions"
        yield judged.fault("max_context", f"is {found.max_context}", limits, "lower it")
    longest = min(planned.max_prompt_tokens, found.max_context - 1)
    if found.max_prompt_tokens > longest:
        yield judged.fault(
            "max_prompt_tokens",
            f"is {found.max_prompt_tokens}",
            f"up to {longest} run at once and leave room for an answer",
            "lower it",
        )


def _find_prefill_faults(judged: _Judged) -> Iterator[Fault]:
    most, rows = (each.limits.max_prefill_rows for each in (judged.planned, judged.found))
    if most is not None and (rows is None or rows > most):
        yield judged.fault(
            "limits.max_prefill_rows",
            f"is {shorten(rows)}",
            f"the engine's profiles take {most} prompts at once",
            "lower it",
        )
