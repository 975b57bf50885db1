"""Small repositories of Python models that show what a server does, without llmopt's writers."""

import shutil
from pathlib import Path

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
