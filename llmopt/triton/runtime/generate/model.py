"""Triton's Python backend: requests in, answers out; the work is the scheduler's."""

import json
import logging
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from .generation import Generation, Limits
from .prompts import PromptEncoder
from .responses import ResponseListener, ResponseThread
from .sampling import RequestError, SamplingParameters, read_parameters
from .scheduler import QueueFullError, Scheduler
from .sessions import open_decoder

MAX_PARAMETERS_BYTES = 65536
logger = logging.getLogger(__name__)


class TritonPythonModel:
    """One instance: a decoder, its queue and its thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads what lies beside this file."""
        here = Path(__file__).parent
        settings = json.loads((here / "generation.json").read_text(encoding="utf-8"))
        self._settings = settings
        self._max_context = int(settings["max_context"])
        self._encoder = PromptEncoder(
            here / "tokenizer.json",
            settings["chat_template"],
            settings["template_values"],
            settings["max_prompt_bytes"],
            settings["max_prompt_tokens"],
        )
        decoder = open_decoder(here, settings, args)
        self._scheduler = Scheduler(decoder, Limits(**settings["limits"]))
        self._responses = ResponseThread()

    def execute(self, requests: list[Any]) -> None:
        """Queues requests; a bad one is answered at once."""
        for request in requests:
            listener = ResponseListener(request.get_response_sender(), self._responses)
            try:
                self._scheduler.submit(self._read_request(request, listener))
            except RequestError as error:
                listener.send_error(str(error), pb_utils.TritonError.INVALID_ARG)
            except QueueFullError as error:
                listener.send_error(str(error), pb_utils.TritonError.UNAVAILABLE)
            except Exception as error:
                logger.exception("a request could not be read")
                listener.send_error(f"the request could not be read: {error}")

    def finalize(self) -> None:
        """Ends the threads; what was said is sent before."""
        self._scheduler.close()
        self._responses.close()

    def _read_request(self, request: Any, listener: ResponseListener) -> Generation:
        prompt = self._read_prompt(request)
        stream = _read_input(request, "stream")
        return Generation(
            prompt=prompt,
            parameters=self._read_parameters(request, len(prompt)),
            streams=stream is not None and bool(stream),
            eos_tokens=frozenset(self._settings["eos_token_ids"]),
            vocab_size=int(self._settings["vocab_size"]),
            tokenizer=self._encoder.tokenizer,
            listener=listener,
        )

    def _read_prompt(self, request: Any) -> list[int]:
        text, messages = (_read_input(request, name) for name in ("text_input", "messages"))
        if (text is None) == (messages is None):
            raise RequestError("give one of text_input and messages")
        if text is not None:
            return self._encoder.encode_text(text)
        return self._encoder.encode_chat(messages)

    def _read_parameters(self, request: Any, num_prompt: int) -> SamplingParameters:
        """Reads `sampling_parameters` (JSON), and what /generate's body says beside the inputs."""
        given = _load_object("the request's parameters", request.parameters() or "{}")
        raw = _read_input(request, "sampling_parameters")
        if raw is not None:
            given.update(_load_object("sampling_parameters", raw))
        left = self._max_context - num_prompt
        default = min(int(self._settings["default_max_tokens"]), left)
        parameters = read_parameters(given, default)
        if parameters.max_tokens > left:
            raise RequestError(
                f"max_tokens is {parameters.max_tokens}; the prompt's {num_prompt} tokens leave "
                f"{left} of the context of {self._max_context}"
            )
        return parameters


def _read_input(request: Any, name: str) -> Any:
    """Returns an input's one value: bytes or bool; None where it is not given."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1)[0]


def _load_object(name: str, text: Any) -> dict[str, Any]:
    if len(text) > MAX_PARAMETERS_BYTES:
        raise RequestError(f"{name} has {len(text)} bytes; at most {MAX_PARAMETERS_BYTES}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise RequestError(f"{name} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(f"{name} is {value!r}; it is a JSON object")
    return value
