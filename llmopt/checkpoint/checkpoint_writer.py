"""Writes a quantised checkpoint: untouched tensors copied, packed ones in the originals' place."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmopt.checkpoint.checkpoint import IGNORED_SUFFIXES, Checkpoint
from llmopt.checkpoint.quant_plan import OUTPUT_WEIGHT
from llmopt.checkpoint.safetensors_header import TensorEntry, read_header
from llmopt.checkpoint.sidecar_files import list_sidecars
from llmopt.checkpoint.tensor_files import copy_tensors
from llmopt.checkpoint.weights_index import INDEX_NAME, SINGLE_NAME

MAX_SHARD_BYTES = 5_000_000_000


def write_quantized_checkpoint(
    source: Checkpoint,
    packed: Mapping[str, TensorEntry],
    quantization_config: Mapping[str, Any],
    folder: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes weights, config, tokenizer and generation config of a quantised model.

    Args:
        source: The original checkpoint.
        packed: Where the packed tensors of every layer that was rounded lie.
        quantization_config: Goes into config.json, and for GPTQ into quantize_config.json.
        folder: The (existing) folder to write into.
        max_shard_bytes: Weights beyond this size are split into several files.
    """
    replaced = {f"{name.rpartition('.')[0]}.weight" for name in packed}
    kept = {
        name: entry
        for name, entry in source.tensors.items()
        if name not in replaced and not name.endswith(IGNORED_SUFFIXES)
    }
    if source.config.tie_word_embeddings:
        kept.pop(OUTPUT_WEIGHT, None)
    _write_weights({**kept, **packed}, folder, max_shard_bytes)
    write_model_files(source, quantization_config, folder)
    if quantization_config["quant_method"] == "gptq":
        _write_json(folder / "quantize_config.json", dict(quantization_config))


def write_model_files(
    source: Checkpoint, quantization_config: Mapping[str, Any], folder: Path
) -> None:
    """Writes what stands beside the weights: config.json, and the original's tokenizer files."""
    config = {**source.config.raw, "quantization_config": dict(quantization_config)}
    _write_json(folder / "config.json", config)
    for path in list_sidecars(source.folder):
        shutil.copyfile(path, folder / path.name)


def write_weights_index(folder: Path) -> None:
    """Writes the index of a folder's safetensors files, where there is more than one."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return
    headers = {path.name: read_header(path) for path in files}
    weight_map = {tensor: name for name, entries in headers.items() for tensor in entries}
    total = sum(entry.num_bytes for entries in headers.values() for entry in entries.values())
    _write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_weights(entries: Mapping[str, TensorEntry], folder: Path, max_bytes: int) -> None:
    shards = list(_plan_shards(entries, max_bytes))
    if len(shards) == 1:
        copy_tensors(shards[0], folder / SINGLE_NAME)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        copy_tensors(shard, folder / name)
        weight_map.update(dict.fromkeys(shard, name))
    total = sum(entry.num_bytes for entry in entries.values())
    _write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _plan_shards(
    entries: Mapping[str, TensorEntry], max_bytes: int
) -> Iterator[dict[str, TensorEntry]]:
    shard: dict[str, TensorEntry] = {}
    shard_bytes = 0
    for name in sorted(entries, key=_natural_key):
        if shard and shard_bytes + entries[name].num_bytes > max_bytes:
            yield shard
            shard, shard_bytes = {}, 0
        shard[name] = entries[name]
        shard_bytes += entries[name].num_bytes
    yield shard


def _natural_key(name: str) -> list[str]:
    """Sorts `layers.2` before `layers.10`."""
    return [part.zfill(8) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
