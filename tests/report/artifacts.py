"""Writes whole artifacts with manifests as steps write them, figures chosen by the test."""

import json
from pathlib import Path
from typing import Any

from llmopt.artifacts.artifact import Artifact, describe_files
from llmopt.artifacts.digest import digest_value
from llmopt.artifacts.manifest import (
    InputRecord,
    LayerError,
    Manifest,
    StepRecord,
    content_digest,
)

KINDS = ("q", "k", "v", "o"), ("gate", "up", "down")
BASE = InputRecord(name="base", kind="checkpoint", origin="./model", digest="b" * 64)
CALIBRATION = InputRecord(
    name="calibration",
    kind="dataset",
    origin="set=apparel-ja samples=64 seq_len=512",
    digest="c" * 64,
)
HELDOUT = InputRecord(
    name="heldout", kind="dataset", origin="set=apparel-ja split=heldout", digest="d" * 64
)


def layer_names(num_blocks: int) -> list[str]:
    """Names the linear layers of a Llama."""
    return [
        f"model.layers.{block}.{part}.{kind}_proj"
        for block in range(num_blocks)
        for part, kinds in zip(("self_attn", "mlp"), KINDS, strict=True)
        for kind in kinds
    ]


def make_layers(num_blocks: int, *, loss: bool = True, shift_db: float = 0) -> list[LayerError]:
    """Makes an error ledger in which every layer has figures of its own."""
    return [
        LayerError(
            layer=name,
            loss=0.5 + index if loss else None,
            snr_db=45 - 0.37 * index + shift_db if loss else None,
            weight_mse=1e-5 * (1 + index),
            damp_percent=0.01 if loss else None,
        )
        for index, name in enumerate(layer_names(num_blocks))
    ]


def write_artifact(folder: Path, **fields: Any) -> Artifact:
    """Writes one artifact; `fields` go into its manifest, `files` are name → text."""
    folder.mkdir(parents=True)
    for name, text in fields.pop("files", {"notes.txt": "whole"}).items():
        (folder / name).write_text(text, encoding="utf-8")
    files = describe_files(folder)
    given: dict[str, Any] = {
        "kind": "evaluation",
        "content_digest": content_digest(files),
        "created": "2026-01-02T03:04:05+00:00",
        "recipe": "small",
        "step": StepRecord(id=folder.name, uses="eval.perplexity", version=1, settings={}),
        "inputs": {},
        "files": files,
        "tools": {"llmopt": "0.1.0", "torch": "2.13.0"},
        **fields,
    }
    given.setdefault("identity", digest_value([str(given["step"]), str(given["inputs"])]))
    Manifest(**given).write(folder)
    return Artifact.open(folder)


def write_quantized(folder: Path, num_blocks: int = 3, **fields: Any) -> Artifact:
    """Writes what `quantize.gptq` leaves, weights aside."""
    settings = {"bits": 4, "group_size": 128, "sym": True, "format": "gptq"}
    step = StepRecord(id=folder.name, uses="quantize.gptq", version=1, settings=settings)
    given: dict[str, Any] = {
        "kind": "quantized_checkpoint",
        "step": step,
        "inputs": {"model": BASE, "data": CALIBRATION},
        "files": {"config.json": json.dumps({"dtype": "bfloat16"}), "model.safetensors": "w" * 99},
        "metrics": {
            "weights_bytes": 5_000_000,
            "source_weights_bytes": 16_000_000,
            "calibration_tokens": 32768,
        },
        "layers": make_layers(num_blocks),
        "timings": {"prepare_s": 1.0, "quantize_s": 70.0, "total_s": 72.5},
        "peak_memory_bytes": 1_500_000_000,
        "machine": {"device": "cpu", "threads": "1"},
        **fields,
    }
    return write_artifact(folder, **given)


def measure(scale: float = 1.0, *, intervals: bool = True) -> dict[str, Any]:
    """Returns metrics as `eval.perplexity` with a baseline writes them, no categories."""
    metrics: dict[str, Any] = {
        "num_tokens": 4321,
        "num_documents": 12,
        "perplexity": 20.25 * scale,
        "baseline_perplexity": 20.0,
        "perplexity_increase_pct": 1.25 * scale,
        "kl_mean": 0.0123456 * scale,
        "kl_p99": 0.25 * scale,
        "top1_agreement": 0.9,
    }
    if intervals:
        for name in ("perplexity", "kl_mean"):
            metrics[f"{name}_ci"] = [0.9 * metrics[name], 1.1 * metrics[name]]
    return metrics


def write_gate(folder: Path, judged: Artifact, **fields: Any) -> Artifact:
    """Writes what `eval.gate` leaves: two categories, one of them with a Japanese name."""
    limit = {"max": 0.02, "min": None, "max_increase_pct": None}
    step = StepRecord(
        id=folder.name, uses="eval.gate", version=1, settings={"require": {"kl_mean": limit}}
    )
    model = InputRecord(
        name=judged.manifest.step.id,
        kind="quantized_checkpoint",
        digest=judged.manifest.identity,
    )
    few = {**measure(1.5), "kl_mean_ci": None}
    given: dict[str, Any] = {
        "step": step,
        "created": "2026-01-02T04:00:00+00:00",
        "inputs": {"model": model, "baseline": BASE, "data": HELDOUT},
        "metrics": {**measure(), "by_category": {"寸法表": measure(0.5), "tech-pack": few}},
        "timings": {"score_s": 44.0, "total_s": 45.0},
        "peak_memory_bytes": 900_000_000,
        **fields,
    }
    return write_artifact(folder, **given)


def write_run(folder: Path, num_blocks: int = 3) -> dict[str, Artifact]:
    """Writes a run's folder: a quantised checkpoint and its gate."""
    quantized = write_quantized(folder / "quantize", num_blocks)
    return {"quantize": quantized, "gate": write_gate(folder / "gate", quantized)}
