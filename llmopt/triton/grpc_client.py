"""Talks gRPC to a tritonserver: arrays in, arrays out."""

import queue
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tritonclient import grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from llmopt.errors import RequestFailed

Array = NDArray[Any]
Parameters = Mapping[str, str | int | bool]
FINAL_RESPONSE = "triton_final_response"


class GrpcClient:
    """One gRPC channel; a context manager, for one thread at a time.

    Arrays of strings go in as `object` or `str`, come back as `object` arrays of bytes.

    Args:
        address: "HOST:PORT".
        timeout_s: Seconds that an answer, or the next response of a stream, is waited for.
    """

    def __init__(self, address: str, timeout_s: float = 60.0) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._client = grpc.InferenceServerClient(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        parameters: Parameters | None = None,
        version: str = "",
    ) -> dict[str, Array]:
        """Sends one request to a model that answers once.

        Args:
            model: Its name.
            inputs: Arrays by name, the batch axis included where the model has one.
            parameters: The request's own.
            version: A version; by default the newest that is served.

        Returns:
            Outputs by name.

        Raises:
            RequestFailed: The server refused it, or was gone.
        """
        try:
            result = self._client.infer(
                model,
                _make_inputs(inputs),
                model_version=version,
                parameters=_to_dict(parameters),
                client_timeout=self._timeout_s,
            )
        except InferenceServerException as error:
            raise _failure(error, model) from None
        return _read_outputs(result)

    def stream_infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        parameters: Parameters | None = None,
        version: str = "",
    ) -> Iterator[dict[str, Array]]:
        """Sends one request to a decoupled model; yields the outputs of each response as it comes.

        To close the iterator before its end cancels the request.

        Raises:
            RequestFailed: The server refused it, ended it with an error, was gone or silent.
        """
        answers: queue.SimpleQueue[tuple[Any, InferenceServerException | None]] = (
            queue.SimpleQueue()
        )
        self._client.start_stream(lambda result, error: answers.put((result, error)))
        is_done = False
        try:
            self._client.async_stream_infer(
                model,
                _make_inputs(inputs),
                model_version=version,
                enable_empty_final_response=True,
                parameters=_to_dict(parameters),
            )
            while not is_done:
                result = self._next_answer(answers, model)
                response = result.get_response()
                is_done = response.parameters[FINAL_RESPONSE].bool_param
                if response.outputs:
                    yield _read_outputs(result)
        finally:
            self._client.stop_stream(cancel_requests=not is_done)

    def _next_answer(
        self,
        answers: "queue.SimpleQueue[tuple[Any, InferenceServerException | None]]",
        model: str,
    ) -> Any:
        try:
            result, error = answers.get(timeout=self._timeout_s)
        except queue.Empty:
            raise RequestFailed(
                f"{model} at {self._address}: no response within {self._timeout_s:g} s",
                status="DEADLINE_EXCEEDED",
            ) from None
        if error is not None:
            raise _failure(error, model)
        return result


def _to_dict(parameters: Parameters | None) -> dict[str, str | int | bool] | None:
    return None if parameters is None else dict(parameters)


def _make_inputs(inputs: Mapping[str, Array]) -> list[grpc.InferInput]:
    made = []
    for name, given in inputs.items():
        array = given.astype(object) if given.dtype.kind == "U" else np.ascontiguousarray(given)
        tensor = grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def _read_outputs(result: Any) -> dict[str, Array]:
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def _failure(error: InferenceServerException, model: str) -> RequestFailed:
    status = error.status()
    name = None if status is None else status.removeprefix("StatusCode.")
    return RequestFailed(f"{model}: {error.message()}", status=name)
