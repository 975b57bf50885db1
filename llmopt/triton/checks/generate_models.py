"""The model of shape generate: its settings, tokenizer and decoder against each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.triton_description import TritonDescription
from llmopt.triton.checks.generate_limits import find_limit_faults
from llmopt.triton.checks.json_file import read_contents
from llmopt.triton.checks.onnx_signature import find_weight_faults
from llmopt.triton.checks.release import find_opset, get_release
from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel
from llmopt.triton.checks.tokenizer_files import read_tokenizer
from llmopt.triton.generate_model import GENERATE_INPUTS
from llmopt.triton.generation_file import SETTINGS_NAME, GenerationFile
from llmopt.triton.runtime.generate.prompts import TEMPLATE_ERRORS, PromptEncoder

TOKENIZER_NAME = "tokenizer.json"


@dataclass(frozen=True)
class _Version:
    """One version of a generating model, and what generation.json says of it."""

    model: ServedModel
    number: int
    folder: Path
    settings: GenerationFile

    def fault(self, field: str, found: str, allowed: str, fix: str) -> Fault:
        """Writes a fault of generation.json."""
        return self.model.fault(field, found, allowed, fix, f"{self.number}/{SETTINGS_NAME}")


def find_generate_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges each version of a model that triton.json calls one of role generate."""
    description = repository.description
    if description is None or description.shape != "generate":
        return
    if model.name not in [each.name for each in description.models if each.role == "generate"]:
        return
    yield from _find_input_faults(model)
    for number, folder in model.served_versions.items():
        settings = read_contents(model, number, SETTINGS_NAME, GenerationFile)
        if isinstance(settings, list):
            yield from settings
            yield from _find_tokenizer_file_faults(model, number)
            continue
        version = _Version(model, number, folder, settings)
        yield from _find_tokenizer_faults(version)
        yield from find_limit_faults(model, number, settings, description)
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


def _find_tokenizer_file_faults(model: ServedModel, number: int) -> Iterator[Fault]:
    read = read_tokenizer(model.versions[number] / TOKENIZER_NAME)
    if isinstance(read, str):
        yield model.fault(
            "", f"is {read}", "a file of the tokenizers library is needed",
            "copy it from the checkpoint again", f"{number}/{TOKENIZER_NAME}",
        )  # fmt: skip


def _find_tokenizer_faults(version: _Version) -> Iterator[Finding]:
    settings, path = version.settings, version.folder / TOKENIZER_NAME
    read = read_tokenizer(path)
    if isinstance(read, str):
        yield from _find_tokenizer_file_faults(version.model, version.number)
        return
    if read.get_vocab_size() > settings.vocab_size:
        yield version.fault(
            "vocab_size",
            f"is {settings.vocab_size}",
            f"{TOKENIZER_NAME} has {read.get_vocab_size()} tokens",
            "put back the tokenizer and the settings of one model",
        )
    try:
        PromptEncoder(path, settings.chat_template, settings.template_values, 0, 0)
    except TEMPLATE_ERRORS as error:
        yield version.fault(
            "chat_template", f"can't be compiled ({error})", "a Jinja template is allowed",
            "mend it, or write null",
        )  # fmt: skip
    beyond = [token for token in settings.eos_token_ids if token >= settings.vocab_size]
    if beyond:
        yield version.fault(
            "eos_token_ids",
            f"holds {beyond[0]}",
            f"tokens below vocab_size {settings.vocab_size} are allowed",
            "correct it",
        )
    if not settings.eos_token_ids:
        name = version.model.name
        yield Unchecked(f"{name}: where answers end by themselves: eos_token_ids is empty")


def _find_decoder_faults(version: _Version, description: TritonDescription) -> Iterator[Finding]:
    engine, settings = description.engine, version.settings
    wanted = "onnxruntime" if engine is None else engine.backend
    if settings.decoder != wanted:
        yield version.fault(
            "decoder",
            f'is "{settings.decoder}"',
            f"triton.json describes what {wanted} runs",
            "make the repository anew",
        )
    path = version.folder / settings.model_file
    if not path.is_file():
        yield version.fault(
            "model_file",
            f'is "{settings.model_file}"',
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
    cache = [name for spec in version.settings.cache for name in (spec.name, spec.output)]
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
