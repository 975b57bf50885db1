"""A repository behind the real server: its environment made, its models loaded, stopped after."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from llmopt.artifacts.triton_description import REQUIREMENTS_NAME, TritonDescription
from llmopt.errors import CapabilityError
from llmopt.triton.backends import STAND_IN_REQUIREMENTS, STAND_INS, find_backend
from llmopt.triton.client import TritonClient
from llmopt.triton.cpu_configs import list_cpu_changes, make_cpu_config
from llmopt.triton.model_config import read_config
from llmopt.triton.model_environment import make_environment, read_requirements
from llmopt.triton.server import ServerOptions, TritonServer
from llmopt.triton.server_arguments import list_start_arguments

PYTHON_BACKENDS = ("python", "ensemble")  # what the pinned server runs


@dataclass(frozen=True)
class TrialOptions:
    """How a repository is served here.

    Attributes:
        log_path: What the server prints.
        timeout_s: Seconds that a model may take to load, and an answer to come.
    """

    log_path: Path
    timeout_s: float = 600.0


@dataclass(frozen=True)
class ServedRepository:
    """A repository whose models are loaded.

    Attributes:
        folder: Its own.
        description: Likewise.
        server: The running server.
        load_s: Seconds that loading its models took.
        overridden: Models that were loaded with another config than their file's → what differs.
        stand_ins: Backends that llmopt's own stand in for, since this server lacks them.
    """

    folder: Path
    description: TritonDescription
    server: TritonServer
    options: TrialOptions
    load_s: float
    overridden: Mapping[str, tuple[str, ...]]
    stand_ins: tuple[str, ...]

    def reload_engine(self, delay_us: int) -> None:
        """Loads an ensemble's engine again with another delay of dynamic batching.

        Args:
            delay_us: Microseconds that a request waits for others.
        """
        name = self.description.find_model("engine").name
        folder = self.folder / name
        config = make_cpu_config(folder) or _to_json(read_config(folder))
        config["dynamic_batching"] = {
            **config.get("dynamic_batching", {}), "max_queue_delay_microseconds": delay_us,
        }  # fmt: skip
        TritonClient.of(self.server, self.options.timeout_s).load(name, config)


@contextmanager
def serve_repository(
    folder: Path,
    description: TritonDescription,
    options: TrialOptions,
    report: Callable[[str], None],
) -> Iterator[ServedRepository]:
    """Starts the server over a repository and loads its models, for a `with` block.

    Args:
        folder: The repository; nothing is written into it.
        description: Its own.
        options: How it is served.
        report: Gets a sentence when something is about to take long.

    Raises:
        CapabilityError: No server is here, or it can't run this repository.
        InputError: The server refused the repository.
        RequestFailed: It refused a model; a kind of InputError.
    """
    check_servable_here(description)
    stand_ins = tuple(sorted({model.backend for model in description.models} & {*STAND_INS}))
    environment = make_environment(_list_requirements(folder, stand_ins), report)
    server_options = ServerOptions(
        explicit=True,
        backends={name: find_backend(name) for name in stand_ins},
        strict=False,  # the arguments say whether
        arguments=list_start_arguments(folder, description),
    )
    with TritonServer(folder, environment, options.log_path, server_options) as server:
        began = time.monotonic()
        overridden = _load_models(folder, description, server, options)
        load_s = time.monotonic() - began
        yield ServedRepository(folder, description, server, options, load_s, overridden, stand_ins)


def check_servable_here(description: TritonDescription) -> None:
    """Refuses what the server of this machine can't run.

    Raises:
        CapabilityError: It names the backend, or the engine, and why.
    """
    known = {*PYTHON_BACKENDS, *STAND_INS}
    for model in description.models:
        if model.backend not in known:
            raise CapabilityError(
                f"{model.name} runs in the {model.backend} backend; the server that can be had "
                f"here has {', '.join(sorted(known - {'ensemble'}))}",
                remedy=f"try the repository in NVIDIA's container {description.triton_release}",
            )
    if description.engine is not None:
        raise CapabilityError(
            f"{description.model_name} serves a {description.engine.backend} engine, which runs "
            "on a GPU",
            remedy="try the repository on a machine with a GPU that its engine is for",
        )


def describe_trial(
    overridden: Mapping[str, tuple[str, ...]], stand_ins: Iterable[str]
) -> list[str]:
    """Returns what a manifest says where a repository was not served as its files ask.

    Args:
        overridden: Models with another config than their file's → what differs.
        stand_ins: Backends that were not the server's own.
    """
    return [
        *(f"{name} was served {' and '.join(how)}" for name, how in overridden.items()),
        *(f"llmopt's Python model stood in for the {name} backend" for name in stand_ins),
    ]


def _load_models(
    folder: Path, description: TritonDescription, server: TritonServer, options: TrialOptions
) -> dict[str, tuple[str, ...]]:
    """Loads every model, an ensemble after its steps; returns those with another config."""
    client = TritonClient.of(server, options.timeout_s)
    overridden = {}
    for model in sorted(description.models, key=lambda each: each.backend == "ensemble"):
        client.load(model.name, make_cpu_config(folder / model.name))
        changes = list_cpu_changes(folder / model.name)
        if changes:
            overridden[model.name] = changes
    return overridden


def _list_requirements(folder: Path, stand_ins: Iterable[str]) -> tuple[str, ...]:
    """Lists what the models and backends need; without GPU the smaller onnxruntime does."""
    own = read_requirements(folder / REQUIREMENTS_NAME)
    own = tuple(re.sub(r"^onnxruntime-gpu\b", "onnxruntime", line) for line in own)
    needed = (line for name in stand_ins for line in STAND_IN_REQUIREMENTS[name])
    return (*own, *needed)


def _to_json(config: Any) -> dict[str, Any]:
    found: Mapping[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return dict(found)
