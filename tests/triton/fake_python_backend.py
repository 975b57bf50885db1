"""Stands in for Triton's `triton_python_backend_utils`: tensors, responses and their sender."""

import threading
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


@dataclass
class Tensor:
    """A tensor."""

    name: str
    array: Any

    def as_numpy(self) -> Any:
        """Returns its values."""
        return self.array


@dataclass
class TritonError(Exception):
    """An error of one request."""

    INTERNAL: ClassVar[int] = 2
    INVALID_ARG: ClassVar[int] = 3
    UNAVAILABLE: ClassVar[int] = 4
    text: str
    code: int


@dataclass
class InferenceResponse:
    """A response."""

    output_tensors: list[Tensor]
    error: TritonError | None = None


@dataclass
class Sender:
    """Takes the responses of one request."""

    responses: list[InferenceResponse] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False
    is_broken: bool = False

    def send(self, response: InferenceResponse, flags: int) -> None:
        """Takes one."""
        self.responses.append(response)
        if flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL:
            self.done.set()

    def is_cancelled(self) -> bool:
        """Tells whether the client is gone; fails where the connection to the server is broken."""
        if self.is_broken:
            raise TritonError("the connection is broken", TritonError.INTERNAL)
        return self.cancelled

    def wait(self) -> str | TritonError:
        """Waits for the one response; returns its text or its error."""
        assert self.done.wait(30), "no answer within 30 s"
        (response,) = self.responses
        if response.error is not None:
            return response.error
        return str(response.output_tensors[0].array[0].decode())


@dataclass
class Request:
    """A request of text."""

    inputs: dict[str, Any]
    given: str
    sender: Sender = field(default_factory=Sender)

    def get_response_sender(self) -> Sender:
        """Returns where responses go."""
        return self.sender

    def parameters(self) -> str:
        """Returns what stands beside the inputs: JSON."""
        return self.given


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    """Returns an input; None where it is not given."""
    if name not in request.inputs:
        return None
    return Tensor(name, np.array([request.inputs[name]], dtype=object))
