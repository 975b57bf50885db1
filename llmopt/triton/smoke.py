"""Tries a repository with the real server: one prompt over HTTP, gRPC and streaming."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llmopt.artifacts.triton_description import REQUIREMENTS_NAME, TritonDescription
from llmopt.errors import CapabilityError, NumericalError
from llmopt.triton.client import TritonClient
from llmopt.triton.cpu_configs import make_cpu_config
from llmopt.triton.grpc_client import Array, GrpcClient
from llmopt.triton.model_config import read_config
from llmopt.triton.model_environment import make_environment, read_requirements
from llmopt.triton.server import ServerOptions, TritonServer
from llmopt.triton.server_distribution import SERVER_RELEASE

PYTHON_BACKENDS = ("python", "ensemble")  # what the pinned server runs
CACHE_BYTES = 16 << 20
JSON_TOLERANCE = 1e-5  # a float32 is written to JSON with 9 digits


@dataclass(frozen=True)
class Expected:
    """What the artifact answers to the description's prompt when it is run directly.

    Attributes:
        text: Of shape generate: the greedy answer, `max_tokens` long.
        max_tokens: Tokens of it.
        outputs: Of shape ensemble: outputs by name, with a batch of 1; those not named are only
            compared between HTTP and gRPC.
        tolerance: Greatest absolute difference of floating-point outputs.
    """

    text: str = ""
    max_tokens: int = 16
    outputs: Mapping[str, Array] = field(default_factory=dict)
    tolerance: float = 1e-3


@dataclass(frozen=True)
class SmokeOptions:
    """How a repository is tried.

    Attributes:
        log_path: What the server prints.
        backends: Backends beside python that the server gets: name → folder.
        on_cpu: Whether models meant for GPUs are loaded on the CPU, by override.
        load_timeout_s: Seconds that one model may take to load.
    """

    log_path: Path
    backends: Mapping[str, Path] = field(default_factory=dict)
    on_cpu: bool = True
    load_timeout_s: float = 600.0


@dataclass(frozen=True)
class SmokeReport:
    """A repository that answered.

    Attributes:
        answer: The text, or the outputs in JSON.
        server_release: Of the server that it was tried with.
        load_s: Seconds that loading its models took.
        first_response_s: Seconds from a streaming request to its first response; None where
            nothing streams.
        answer_s: Seconds of the whole answer over HTTP.
        overridden: Models that were loaded with another config than their file's.
        checked: What was compared, a line each.
    """

    answer: str
    server_release: str
    load_s: float
    first_response_s: float | None
    answer_s: float
    overridden: tuple[str, ...]
    checked: tuple[str, ...]


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
    requirements = _read_own_requirements(folder)
    environment = make_environment(requirements, report)
    server_options = ServerOptions(
        explicit=True, backends=options.backends, arguments=_cache_arguments(folder, description)
    )
    with TritonServer(folder, environment, options.log_path, server_options) as server:
        began = time.monotonic()
        overridden = _load_models(folder, description, server, options)
        load_s = time.monotonic() - began
        if description.shape == "generate":
            tried = _try_generate(server, description, expected)
        else:
            tried = _try_ensemble(server, folder, description, expected)
    return SmokeReport(
        answer=tried.answer,
        server_release=SERVER_RELEASE,
        load_s=load_s,
        first_response_s=tried.first_response_s,
        answer_s=tried.answer_s,
        overridden=overridden,
        checked=tried.checked,
    )


def check_smoke(description: TritonDescription, options: SmokeOptions) -> None:
    """Refuses what the server of this machine can't run.

    Raises:
        CapabilityError: It names the backend, or the engine, and why.
    """
    known = {*PYTHON_BACKENDS, *options.backends}
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


@dataclass(frozen=True)
class _Tried:
    answer: str
    answer_s: float
    first_response_s: float | None
    checked: tuple[str, ...]


def _try_generate(
    server: TritonServer, description: TritonDescription, expected: Expected
) -> _Tried:
    """Asks for the greedy answer in three ways."""
    model, prompt = description.model_name, description.prompt
    client = TritonClient.of(server)
    sampling = {"max_tokens": expected.max_tokens, "temperature": 0.0}
    began = time.monotonic()
    whole = client.generate(model, {"text_input": prompt, **sampling})["text_output"]
    answer_s = time.monotonic() - began
    first_response_s = None
    parts = []
    began = time.monotonic()
    for event in client.generate_stream(model, {"text_input": prompt, "stream": True, **sampling}):
        first_response_s = first_response_s or time.monotonic() - began
        parts.append(event["text_output"])
    inputs = {
        "text_input": np.array([prompt]),
        "sampling_parameters": np.array([json.dumps(sampling)]),
        "stream": np.array([True]),
    }
    with GrpcClient(server.grpc_address) as grpc_client:
        responses = list(grpc_client.stream_infer(model, inputs))
    over_grpc = "".join(response["text_output"][0].decode() for response in responses)
    answers = {"HTTP": whole, "server-sent events": "".join(parts), "gRPC": over_grpc}
    for way, answer in answers.items():
        if answer != expected.text:
            raise NumericalError(
                f"{model} answers {answer!r} over {way}; the model run directly gives "
                f"{expected.text!r} (greedy, {expected.max_tokens} tokens, prompt {prompt!r})",
                remedy="report this: the repository does not serve what was exported",
            )
    ways = f"HTTP, {len(parts)} server-sent events and {len(responses)} gRPC responses"
    line = f"the greedy answer over {ways} is that of the model run directly"
    return _Tried(whole, answer_s, first_response_s, (line,))


def _try_ensemble(
    server: TritonServer, folder: Path, description: TritonDescription, expected: Expected
) -> _Tried:
    """Asks for one row's outputs over HTTP and gRPC."""
    model = description.model_name
    (text_input,) = (tensor.name for tensor in read_config(folder / model).input)
    began = time.monotonic()
    over_http = TritonClient.of(server).generate(model, {text_input: description.prompt})
    answer_s = time.monotonic() - began
    with GrpcClient(server.grpc_address) as grpc_client:
        over_grpc = grpc_client.infer(model, {text_input: np.array([[description.prompt]])})
    for name, array in over_grpc.items():
        _compare(model, name, "HTTP and gRPC", np.array(over_http[name]), array, JSON_TOLERANCE)
    for name, array in expected.outputs.items():
        way = "gRPC and the model run directly"
        _compare(model, name, way, over_grpc[name], array, expected.tolerance)
    answer = {name: over_http[name] for name in over_grpc}
    checked = [f"{', '.join(over_grpc)} over HTTP are those over gRPC"]
    if expected.outputs:
        checked.append(
            f"{', '.join(expected.outputs)} are those of the model run directly, "
            f"within {expected.tolerance:g}"
        )
    return _Tried(json.dumps(answer, ensure_ascii=False), answer_s, None, tuple(checked))


def _compare(model: str, name: str, ways: str, a: Array, b: Array, tolerance: float) -> None:
    """Compares two forms of one output: texts and integers exactly, floats within a tolerance."""
    a, b = _decode(a).ravel(), _decode(b).ravel()
    if a.shape != b.shape:
        raise NumericalError(f"{model}: {name} has {a.size} values and {b.size} by {ways}")
    if b.dtype.kind == "f":
        difference = float(np.abs(a.astype(np.float64) - b).max(initial=0.0))
        is_same = difference <= tolerance
        words = f"differs by {difference:.3g} between {ways}, allowed is {tolerance:g}"
    else:
        is_same = bool((a == b).all())
        words = f"is {a.tolist()} and {b.tolist()} by {ways}"
    if not is_same:
        raise NumericalError(f"{model}: {name} {words}")


def _decode(array: Array) -> Array:
    if array.dtype.kind not in "OSU":
        return array
    texts = (each.decode() if isinstance(each, bytes) else str(each) for each in array.ravel())
    return np.array(list(texts), dtype=object)


def _load_models(
    folder: Path, description: TritonDescription, server: TritonServer, options: SmokeOptions
) -> tuple[str, ...]:
    """Loads every model, an ensemble after its steps; returns those with another config."""
    client = TritonClient.of(server, options.load_timeout_s)
    overridden = []
    for model in sorted(description.models, key=lambda each: each.backend == "ensemble"):
        config = make_cpu_config(folder / model.name) if options.on_cpu else None
        client.load(model.name, config)
        if config is not None:
            overridden.append(model.name)
    return tuple(overridden)


def _read_own_requirements(folder: Path) -> tuple[str, ...]:
    """Reads what the models need, onnxruntime without its GPU part."""
    lines = read_requirements(folder / REQUIREMENTS_NAME)
    return tuple(re.sub(r"^onnxruntime-gpu\b", "onnxruntime", line) for line in lines)


def _cache_arguments(folder: Path, description: TritonDescription) -> tuple[str, ...]:
    configs = [read_config(folder / model.name) for model in description.models]
    if any(config.response_cache.enable for config in configs):
        return (f"--cache-config=local,size={CACHE_BYTES}",)
    return ()
