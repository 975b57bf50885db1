"""Tries a repository with the real server: one prompt over HTTP, gRPC and streaming."""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.triton_description import REQUIREMENTS_NAME, TritonDescription
from llmopt.errors import CapabilityError
from llmopt.triton.backends import STAND_IN_REQUIREMENTS, STAND_INS, find_backend
from llmopt.triton.client import TritonClient
from llmopt.triton.cpu_configs import make_cpu_config
from llmopt.triton.model_config import read_config
from llmopt.triton.model_environment import make_environment, read_requirements
from llmopt.triton.server import ServerOptions, TritonServer
from llmopt.triton.server_distribution import SERVER_RELEASE
from llmopt.triton.smoke_answers import Answer, Expected, ask_ensemble, ask_generate

PYTHON_BACKENDS = ("python", "ensemble")  # what the pinned server runs
CACHE_BYTES = 16 << 20


@dataclass(frozen=True)
class SmokeOptions:
    """How a repository is tried.

    Attributes:
        log_path: What the server prints.
        on_cpu: Whether models meant for GPUs are loaded on the CPU, by override.
        timeout_s: Seconds that a model may take to load, and an answer to come.
    """

    log_path: Path
    on_cpu: bool = True
    timeout_s: float = 600.0


@dataclass(frozen=True)
class SmokeReport:
    """A repository that answered.

    Attributes:
        answer: What it answered, and how long that took.
        server_release: Of the server that it was tried with.
        load_s: Seconds that loading its models took.
        overridden: Models that were loaded with another config than their file's.
        stand_ins: Backends that llmopt's own stood in for, since this server lacks them.
    """

    answer: Answer
    server_release: str
    load_s: float
    overridden: tuple[str, ...]
    stand_ins: tuple[str, ...]


def smoke_repository(
    folder: Path,
    description: TritonDescription,
    expected: Expected,
    options: SmokeOptions,
    report: Callable[[str], None],
) -> SmokeReport:
    """Starts the server over a repository, asks it, compares its answers, and stops it.

    Args:
        folder: The repository; nothing is written into it.
        description: Its own.
        expected: What the served model answers when it is run directly.
        options: How to try it.
        report: Gets a sentence when something is about to take long.

    Raises:
        CapabilityError: No server is here, or it can't run this repository.
        InputError: The server refused the repository.
        RequestFailed: It refused a model or the request; a kind of InputError.
        NumericalError: Its answers differ from each other or from what was expected.
    """
    check_smoke(description, options)
    stand_ins = tuple(sorted({model.backend for model in description.models} & {*STAND_INS}))
    environment = make_environment(_list_requirements(folder, stand_ins, options), report)
    server_options = ServerOptions(
        explicit=True,
        backends={name: find_backend(name) for name in stand_ins},
        arguments=_cache_arguments(folder, description),
    )
    with TritonServer(folder, environment, options.log_path, server_options) as server:
        began = time.monotonic()
        overridden = _load_models(folder, description, server, options)
        load_s = time.monotonic() - began
        if description.shape == "generate":
            answer = ask_generate(server, description, expected, options.timeout_s)
        else:
            config = read_config(folder / description.model_name)
            answer = ask_ensemble(server, config, description.prompt, expected, options.timeout_s)
    return SmokeReport(answer, SERVER_RELEASE, load_s, overridden, stand_ins)


def check_smoke(description: TritonDescription, options: SmokeOptions) -> None:
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
    if description.engine is not None and options.on_cpu:
        raise CapabilityError(
            f"{description.model_name} serves a {description.engine.backend} engine, which runs "
            "on a GPU",
            remedy="try the repository on a machine with a GPU that its engine is for",
        )


def _load_models(
    folder: Path, description: TritonDescription, server: TritonServer, options: SmokeOptions
) -> tuple[str, ...]:
    """Loads every model, an ensemble after its steps; returns those with another config."""
    client = TritonClient.of(server, options.timeout_s)
    overridden = []
    for model in sorted(description.models, key=lambda each: each.backend == "ensemble"):
        config = make_cpu_config(folder / model.name) if options.on_cpu else None
        client.load(model.name, config)
        if config is not None:
            overridden.append(model.name)
    return tuple(overridden)


def _list_requirements(
    folder: Path, stand_ins: Iterable[str], options: SmokeOptions
) -> tuple[str, ...]:
    """Lists what the models and backends need; without GPU the smaller onnxruntime does."""
    own = read_requirements(folder / REQUIREMENTS_NAME)
    if options.on_cpu:
        own = tuple(re.sub(r"^onnxruntime-gpu\b", "onnxruntime", line) for line in own)
    needed = (line for name in stand_ins for line in STAND_IN_REQUIREMENTS[name])
    return (*own, *needed)


def _cache_arguments(folder: Path, description: TritonDescription) -> tuple[str, ...]:
    configs = [read_config(folder / model.name) for model in description.models]
    if any(config.response_cache.enable for config in configs):
        return (f"--cache-config=local,size={CACHE_BYTES}",)
    return ()
