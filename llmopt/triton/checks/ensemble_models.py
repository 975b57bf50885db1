"""Tokenizer and postprocessor of llmopt's ensembles: their settings against triton.json."""

from collections.abc import Iterator
from typing import Any

from llmopt.artifacts.triton_description import ModelRole, TritonDescription
from llmopt.triton.checks.json_file import read_json
from llmopt.triton.checks.report import Fault, Finding
from llmopt.triton.checks.repository import Repository, ServedModel
from llmopt.triton.ensemble_repository import SETTINGS_NAME, TOKENS_NAME


def find_setting_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges settings.json and what it names, where a version holds one."""
    description = repository.description
    if description is None or description.shape != "ensemble":
        return
    roles: dict[str, ModelRole] = {each.name: each.role for each in description.models}
    for version, folder in model.served_versions.items():
        if not (folder / SETTINGS_NAME).exists():
            continue
        settings = read_json(folder / SETTINGS_NAME)
        if not isinstance(settings, dict):
            yield _fault(model, version, "", f"is {settings}", "a JSON object is needed")
        elif roles.get(model.name) == "tokenizer":
            yield from _find_tokenizer_faults(model, version, settings, description)
        elif roles.get(model.name) == "postprocessor":
            yield from _find_postprocessor_faults(model, version, settings, description)


def _fault(
    model: ServedModel, version: int, field: str, found: str, allowed: str,
    name: str = SETTINGS_NAME,
) -> Fault:  # fmt: skip
    return model.fault(field, found, allowed, "make the repository anew", f"{version}/{name}")


def _find_tokenizer_faults(
    model: ServedModel, version: int, settings: dict[str, Any], description: TritonDescription
) -> Iterator[Fault]:
    outputs = [tensor.name for tensor in model.config.output]
    if sorted(settings.get("outputs", [])) != sorted(outputs):
        yield _fault(
            model,
            version,
            "outputs",
            f"is {settings.get('outputs')}",
            f"config.pbtxt says {outputs}",
        )
    if settings.get("buckets") != list(description.buckets):
        yield _fault(
            model,
            version,
            "buckets",
            f"is {settings.get('buckets')}",
            f"triton.json says {list(description.buckets)}",
        )
    name = str(settings.get("tokenizer"))
    if not (model.versions[version] / name).exists():
        yield _fault(
            model,
            version,
            "tokenizer",
            f'is "{name}"',
            f"a file or folder of {version}/ is allowed",
        )


def _find_postprocessor_faults(
    model: ServedModel, version: int, settings: dict[str, Any], description: TritonDescription
) -> Iterator[Fault]:
    if settings.get("task") != description.task:
        yield _fault(
            model, version, "task", f'is "{settings.get("task")}"',
            f'triton.json says "{description.task}"',
        )  # fmt: skip
    if description.task == "embed" or description.model is None:
        return
    texts = read_json(model.versions[version] / TOKENS_NAME)
    if not isinstance(texts, list):
        yield _fault(model, version, "", f"is {texts}", "a JSON list is needed", TOKENS_NAME)
    elif len(texts) != description.model.vocab_size:
        yield _fault(
            model,
            version,
            "",
            f"has {len(texts)} texts",
            f"the model's {description.model.vocab_size} tokens have one each",
            TOKENS_NAME,
        )
