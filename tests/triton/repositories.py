"""Small repositories of Python models that show what a server does, without llmopt's writers."""

import shutil
from pathlib import Path
from typing import Any

from llmopt.artifacts.triton_description import (
    RepositoryModel,
    RepositoryShape,
    TritonDescription,
)
from llmopt.triton.shared_memory import SHARED_MEMORY

MODELS = Path(__file__).parent / "models"
ECHO = """
name: "echo"
backend: "python"
max_batch_size: 4
input [
  { name: "numbers" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "texts" data_type: TYPE_STRING dims: [ 1 ] }
]
output [
  { name: "doubled" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "same" data_type: TYPE_STRING dims: [ 1 ] }
]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
SPELL = """
name: "spell"
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "part" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
parameters { key: "notes" value { string_value: "NOTES" } }
"""
VERSION = """
name: "NAME"
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "version" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
MEASURE = """
name: "measure"
backend: "python"
max_batch_size: 4
input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [
  { name: "sizes" data_type: TYPE_FP32 dims: [ 2 ] },
  { name: "first" data_type: TYPE_STRING dims: [ 1 ] }
]
instance_group [ { kind: KIND_GPU gpus: [ 0 ] } ]
response_cache { enable: true }
"""
ENSEMBLE = """
name: "whole"
platform: "ensemble"
max_batch_size: 4
input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] } ]
output [
  { name: "embedding" data_type: TYPE_FP32 dims: [ 2 ] },
  { name: "first" data_type: TYPE_STRING dims: [ 1 ] }
]
ensemble_scheduling {
  step [ {
    model_name: "measure"
    model_version: -1
    input_map { key: "text" value: "text_input" }
    output_map { key: "sizes" value: "embedding" }
    output_map { key: "first" value: "first" }
  } ]
}
"""
NEGATE = """
name: "negate"
backend: "onnxruntime"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
ENSEMBLE_WITH_NEGATE = ENSEMBLE.replace(
    'key: "sizes" value: "embedding"', 'key: "sizes" value: "sizes"'
).replace(
    "step [ {",
    """step [ {
    model_name: "negate"
    model_version: -1
    input_map { key: "x" value: "sizes" }
    output_map { key: "y" value: "embedding" }
  }, {""",
)


def add_model(repository: Path, name: str, config: str, code: str, version: str = "1") -> Path:
    """Writes a model of the repository; returns its folder.

    Args:
        repository: Made if need be.
        name: The folder's.
        config: Of config.pbtxt.
        code: A file in tests/triton/models.
        version: The version folder's name.
    """
    folder = repository / name
    (folder / version).mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    shutil.copyfile(MODELS / code, folder / version / "model.py")
    return folder


def describe_repository(
    shape: RepositoryShape, models: tuple[RepositoryModel, ...], **fields: Any
) -> TritonDescription:
    """Writes the description of a test's repository, whose first model is the one that is asked."""
    return TritonDescription(
        shape=shape,
        model_name=models[0].name,
        models=models,
        triton_release="24.10",
        prompt="シャツの前立て",
        **{"task": "embed", "device": "cpu", "max_batch_size": 4, **fields},
    )


def list_regions(pid: int) -> list[Path]:
    """Returns the shared memory that a server has opened."""
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    return [region for region in SHARED_MEMORY.iterdir() if str(region) in maps]
