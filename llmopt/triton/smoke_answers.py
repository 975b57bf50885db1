"""What a served repository answers to one prompt, by every way of asking, compared."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from llmopt.artifacts.triton_description import TritonDescription
from llmopt.errors import NumericalError
from llmopt.triton.client import TritonClient
from llmopt.triton.grpc_client import Array, GrpcClient
from llmopt.triton.model_config import ModelConfig
from llmopt.triton.server import TritonServer

JSON_DIGITS = 1e-6  # what a float32 may lose, relative to the largest, when JSON writes it


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
class Answer:
    """An answer that was the same by every way.

    Attributes:
        text: The generated text, or the outputs in JSON.
        whole_s: Seconds of the whole answer over HTTP.
        first_response_s: Seconds from a streaming request to its first response; None where
            nothing streams.
        checked: What was compared, a line each.
    """

    text: str
    whole_s: float
    first_response_s: float | None
    checked: tuple[str, ...]


def ask_generate(
    server: TritonServer, description: TritonDescription, expected: Expected, timeout_s: float
) -> Answer:
    """Asks for the greedy answer over HTTP at once, by server-sent events, and over gRPC.

    Raises:
        RequestFailed: The server refused a request.
        NumericalError: An answer is not the expected text.
    """
    model, prompt = description.model_name, description.prompt
    client = TritonClient.of(server, timeout_s)
    sampling = {"max_tokens": expected.max_tokens, "temperature": 0.0}
    began = time.monotonic()
    whole = client.generate(model, {"text_input": prompt, **sampling}).get("text_output", "")
    whole_s = time.monotonic() - began
    arrivals, parts = [], []
    began = time.monotonic()
    for event in client.generate_stream(model, {"text_input": prompt, "stream": True, **sampling}):
        arrivals.append(time.monotonic() - began)
        parts.append(event.get("text_output", ""))
    grpc_parts = _stream_over_grpc(server, model, prompt, sampling, timeout_s)
    answers = {"HTTP": whole, "server-sent events": "".join(parts), "gRPC": "".join(grpc_parts)}
    for way, answer in answers.items():
        if answer != expected.text:
            raise NumericalError(
                f"{model} answers {answer!r} over {way}; the model run directly gives "
                f"{expected.text!r} (greedy, {expected.max_tokens} tokens, prompt {prompt!r})",
                remedy="report this: the repository does not serve what was exported",
            )
    ways = f"HTTP, {len(parts)} server-sent events and {len(grpc_parts)} gRPC responses"
    line = f"the greedy answer over {ways} is that of the model run directly"
    return Answer(whole, whole_s, min(arrivals, default=None), (line,))


def _stream_over_grpc(
    server: TritonServer, model: str, prompt: str, sampling: Mapping[str, float], timeout_s: float
) -> list[str]:
    inputs = {
        "text_input": np.array([prompt]),
        "sampling_parameters": np.array([json.dumps(sampling)]),
        "stream": np.array([True]),
    }
    with GrpcClient(server.grpc_address, timeout_s) as client:
        responses = list(client.stream_infer(model, inputs))
    return [each["text_output"][0].decode() for each in responses if "text_output" in each]


def ask_ensemble(
    server: TritonServer,
    config: ModelConfig,
    prompt: str,
    expected: Expected,
    timeout_s: float,
) -> Answer:
    """Asks for one row's outputs over HTTP and gRPC.

    Args:
        server: It has the ensemble loaded.
        config: The ensemble's: one input, of text.
        prompt: That text.
        expected: What its outputs should be.
        timeout_s: Seconds that an answer may take.

    Raises:
        RequestFailed: The server refused a request.
        NumericalError: Outputs are missing, or differ from each other or from what was expected.
    """
    model: str = config.name
    (text_input,) = (tensor.name for tensor in config.input)
    began = time.monotonic()
    over_http = TritonClient.of(server, timeout_s).generate(model, {text_input: prompt})
    whole_s = time.monotonic() - began
    with GrpcClient(server.grpc_address, timeout_s) as grpc_client:
        over_grpc = grpc_client.infer(model, {text_input: np.array([[prompt]])})
    names = [output.name for output in config.output]
    for name in names:
        if name not in over_grpc or name not in over_http:  # the server itself does not mind
            raise NumericalError(f"{model} answers without its output {name}")
        array = over_grpc[name]
        tolerance = JSON_DIGITS * _largest(array)
        _compare(model, name, "HTTP and gRPC", np.array(over_http[name]), array, tolerance)
    for name, array in expected.outputs.items():
        way = "gRPC and the model run directly"
        _compare(model, name, way, over_grpc[name], array, expected.tolerance)
    checked = [f"{', '.join(names)}: over HTTP as over gRPC"]
    if expected.outputs:
        compared = ", ".join(expected.outputs)
        checked.append(f"{compared}: as the model run directly, within {expected.tolerance:g}")
    text = json.dumps({name: over_http[name] for name in names}, ensure_ascii=False)
    return Answer(text, whole_s, None, tuple(checked))


def _largest(array: Array) -> float:
    return float(np.abs(array).max(initial=1.0)) if array.dtype.kind == "f" else 1.0


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
