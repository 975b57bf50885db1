"""Load on a running repository: many clients at once, for a time; what they saw.

A closed loop: each client sends its next request when it has the last answer, as the services
behind a repository do.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count

import numpy as np

from llmopt.errors import RequestFailed
from llmopt.triton.client import TritonClient
from llmopt.triton.grpc_client import GrpcClient
from llmopt.triton.server import TritonServer


@dataclass(frozen=True)
class Timing:
    """One request that was answered.

    Attributes:
        latency_s: From sending to the last of the answer.
        first_token_s: To its first part; None where an answer has no parts.
        num_tokens: Of the answer; 0 where it has none.
    """

    latency_s: float
    first_token_s: float | None = None
    num_tokens: int = 0


# One client's way of asking: a text in, how long that took out.
Asker = Callable[[str], Timing]
OpenAsker = Callable[[], AbstractContextManager[Asker]]


@dataclass(frozen=True)
class LoadResult:
    """What so many clients saw.

    Attributes:
        clients: How many.
        seconds: From the first request to the last answer.
        timings: Of each request that was answered.
        failures: What the server said to the others.
    """

    clients: int
    seconds: float
    timings: tuple[Timing, ...]
    failures: tuple[str, ...]

    def summarise(self) -> dict[str, float]:
        """Returns rates per second and times in ms, of what was answered.

        Raises:
            RequestFailed: Nothing was.
        """
        if not self.timings:
            raise RequestFailed(
                f"none of {len(self.failures)} requests of {self.clients} clients was answered: "
                f"{self.failures[0] if self.failures else 'there was no time'}",
                status=None,
            )
        figures: dict[str, float] = {
            "requests": len(self.timings),
            "failed_requests": len(self.failures),
            "requests_per_s": len(self.timings) / self.seconds,
            **_spread("latency", [each.latency_s for each in self.timings]),
        }
        first = [t.first_token_s for t in self.timings if t.first_token_s is not None]
        if first:
            tokens = sum(each.num_tokens for each in self.timings)
            figures |= {"tokens_per_s": tokens / self.seconds, **_spread("first_token", first)}
        return {name: round(value, 3) for name, value in figures.items()}


def put_load(
    open_asker: OpenAsker, texts: Sequence[str], clients: int, seconds: float
) -> LoadResult:
    """Lets clients ask for a time; requests under way at its end are waited for.

    Args:
        open_asker: Opens one client's connection.
        texts: Asked one after another, from the first again after the last.
        clients: At once.
        seconds: After which none sends a further request.

    Raises:
        Exception: What the first client that could not connect raised.
    """
    numbers, barrier = count(), threading.Barrier(clients)

    def work() -> tuple[float, list[Timing], list[str], float]:
        timings: list[Timing] = []
        failures: list[str] = []
        with ExitStack() as stack:
            try:
                ask = stack.enter_context(open_asker())
            except BaseException:
                barrier.abort()  # else the others wait for this client for ever
                raise
            barrier.wait()
            began = time.monotonic()
            while time.monotonic() < began + seconds:
                try:
                    timings.append(ask(texts[next(numbers) % len(texts)]))
                except RequestFailed as error:
                    failures.append(error.message)
            return began, timings, failures, time.monotonic()

    with ThreadPoolExecutor(clients) as pool:
        asked = [pool.submit(work) for _ in range(clients)]
    for error in (each.exception() for each in asked):
        if error is not None and not isinstance(error, threading.BrokenBarrierError):
            raise error
    done = [each.result() for each in asked]
    return LoadResult(
        clients,
        max(each[3] for each in done) - min(each[0] for each in done),
        tuple(timing for each in done for timing in each[1]),
        tuple(failure for each in done for failure in each[2]),
    )


def ask_generating(server: TritonServer, model: str, max_tokens: int) -> OpenAsker:
    """Returns a way to ask a model that streams text; answers have `max_tokens` tokens."""

    @contextmanager
    def open_asker() -> Iterator[Asker]:
        client = TritonClient.of(server)

        def ask(text: str) -> Timing:
            body = {"text_input": text, "stream": True, "max_tokens": max_tokens}
            began = time.monotonic()
            first = began
            num_tokens = 0
            for index, event in enumerate(
                client.generate_stream(model, {**body, "ignore_eos": True})
            ):
                first = time.monotonic() if index == 0 else first
                num_tokens = int(event.get("num_output_tokens", num_tokens))
            return Timing(time.monotonic() - began, first - began, num_tokens)

        yield ask

    return open_asker


def ask_once(server: TritonServer, model: str, input_name: str) -> OpenAsker:
    """Returns a way to ask a model that answers a text at once, over gRPC, a batch of one."""

    @contextmanager
    def open_asker() -> Iterator[Asker]:
        with GrpcClient(server.grpc_address) as client:

            def ask(text: str) -> Timing:
                began = time.monotonic()
                client.infer(model, {input_name: np.array([[text.encode()]], dtype=object)})
                return Timing(time.monotonic() - began)

            yield ask

    return open_asker


def _spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, (50, 99))
    return {f"{name}_p50_ms": 1000 * float(p50), f"{name}_p99_ms": 1000 * float(p99)}
