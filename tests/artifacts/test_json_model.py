"""Damaged JSON files beside artifacts: one line that says what is wrong, and the way out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llmopt.artifacts.deferred_build import read_deferred_build
from llmopt.artifacts.engine_description import read_engine_description
from llmopt.artifacts.manifest import read_manifest
from llmopt.artifacts.onnx_description import OnnxDescription, read_onnx_description
from llmopt.errors import InputError
from tests.engine.descriptions import describe

READERS: dict[str, Callable[[Path], object]] = {
    "onnx.json": read_onnx_description,
    "engine.json": read_engine_description,
    "deferred-build.json": read_deferred_build,
    "manifest.json": read_manifest,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"schema_version": 1, "mod', "no valid JSON (EOF while parsing a string"),
        (b"", "no valid JSON (EOF while parsing a value"),
        (b"\xff\xfe", "byte 0xff at offset 0 is not UTF-8"),
        (b"[]", "its contents are no JSON object, but list"),
        (b'{"schema_version": 2}', "schema_version is 2: input should be 1"),
    ],
    ids=["truncated", "empty", "no UTF-8", "list", "version"],
)
def test_a_damaged_file_is_named_with_its_fault(
    tmp_path: Path, name: str, content: bytes, fault: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        READERS[name](tmp_path)
    assert caught.value.message.startswith(f"{tmp_path / name} is not ")
    assert fault in caught.value.message
    assert "\n" not in caught.value.message
    assert "pydantic" not in caught.value.message
    assert "copy" in str(caught.value.remedy)


def test_many_faults_are_counted(tmp_path: Path) -> None:
    describe().write(tmp_path)
    path = tmp_path / "onnx.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, "opset": "x" * 99, "more": 1}), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_onnx_description(tmp_path)
    value = "'" + "x" * 39 + "…"
    assert f"opset is {value}: input should be a valid integer" in caught.value.message
    assert "more is not known to this version" in caught.value.message
    path.write_text("{}", encoding="utf-8")
    required = [name for name, field in OnnxDescription.model_fields.items() if field.is_required()]
    with pytest.raises(InputError, match="model_type is missing; task is missing") as caught:
        read_onnx_description(tmp_path)
    assert caught.value.message.endswith(f"{len(required) - 3} more faults")


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(InputError, match=r"manifest\.json is not a manifest .*: it is a folder"):
        read_manifest(tmp_path)
