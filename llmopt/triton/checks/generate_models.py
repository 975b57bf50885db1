"""The model of shape generate: its settings, tokenizer and decoder against each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.triton_description import TritonDescription
from llmopt.triton.checks.json_file import read_json
from llmopt.triton.checks.onnx_signature import find_weight_faults
from llmopt.triton.checks.release import find_opset, get_release
from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel
from llmopt.triton.generate_model import GENERATE_INPUTS, SETTINGS_NAME

TOKENIZER_NAME = "tokenizer.json"


@dataclass(frozen=True)
class _Version:
    """One version of a generating model, and what generation.json says of it."""

    model: ServedModel
    number: int
    folder: Path
    settings: dict[str, Any]

    def fault(self, field: str, found: str, allowed: str, fix: str) -> Fault:
        """Writes a fault of generation.json."""
        return self.model.fault(field, found, allowed, fix, f"{self.number}/{SETTINGS_NAME}")


def find_generate_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges each version of a model that triton.json calls one of role generate."""
    description = repository.description
    if description is None or description.shape != "generate":
        return
    if model.name != description.find_model("generate").name:
        return
    yield from _find_input_faults(model)
    for number, folder in model.served_versions.items():
        settings = read_json(folder / SETTINGS_NAME)
        tokenizer = read_json(folder / TOKENIZER_NAME)
        for name, read in ((SETTINGS_NAME, settings), (TOKENIZER_NAME, tokenizer)):
            if not isinstance(read, dict):
                yield model.fault(
                    "", f"is {read}", "a JSON object is needed", "make the repository anew",
                    f"{number}/{name}",
                )  # fmt: skip
        if isinstance(settings, dict):
            version = _Version(model, number, folder, settings)
            yield from _find_limit_faults(version, description)
            yield from _find_decoder_faults(version, description)


def _find_input_faults(model: ServedModel) -> Iterator[Fault]:
    declared = {tensor.name: tensor for tensor in model.config.input}
    for spec in GENERATE_INPUTS:
        tensor = declared.get(spec.name)
        if tensor is not None and not tensor.optional:
            yield model.fault(
                f'input "{spec.name}".optional',
                "is false",
                "a request gives text_input or messages, and the rest as it likes",
                "set it to true",
            )


def _find_limit_faults(version: _Version, description: TritonDescription) -> Iterator[Fault]:
    running = version.settings.get("limits", {}).get("max_running")
    if running != description.max_batch_size:
        yield version.fault(
            "limits.max_running",
            f"is {running}",
            f"triton.json says {description.max_batch_size}",
            "make the repository anew for another batch",
        )
    context = version.settings.get("max_context", 0)
    positions = description.model.max_position_embeddings if description.model else context
    if context > positions:
        yield version.fault(
            "max_context", f"is {context}", f"the model has {positions} positions", "lower it"
        )


def _find_decoder_faults(version: _Version, description: TritonDescription) -> Iterator[Finding]:
    engine = description.engine
    decoder = version.settings.get("decoder")
    wanted = "onnxruntime" if engine is None else engine.backend
    if decoder != wanted:
        yield version.fault(
            "decoder",
            f'is "{decoder}"',
            f"triton.json describes what {wanted} runs",
            "make the repository anew",
        )
    path = version.folder / str(version.settings.get("model_file", ""))
    if not path.is_file():
        yield version.fault(
            "model_file",
            f'is "{path.name}"',
            f"a file of {version.number}/ is allowed",
            "put it there",
        )
    elif engine is None:
        yield from _find_graph_faults(version, path, description)
    else:
        if digest_file(path) != engine.sha256:
            yield version.fault(
                "model_file",
                "is another engine than triton.json describes (sha256 differs)",
                f"{engine.sha256[:12]}… is allowed",
                "make the repository anew from the engine",
            )
        yield Unchecked(f"{version.model.name}: loading its engine, which needs a GPU")


def _find_graph_faults(
    version: _Version, path: Path, description: TritonDescription
) -> Iterator[Fault]:
    file = f"{version.number}/{path.name}"
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        yield version.model.fault(
            "", f"is no ONNX model ({error})", "a ModelProto is allowed", "export anew", file
        )
        return
    yield from find_weight_faults(version.model, version.folder, file, proto)
    names = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    cache = [spec[key] for spec in version.settings["cache"] for key in ("name", "output")]
    missing = [name for name in ("input_ids", "logits", *cache) if name not in names]
    if missing:
        yield version.fault(
            "cache", f'names "{missing[0]}"', f"{file} has no such tensor", "export anew"
        )
    release = get_release(description)
    limit = release.environment_opset if release is not None else None
    opset = find_opset(proto)
    if limit is not None and opset > limit:
        yield version.model.fault(
            "opset_import",
            f"is {opset}",
            f"the newest onnxruntime for this release's Python takes up to {limit}",
            f"export with opset {limit}, or serve with a later release",
            file,
        )
