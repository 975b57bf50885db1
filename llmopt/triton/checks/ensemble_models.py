"""Tokenizer and postprocessor of llmopt's ensembles: their settings against triton.json."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.triton_description import ModelRole, TritonDescription
from llmopt.triton.checks.json_file import ANEW, read_contents, read_json, shorten
from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel
from llmopt.triton.checks.tokenizer_files import find_why_not_open, read_tokenizer
from llmopt.triton.ensemble_files import (
    SETTINGS_NAME,
    TOKENS_NAME,
    PostprocessorFile,
    TokenizerFile,
    choose_padding_side,
)

# Outputs that have a value for each of the tokens that are returned.
TOKEN_OUTPUTS = ("tokens", "token_ids", "logprobs")


@dataclass(frozen=True)
class _Version:
    """One version of a model, and what the repository says of itself."""

    model: ServedModel
    number: int
    description: TritonDescription

    @property
    def folder(self) -> Path:
        """Holds the files."""
        return self.model.versions[self.number]

    def fault(self, field: str, found: str, allowed: str, name: str = SETTINGS_NAME) -> Fault:
        """Writes a fault of one of its files."""
        return self.model.fault(field, found, allowed, ANEW, f"{self.number}/{name}")


def find_setting_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges settings.json and what it names."""
    description = repository.description
    if description is None or description.shape != "ensemble":
        return
    roles: dict[str, ModelRole] = {each.name: each.role for each in description.models}
    for number in model.served_versions:
        version = _Version(model, number, description)
        if roles.get(model.name) == "tokenizer":
            settings = read_contents(model, number, SETTINGS_NAME, TokenizerFile)
            if isinstance(settings, list):
                yield from settings
                continue
            yield from _find_tokenizer_faults(version, settings)
            yield from _find_padding_faults(version, settings)
            yield from _find_mask_faults(version, settings)
            yield from _find_loading_faults(version, settings)
        elif roles.get(model.name) == "postprocessor":
            yield from _find_postprocessor_faults(version)


def _find_tokenizer_faults(version: _Version, settings: TokenizerFile) -> Iterator[Fault]:
    outputs = [tensor.name for tensor in version.model.config.output]
    if sorted(settings.outputs) != sorted(outputs):
        yield version.fault(
            "outputs", f"is {list(settings.outputs)}", f"config.pbtxt says {outputs}"
        )
    buckets = list(version.description.buckets)
    if list(settings.buckets) != buckets:
        yield version.fault(
            "buckets", f"is {list(settings.buckets)}", f"triton.json says {buckets}"
        )


def _find_padding_faults(version: _Version, settings: TokenizerFile) -> Iterator[Fault]:
    task, model = version.description.task, version.description.model
    if task != "generate" and settings.padding_side != choose_padding_side(task):
        yield version.fault(
            "padding_side",
            f'is "{settings.padding_side}"',
            f'task {task} of triton.json takes "{choose_padding_side(task)}"',
        )
    if model is not None and settings.pad_id >= model.vocab_size:
        yield version.fault(
            "pad_id",
            f"is {settings.pad_id}",
            f"tokens below the model's vocab_size {model.vocab_size} are allowed",
        )


def _find_mask_faults(version: _Version, settings: TokenizerFile) -> Iterator[Fault]:
    fills = version.description.task == "fill_mask"
    for name in ("mask_id", "mask_token"):
        value = getattr(settings, name)
        if fills != (value is not None):
            yield version.fault(
                name,
                f"is {shorten(value)}",
                "task fill_mask looks for it" if fills else "only task fill_mask has one: null",
            )
    path = version.folder / settings.tokenizer
    read = read_tokenizer(path) if path.is_file() else ""
    if isinstance(read, str) or settings.mask_token is None or settings.mask_id is None:
        return
    known = read.token_to_id(settings.mask_token)
    if known != settings.mask_id:
        yield version.fault(
            "mask_id",
            f"is {settings.mask_id}",
            f"{settings.tokenizer} has {shorten(known)} for {settings.mask_token}",
        )


def _find_loading_faults(version: _Version, settings: TokenizerFile) -> Iterator[Finding]:
    path = version.folder / settings.tokenizer
    if not path.exists():
        yield version.fault(
            "tokenizer",
            f'is "{settings.tokenizer}"',
            f"a file or folder of {version.number}/ is allowed",
        )
        return
    try:
        reason = find_why_not_open(path)
    except ImportError as error:
        yield Unchecked(f"{version.model.name}: loading its tokenizer: {error}")
        return
    if reason is not None:
        yield version.fault("", f"is {reason}", "one that loads is needed", settings.tokenizer)


def _find_postprocessor_faults(version: _Version) -> Iterator[Fault]:
    description = version.description
    settings = read_contents(version.model, version.number, SETTINGS_NAME, PostprocessorFile)
    if isinstance(settings, list):
        yield from settings
    else:
        if settings.task != description.task:
            yield version.fault(
                "task", f'is "{settings.task}"', f'triton.json says "{description.task}"'
            )
        yield from _find_count_faults(version, settings.num_tokens)
    if description.task != "embed" and description.model is not None:
        yield from _find_text_faults(version, description.model.vocab_size)


def _find_count_faults(version: _Version, num_tokens: int) -> Iterator[Fault]:
    for tensor in version.model.config.output:
        if tensor.name in TOKEN_OUTPUTS and list(tensor.dims) != [num_tokens]:
            yield version.fault(
                "num_tokens",
                f"is {num_tokens}",
                f'output "{tensor.name}" of config.pbtxt has dims {list(tensor.dims)}',
            )
            return


def _find_text_faults(version: _Version, vocab_size: int) -> Iterator[Fault]:
    texts = read_json(version.folder / TOKENS_NAME)
    if not isinstance(texts, list):
        found = "JSON of dict" if isinstance(texts, dict) else texts
        yield version.fault("", f"is {found}", "a JSON list is needed", TOKENS_NAME)
        return
    if len(texts) != vocab_size:
        yield version.fault(
            "", f"has {len(texts)} texts", f"the model's {vocab_size} tokens have one each",
            TOKENS_NAME,
        )  # fmt: skip
    wrong = [index for index, text in enumerate(texts) if not _is_text(text)]
    if wrong:
        yield version.fault(
            str(wrong[0]), f"is {shorten(texts[wrong[0]])}", "a text is allowed", TOKENS_NAME
        )


def _is_text(value: object) -> bool:
    """Tells whether a value is a text that UTF-8 can hold, so without half a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)
