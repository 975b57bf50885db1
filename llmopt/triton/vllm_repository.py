"""The repository of a checkpoint that Triton's vllm backend serves: its config and model.json.

Inputs and outputs are those that the backend adds itself (vllm_backend, src/model.py, of release
26.x); written out, so that a server without auto-complete knows them. In older releases the backend
knows fewer and never asks for the rest, which are optional.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue
from tritonclient.grpc import model_config_pb2 as pb

from llmopt.artifacts.tensor_spec import make_spec
from llmopt.checkpoint.sidecar_files import list_sidecars
from llmopt.checkpoint.weights_index import INDEX_NAME, list_weight_files
from llmopt.triton.model_config import make_config, write_config
from llmopt.triton.repository import (
    ServingOptions,
    add_parameters,
    add_version_policy,
    make_model_folders,
    place_file,
)

ENGINE_ARGS_NAME = "model.json"
CHECKPOINT_NAME = "checkpoint"  # in the version folder; vLLM reads it by the server's path
VLLM_INPUTS = (
    make_spec("text_input", "string", one=1),
    make_spec("stream", "bool", one=1),
    make_spec("sampling_parameters", "string", one=1),
    make_spec("exclude_input_in_output", "bool", one=1),
)
REQUIRED = ("text_input",)
VLLM_OUTPUTS = (make_spec("text_output", "string", many=-1),)
BITSANDBYTES_LEFT = (0, 28)  # the version of vLLM whose core no longer holds it


def write_vllm(
    repository: Path,
    checkpoint: Path,
    engine_args: Mapping[str, JsonValue],
    options: ServingOptions,
    server_path: str,
) -> None:
    """Writes the model's folder: config.pbtxt, model.json and the checkpoint's files.

    Args:
        repository: Where it goes.
        checkpoint: A folder with config.json, weights and tokenizer.
        engine_args: Of vLLM's engine, beside the model's path.
        options: Its name, version and parameters; vLLM places it itself.
        server_path: Where the repository is mounted on the server.
    """
    folder, version_folder = make_model_folders(repository, options.model_name, options.version)
    target = version_folder / CHECKPOINT_NAME
    copy_checkpoint(checkpoint, target)
    path = f"{server_path.rstrip('/')}/{target.relative_to(repository).as_posix()}"
    text = json.dumps({"model": path, **engine_args}, indent=1, ensure_ascii=False)
    (version_folder / ENGINE_ARGS_NAME).write_text(text + "\n", encoding="utf-8")
    config = make_config(options.model_name, "vllm", 0, VLLM_INPUTS, VLLM_OUTPUTS)
    for tensor in config.input:
        tensor.optional = tensor.name not in REQUIRED
    config.model_transaction_policy.decoupled = True
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_MODEL)
    add_version_policy(config, options)
    add_parameters(config, options, is_python=False)
    write_config(folder, config)


def copy_checkpoint(checkpoint: Path, target: Path) -> None:
    """Puts a checkpoint's weights, config, tokenizer and code into a new folder.

    Weights alone are linked: who edits a small file of a checkpoint edits it in place.
    """
    target.mkdir()
    names = (checkpoint / name for name in ("config.json", INDEX_NAME))
    beside = [path for path in names if path.exists()]
    for path in list_weight_files(checkpoint):
        place_file(path, target / path.name)
    for path in (*beside, *list_sidecars(checkpoint), *checkpoint.glob("*.py")):
        shutil.copyfile(path, target / path.name)


def require_bitsandbytes(vllm_version: str) -> str:
    """Names the package that a vLLM needs beside itself for checkpoints of bitsandbytes."""
    major, minor = (int(part) for part in vllm_version.split(".")[:2])
    return "vllm-bnb-plugin==0.0.3" if (major, minor) >= BITSANDBYTES_LEFT else "bitsandbytes"
