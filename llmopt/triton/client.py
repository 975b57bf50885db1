"""Talks HTTP to a tritonserver, with the standard library alone."""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, Self

from llmopt.errors import RequestFailed
from llmopt.triton.server import TritonServer

DEFAULT_TIMEOUT_S = 60.0
_EVENT_START = b"data:"


class TritonClient:
    """One server's HTTP interface; may be used by several threads.

    Args:
        http_address: "HOST:PORT".
        metrics_address: Likewise, of the metrics.
        timeout_s: Seconds that a silent server is waited for.
    """

    def __init__(
        self,
        http_address: str,
        metrics_address: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._http_address = http_address
        self._metrics_address = metrics_address
        self._timeout_s = timeout_s

    @classmethod
    def of(cls, server: TritonServer, timeout_s: float = DEFAULT_TIMEOUT_S) -> Self:
        """Returns a client of a server that was started here."""
        return cls(server.http_address, server.metrics_address, timeout_s)

    def is_ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Asks whether the server, or one model of it, takes requests."""
        path = "/v2/health/ready" if model is None else f"{_model_path(model, version)}/ready"
        with self._request("GET", path) as answer:
            return answer.status == HTTPStatus.OK

    def generate(
        self, model: str, body: Mapping[str, Any], version: str | None = None
    ) -> dict[str, Any]:
        """Sends JSON to /generate; a model must answer with exactly one response.

        Args:
            model: Its name.
            body: Inputs by name, a scalar or a list each; other keys become the request's
                parameters.
            version: A version; by default the newest that is served.

        Returns:
            Outputs by name, beside `model_name` and `model_version`.

        Raises:
            RequestFailed: The server refused it, or was gone.
        """
        found: dict[str, Any] = self._post(f"{_model_path(model, version)}/generate", body)
        return found

    def generate_stream(
        self, model: str, body: Mapping[str, Any], version: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Sends JSON to /generate_stream; yields each server-sent event's data as it comes.

        To close the iterator before its end hangs up, which cancels the request.

        Raises:
            RequestFailed: The server refused it, ended it with an error, or was gone.
        """
        path = f"{_model_path(model, version)}/generate_stream"
        with self._request("POST", path, body) as answer:
            if answer.status != HTTPStatus.OK:
                raise _failure(answer.status, answer.read(), path)
            for line in answer:
                if not line.startswith(_EVENT_START):
                    continue
                event = json.loads(line.removeprefix(_EVENT_START))
                if "error" in event:
                    raise RequestFailed(f"{path}: {event['error']}", status=answer.status)
                yield event

    def load(self, model: str, config: Mapping[str, Any] | None = None) -> None:
        """Loads or reloads a model of an explicit server.

        Args:
            model: Its name.
            config: Taken instead of its config.pbtxt, whose file stays as it is; in JSON form.

        Raises:
            RequestFailed: The model could not be loaded.
        """
        parameters = {} if config is None else {"config": json.dumps(config)}
        self._post(f"/v2/repository/models/{model}/load", {"parameters": parameters})

    def unload(self, model: str) -> None:
        """Unloads a model of an explicit server; requests under way are finished."""
        self._post(f"/v2/repository/models/{model}/unload", {})

    def list_models(self) -> list[dict[str, str]]:
        """Lists the repository: name, version, state, and the reason of a model that failed."""
        found: list[dict[str, str]] = self._post("/v2/repository/index", {})
        return found

    def read_config(self, model: str) -> dict[str, Any]:
        """Returns a loaded model's config as the server holds it."""
        found: dict[str, Any] = self._get(f"{_model_path(model, None)}/config")
        return found

    def read_statistics(self, model: str, version: str | None = None) -> dict[str, Any]:
        """Returns a model's counts and times (ns), such as `inference_count`.

        Raises:
            RequestFailed: There is no such model.
        """
        found = self._get(f"{_model_path(model, version)}/stats")
        statistics: dict[str, Any] = found["model_stats"][0]
        return statistics

    def read_metrics(self) -> str:
        """Returns the metrics in Prometheus' text form."""
        assert self._metrics_address is not None, "made without metrics_address"
        with self._request("GET", "/metrics", address=self._metrics_address) as answer:
            return answer.read().decode()

    def _get(self, path: str) -> Any:
        with self._request("GET", path) as answer:
            return _read_json(answer, path)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        with self._request("POST", path, body) as answer:
            return _read_json(answer, path)

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        address: str | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Sends one request on a connection of its own, which is closed after the block."""
        address = address or self._http_address
        connection = http.client.HTTPConnection(address, timeout=self._timeout_s)
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        try:
            connection.request(method, path, data, {"Content-Type": "application/json"})
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise RequestFailed(
                f"{address}{path}: the connection broke: {error or type(error).__name__}",
                status=None,
            ) from None
        finally:
            connection.close()


def _model_path(model: str, version: str | None) -> str:
    return f"/v2/models/{model}" + ("" if version is None else f"/versions/{version}")


def _read_json(answer: http.client.HTTPResponse, path: str) -> Any:
    data = answer.read()
    if answer.status != HTTPStatus.OK:
        raise _failure(answer.status, data, path)
    return json.loads(data) if data else {}


def _failure(status: int, data: bytes, path: str) -> RequestFailed:
    text = data.decode(errors="replace")
    with suppress(json.JSONDecodeError, KeyError, TypeError):  # a proxy may answer in HTML
        text = json.loads(text)["error"]
    return RequestFailed(f"{path}: {status}: {text}", status=status)
