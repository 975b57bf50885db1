"""The manifest: what an artifact holds, how it was made and what was measured on the way."""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from llmopt.artifacts.digest import digest_entries
from llmopt.artifacts.files import write_text_atomically
from llmopt.artifacts.json_model import read_json_model
from llmopt.artifacts.secrets import redact_leaves
from llmopt.errors import InputError

MANIFEST_NAME = "manifest.json"
ArtifactKind = Literal[
    "quantized_checkpoint",
    "evaluation",
    "onnx_model",
    "tensorrt_engine",
    "triton_repository",
    "deferred_build",
]
StarvedTreatment = Literal["rtn", "all_tokens"]
StarvedPolicy = Literal[StarvedTreatment, "fail"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class FileEntry(_Frozen):
    """One file of the artifact; `path` is POSIX and relative to the artifact's folder."""

    path: str
    size: int
    sha256: str


class LayerError(_Frozen):
    """One row of a quantisation's error ledger.

    Attributes:
        layer: The linear layer's name in the checkpoint.
        loss: Mean squared error of the layer's output per calibration token, summed over
            output features: tr((W-Q) H (W-Q)^T) with H = X^T X / tokens. None where no
            calibration data was given. With `asymmetric_strength` W is what was aimed at
            (docs/adr/0011), so that it does not compare with that of plain GPTQ.
        snr_db: Power of the layer's output over that error, in decibels.
        weight_mse: Mean squared error of the weights themselves.
        bits: Width of its integers.
        damp_percent: The damping used, as a fraction of the Hessian's mean diagonal.
        damp_retries: How often damping had to be raised before H was positive definite.
        num_tokens: Calibration tokens that were routed to the expert; None outside a mixture.
        starved: What was done with an expert that saw too few of them; None for all others.
    """

    layer: str
    loss: float | None
    snr_db: float | None
    weight_mse: float
    damp_percent: float | None = None
    damp_retries: int = 0
    bits: int | None = None
    num_tokens: int | None = None
    starved: StarvedTreatment | None = None


class InputRecord(_Frozen):
    """What a step read: its name in the recipe, its kind, where it came from, its digest.

    `digest` names what it was meant to be; `content`, for another step's output, the bytes that
    lay there.
    """

    name: str
    kind: str
    origin: str = ""
    digest: str
    content: str | None = None


class StepRecord(_Frozen):
    """The step that made the artifact, with every setting resolved."""

    id: str
    uses: str
    version: int
    settings: dict[str, JsonValue]
    overrides: list[str] = []


class Manifest(_Frozen):
    """The contents of `manifest.json`.

    `identity` names the work (settings, inputs, versions); `content_digest` names the bytes
    that came out. Timings are seconds. `peak_memory_bytes` is the resident peak of the process
    up to then, earlier steps of the same run included. `machine` says what it was computed on.
    """

    schema_version: Literal[1] = 1
    kind: ArtifactKind
    identity: str
    content_digest: str
    created: str
    recipe: str | None = None
    step: StepRecord
    inputs: dict[str, InputRecord]
    files: list[FileEntry]
    metrics: dict[str, JsonValue] = {}
    layers: list[LayerError] = []
    timings: dict[str, float] = {}
    peak_memory_bytes: int | None = None
    machine: dict[str, str] = {}
    tools: dict[str, str] = {}
    degraded: list[str] = []

    def write(self, folder: Path) -> None:
        """Writes `manifest.json` into `folder`, secrets blotted out."""
        data = self.model_dump(mode="json")
        # Only what a user wrote: kinds, digests and names of files must stay as they are.
        written = [(data, "recipe"), (data, "degraded")]
        written += [(data["step"], key) for key in ("id", "settings", "overrides")]
        written += [(given, key) for given in data["inputs"].values() for key in ("name", "origin")]
        for record, key in written:
            record[key] = redact_leaves(record[key])
        text = json.dumps(data, indent=1, ensure_ascii=False)
        write_text_atomically(folder / MANIFEST_NAME, text + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Reads an artifact's manifest.

    Raises:
        InputError: There is none, or it is not one that this version can read.
    """
    path = folder / MANIFEST_NAME
    what = "a manifest of llmopt (schema version 1)"
    remedy = "copy the artifact again, or make it anew: run its step with --force"
    try:
        return read_json_model(path, Manifest, what, remedy)
    except FileNotFoundError:
        raise InputError(f"{folder} holds no {MANIFEST_NAME}") from None


def content_digest(files: list[FileEntry]) -> str:
    """Returns the digest of an artifact's bytes: names and contents, nothing of when or where."""
    return digest_entries({entry.path: entry.sha256 for entry in files})
