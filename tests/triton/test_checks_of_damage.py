"""Damaged JSON files: the checks raise nothing, and the real code loads what they accept."""

import copy
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.triton_description import read_triton_description
from llmopt.errors import InputError
from llmopt.triton.checks.ensemble_models import find_setting_faults
from llmopt.triton.checks.generate_models import find_generate_faults
from llmopt.triton.checks.python_models import find_python_faults
from llmopt.triton.checks.report import Fault, Finding
from llmopt.triton.checks.repository import read_repository
from llmopt.triton.checks.repository_check import GROUPS, REPOSITORY_CHECKS
from tests.triton import fake_python_backend
from tests.triton.good_repositories import WRITERS

REMOVED = object()
REPLACEMENTS: tuple[Any, ...] = (REMOVED, None, "damaged", [], {}, -1)
SETTINGS = (
    ("counter", "counter", "generation.json"),
    ("counter", "counter", "tokenizer.json"),
    ("ranker", "ranker_tokenizer", "settings.json"),
    ("ranker", "ranker_tokenizer", "tokenizer.json"),
    ("ranker", "ranker_postprocessor", "settings.json"),
    ("ranker", "ranker_postprocessor", "tokens.json"),
)
CODE = {
    "counter": "generate.model",
    "ranker_tokenizer": "ensemble.tokenizer_model",
    "ranker_postprocessor": "ensemble.postprocessor_model",
}
INSTANCE = {"model_instance_kind": "CPU", "model_instance_device_id": "0"}
Load = Callable[[str, Path], None]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a version folder with the code that is copied there."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake_python_backend)

    def load(model: str, folder: Path) -> None:
        code = importlib.import_module(f"llmopt.triton.runtime.{CODE[model]}")
        monkeypatch.setattr(code, "__file__", str(folder / "model.py"))
        instance = code.TritonPythonModel()
        instance.initialize(INSTANCE)
        if hasattr(instance, "finalize"):
            instance.finalize()

    return load


@pytest.mark.parametrize(("base", "model", "name"), SETTINGS)
def test_what_is_accepted_the_code_loads(
    base: str, model: str, name: str, tmp_path: Path, load: Load
) -> None:
    WRITERS[base](tmp_path)
    path = tmp_path / model / "1" / name
    num_refused = 0
    for place, damaged in damage(json.loads(path.read_text(encoding="utf-8"))):
        path.write_text(json.dumps(damaged), encoding="utf-8")
        repository = read_repository(tmp_path)
        check = find_generate_faults if base == "counter" else find_setting_faults
        found = list(check(repository, repository.models[model]))
        faults = [each for each in found if isinstance(each, Fault)]
        assert all(each.fix and each.allowed and each.file for each in faults)
        num_refused += bool(faults)
        if not faults:
            try:
                load(model, path.parent)
            except Exception as error:  # noqa: BLE001 - the test says which damage it was
                pytest.fail(f"{place} is accepted: {error!r}")
    assert num_refused > 4


@pytest.mark.parametrize("base", ["counter", "counter_engine", "ranker", "encoder", "engine"])
def test_no_damage_of_triton_json_ends_in_a_traceback(base: str, tmp_path: Path) -> None:
    WRITERS[base](tmp_path)
    path = tmp_path / "triton.json"
    named, told = [], []
    for place, damaged in damage(json.loads(path.read_text(encoding="utf-8")), sparse=True):
        path.write_text(json.dumps(damaged), encoding="utf-8")
        try:
            named += [place] if find_faults(tmp_path) else []
        except InputError as error:
            told.append((error.message, error.remedy))
    assert len(named) > 5
    assert len(told) > 20
    assert all("triton.json" in message and remedy for message, remedy in told)


def test_a_description_without_a_role_says_so(tmp_path: Path) -> None:
    WRITERS["counter"](tmp_path)
    described = read_triton_description(tmp_path).model_copy(update={"models": ()})
    with pytest.raises(InputError, match="names no model of role generate; shape generate has one"):
        described.find_model("generate")


@pytest.mark.parametrize("model", ["counter", "llm"])
@pytest.mark.parametrize("text", ["", "[", "[]", "null", "3", "{}", "[" * 100_000, "\ud800"])
def test_a_file_that_is_no_object_is_named(model: str, text: str, tmp_path: Path) -> None:
    WRITERS[model](tmp_path)
    name = "generation.json" if model == "counter" else "model.json"
    data = text.encode("utf-8", "surrogatepass")
    (tmp_path / model / "1" / name).write_bytes(data)
    assert f"{model}/1/{name}" in [fault.file for fault in find_faults(tmp_path)]


def find_faults(folder: Path) -> list[Fault]:
    """Runs all checks but those of the code, which take the most time and read no JSON."""
    repository = read_repository(folder)
    findings: list[Finding] = [each for check in REPOSITORY_CHECKS for each in check(repository)]
    for group in GROUPS:
        for check in set(group.checks) - {find_python_faults}:
            for model in group.choose_models(repository):
                findings += check(repository, model)
    return [each for each in findings if isinstance(each, Fault)]


def damage(data: Any, *, sparse: bool = False) -> Iterator[tuple[str, Any]]:
    """Yields where a document is damaged, and the document: each value removed and replaced.

    Args:
        data: The document.
        sparse: Whether each place gets one kind of damage, in turn, besides null.
    """
    for index, place in enumerate(_list_places(data)):
        kinds = (REMOVED, "damaged", [], {}, -1)
        for new in (None, kinds[index % len(kinds)]) if sparse else REPLACEMENTS:
            damaged = copy.deepcopy(data)
            *above, last = place
            inner = damaged
            for key in above:
                inner = inner[key]
            if new is REMOVED:
                del inner[last]
            else:
                inner[last] = new
            yield f"{place} as {'removed' if new is REMOVED else new!r}", damaged


def _list_places(data: Any) -> Iterator[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in list(items):
        yield (key,)
        if isinstance(value, dict | list):
            yield from ((key, *inner) for inner in _list_places(value))
