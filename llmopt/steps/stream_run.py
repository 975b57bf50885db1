"""The run of every streamed quantisation; imports torch, so only a step's `run()` imports it."""

import importlib.metadata
import json
import time
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import JsonValue

from llmopt.artifacts.manifest import LayerError
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.checkpoint_writer import write_model_files, write_weights_index
from llmopt.checkpoint.weights_index import INDEX_NAME, SINGLE_NAME
from llmopt.quant.stream_shards import StreamJob, group_by_file, stream_shards
from llmopt.quant.weight_codec import WeightCodec
from llmopt.steps.base import Outcome, RunContext
from llmopt.steps.device import describe_device
from llmopt.steps.stream_fields import StreamFields, list_written


def run_stream(
    step: StreamFields,
    checkpoint: Checkpoint,
    codec: WeightCodec,
    quantization_config: Mapping[str, Any],
    device: torch.device,
    context: RunContext,
) -> Outcome:
    """Quantises every shard and writes the checkpoint.

    Raises:
        InputError: A tensor is NaN or infinite, or a file ends too early.
    """
    started = time.perf_counter()
    workers = step.count_workers(context.threads)
    journal = stream_shards(
        StreamJob(
            shards=_name_shards(checkpoint),
            rounded=step.select_weights(checkpoint),
            codec=codec,
            made_by=_describe_maker(step, device),
            scratch=context.scratch_folder,
            workers=workers,
            progress=context.progress,
        )
    )
    quantized = time.perf_counter()
    journal.publish(context.work_folder)
    write_weights_index(context.work_folder)
    write_model_files(checkpoint, quantization_config, context.work_folder)
    written = time.perf_counter()
    size_bytes = sum(path.stat().st_size for path in context.work_folder.glob("*.safetensors"))
    return Outcome(
        metrics={
            "weights_bytes": size_bytes,
            "source_weights_bytes": checkpoint.weight_bytes(),
            **_find_worst(journal.errors),
        },
        layers=journal.errors,
        machine={**describe_device(device), "threads": "1", "workers": str(workers)},
        timings={
            "quantize_s": round(quantized - started, 3),
            "write_s": round(written - quantized, 3),
        },
    )


def _name_shards(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the tensors of each file to write: the source's files, or the one usual name."""
    shards = group_by_file(list_written(checkpoint))
    if (checkpoint.folder / INDEX_NAME).exists() and len(shards) > 1:
        return dict(shards)
    (only,) = shards.values()
    return {SINGLE_NAME: only}


def _describe_maker(step: StreamFields, device: torch.device) -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in step.identity_packages()}
    settings = json.dumps(step.identity_settings(), sort_keys=True)
    version = str(step.step_version)
    return {
        "step": step.type_name,
        "version": version,
        "settings": settings,
        "device": device.type,
        "processor": describe_device(device)["name"],
        **packages,
    }


def _find_worst(errors: list[LayerError]) -> dict[str, JsonValue]:
    worst = max(errors, key=lambda error: error.weight_mse)
    return {"highest_weight_mse": worst.weight_mse, "highest_weight_mse_layer": worst.layer}
