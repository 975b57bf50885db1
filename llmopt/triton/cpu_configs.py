"""Configs that let a repository meant for GPUs be loaded on a CPU, its files unchanged."""

from pathlib import Path
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb

from llmopt.triton.model_config import ModelConfig, read_config
from llmopt.triton.repository import ENVIRONMENT_KEY


def make_cpu_config(folder: Path) -> dict[str, Any] | None:
    """Returns a model's config for a CPU and this machine's Python, in the JSON of a load request.

    Instances on GPUs become instances on the CPU. A path of the server's Python environment is
    left out, since it is of the machine that the repository is for.

    Args:
        folder: The model's.

    Returns:
        None where the model loads on a CPU as it is.

    Raises:
        InputError: There is no config.pbtxt, or it is none.
    """
    if not list_cpu_changes(folder):
        return None
    config = read_config(folder)
    _move_to_cpu(config)
    config.parameters.pop(ENVIRONMENT_KEY, None)
    made: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return made


def list_cpu_changes(folder: Path) -> tuple[str, ...]:
    """Returns in words what `make_cpu_config` changes; empty where it changes nothing.

    Args:
        folder: The model's.

    Raises:
        InputError: There is no config.pbtxt, or it is none.
    """
    config = read_config(folder)
    changes = []
    if any(group.kind == pb.ModelInstanceGroup.KIND_GPU for group in config.instance_group):
        changes.append("on the CPU, not on a GPU")
    if ENVIRONMENT_KEY in config.parameters:
        changes.append(f"in an environment made here, not in its {ENVIRONMENT_KEY}")
    return tuple(changes)


def _move_to_cpu(config: ModelConfig) -> None:
    for group in config.instance_group:
        if group.kind == pb.ModelInstanceGroup.KIND_GPU:
            group.kind = pb.ModelInstanceGroup.KIND_CPU
            group.gpus.clear()
            group.secondary_devices.clear()
