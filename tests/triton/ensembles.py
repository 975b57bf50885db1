"""Small models of each ensemble task, and their repositories."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmopt.artifacts.engine_description import EngineDescription
from llmopt.artifacts.engine_settings import EngineSettings
from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.optimization_profile import AxisRange, OptimizationProfile
from llmopt.artifacts.triton_description import TritonDescription
from llmopt.triton.backends import find_backend
from llmopt.triton.ensemble_repository import EnsemblePlan, write_ensemble
from llmopt.triton.releases import find_release
from llmopt.triton.repository import ServingOptions
from tests.export.encoders import export_bert, make_bert
from tests.export.exports import export
from tests.models import TINY_MODEL

BACKEND = find_backend("onnxruntime")
MAX_BATCH_SIZE = 8
BUCKETS = (8, 16, 32)


def make_plan(
    folder: Path, task: str, *, weights: str = "plain", dtype: str = "float32", **fields: Any
) -> EnsemblePlan:
    """Makes a small model in a folder and exports it for a task; returns how it is served.

    Args:
        folder: Is made.
        task: Of the ensemble.
        weights: Of an encoder's export; likewise `dtype`.
        fields: Of the plan, where they are to be others.
    """
    folder.mkdir()
    source = folder / "onnx"
    if task == "score":
        tokenizer = TINY_MODEL
        exported = export(tokenizer, source, kv_cache=False, last_token_logits=True)
        description = exported.description
    else:
        tokenizer = make_bert(folder / "model")
        fills = task == "fill_mask"
        description = export_bert(
            tokenizer,
            source,
            "fill_mask" if fills else "embed",
            weights=weights,  # type: ignore[arg-type]
            dtype=dtype,  # type: ignore[arg-type]
            masked_positions=fills,
        )
    plan = EnsemblePlan(
        task=task,  # type: ignore[arg-type]
        source=source,
        model=description,
        engine=None,
        tokenizer=tokenizer,
        max_batch_size=MAX_BATCH_SIZE,
        max_queue_delay_us=1000,
        buckets=BUCKETS,
        threads=1,
    )
    return replace(plan, **fields)


def make_options(name: str, **fields: Any) -> ServingOptions:
    """Returns options to serve a model of this name on the CPU."""
    return replace(
        ServingOptions(model_name=name, version=1, version_policy="latest", device="cpu"), **fields
    )


def write(repository: Path, plan: EnsemblePlan, name: str, **options: Any) -> TritonDescription:
    """Writes an ensemble for 24.10."""
    return write_ensemble(repository, plan, make_options(name, **options), find_release("24.10"))


def describe_engine(
    model: OnnxDescription, lengths: Iterable[tuple[int, int]], backend: str = "tensorrt"
) -> EngineDescription:
    """Describes an engine with a profile for each range of lengths, up to the batch size."""
    batch = AxisRange(min=1, opt=MAX_BATCH_SIZE, max=MAX_BATCH_SIZE)
    return EngineDescription(
        backend=backend,  # type: ignore[arg-type]
        tensorrt_version="10.5.0",
        compute_capabilities=("8.9",),
        model=model,
        profiles=tuple(
            OptimizationProfile(
                name=f"rows_{last}",
                axes={"batch": batch, "sequence": AxisRange(min=first, opt=last, max=last)},
            )
            for first, last in lengths
        ),
        settings=EngineSettings(),
        onnx_sha256="a" * 64,
        weights_sha256=None,
        engine_sha256="b" * 64,
    )
