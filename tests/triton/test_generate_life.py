"""A generating model in use: a version replaced under load, its process killed, memory flat."""

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from llmopt.errors import RequestFailed
from llmopt.triton.client import TritonClient
from llmopt.triton.generate_model import GENERATE_REQUIREMENTS
from llmopt.triton.model_environment import ModelEnvironment, make_environment
from llmopt.triton.server import ServerOptions, TritonServer
from tests.triton.decoders import ExportedDecoder
from tests.triton.generate_repository import add_generate_model, ask, ask_at_once
from tests.triton.repositories import list_regions

MODEL = "plain"
NUM_CLIENTS = 8
NUM_TOKENS = 64
# Regions that grow by little: a file's size tells of what leaks.
SMALL_REGIONS = tuple(
    f"--backend-config=python,shm-{kind}-byte-size={size}"
    for kind, size in (("default", 1 << 20), ("growth", 64 << 10))
)
TEXTS = ["袖口の縫製仕様:綿100%"[: 3 + length] for length in range(8)]


@pytest.fixture
def server(
    exported_decoder: ExportedDecoder, bare_environment: ModelEnvironment, tmp_path: Path
) -> Iterator[TritonServer]:
    del bare_environment  # there is a server
    environment = make_environment(("onnxruntime", *GENERATE_REQUIREMENTS), print)
    add_generate_model(
        tmp_path / "repository", MODEL, exported_decoder.folder, exported_decoder.description,
        exported_decoder.model,
    )  # fmt: skip
    options = ServerOptions(explicit=True, models=(MODEL,), arguments=SMALL_REGIONS)
    with TritonServer(tmp_path / "repository", environment, tmp_path / "log", options) as server:
        yield server


def stream(
    client: TritonClient, text: str, max_tokens: int, begun: threading.Event | None = None
) -> str:
    """Returns the joined parts of a stream; tells when the first one came."""
    body = {"text_input": text, "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    parts = []
    for event in client.generate_stream(MODEL, body):
        parts.append(event["text_output"])
        if begun is not None:
            begun.set()
    return "".join(parts)


def hang_up(client: TritonClient, text: str) -> None:
    """Takes the first part of a long stream, and goes."""
    body = {"text_input": text, "max_tokens": 200, "ignore_eos": True, "stream": True}
    events = client.generate_stream(MODEL, body)
    next(events)
    events.close()  # type: ignore[attr-defined]


def test_a_version_is_replaced_under_load_without_a_failed_request(server: TritonServer) -> None:
    client, is_over = TritonClient.of(server), threading.Event()
    expected = {text: ask(client, MODEL, text, NUM_TOKENS)["text_output"] for text in TEXTS}

    def keep_asking(number: int) -> list[str]:
        text, versions = TEXTS[number], []
        while not is_over.is_set():
            if number % 2:
                assert stream(client, text, NUM_TOKENS) == expected[text]
                continue
            answer = ask(client, MODEL, text, NUM_TOKENS)
            assert answer["text_output"] == expected[text]
            versions.append(answer["model_version"])
        return versions

    folder = server.repository / MODEL
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        asked = [pool.submit(keep_asking, each) for each in range(NUM_CLIENTS)]
        try:
            time.sleep(1)
            shutil.copytree(folder / "1", folder / "2")
            client.load(MODEL)
            time.sleep(2)
        finally:
            is_over.set()
        answers = [each.result() for each in asked]
    for versions in answers[::2]:
        assert versions == sorted(versions), "an answer of the old version after one of the new"
        assert set(versions) == {"1", "2"}
    assert client.is_ready(MODEL, "2")
    assert not client.is_ready(MODEL, "1")


def test_a_model_that_is_unloaded_answers_what_is_under_way_and_comes_back(
    server: TritonServer,
) -> None:
    client = TritonClient.of(server)
    with ThreadPoolExecutor(4) as pool:
        begun = [threading.Event() for _ in range(4)]
        asked = [
            pool.submit(stream, client, text, 200, event)
            for text, event in zip(TEXTS, begun, strict=False)
        ]
        assert all(each.wait(30) for each in begun)
        client.unload(MODEL)
        answers = [each.result() for each in asked]
    assert all(answers)
    client.load(MODEL)
    assert [stream(client, text, 200) for text in TEXTS[:4]] == answers


def test_a_killed_process_is_told_and_comes_back_when_it_is_loaded_anew(
    server: TritonServer,
) -> None:
    """What is under way when it dies is never answered: only the client's own timeout ends it."""
    client = TritonClient.of(server)
    impatient = TritonClient.of(server, timeout_s=3)
    before = ask(client, MODEL, TEXTS[0], 8)["text_output"]
    (stub,) = psutil.Process(server.pid).children(recursive=True)
    with ThreadPoolExecutor(1) as pool:
        begun = threading.Event()
        under_way = pool.submit(stream, impatient, TEXTS[0], 250, begun)
        assert begun.wait(30)
        stub.kill()
        with pytest.raises(RequestFailed):
            under_way.result()
    with pytest.raises(RequestFailed, match="is not healthy") as caught:
        ask(client, MODEL, TEXTS[0], 8)
    assert caught.value.status == 400
    client.unload(MODEL)
    client.load(MODEL)
    assert ask(client, MODEL, TEXTS[0], 8)["text_output"] == before


def measure_memory(server: TritonServer) -> tuple[int, int]:
    """Returns the bytes of the server and its stubs, and those of their shared memory."""
    process = psutil.Process(server.pid)
    resident = sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])
    regions = list_regions(server.pid)
    assert regions
    return resident, sum(region.stat().st_size for region in regions)


def test_memory_is_flat_over_two_thousand_requests(server: TritonServer) -> None:
    """Whole answers, streams, clients that hang up, and bad requests, from 8 clients."""
    client = TritonClient.of(server)

    def ask_many(number: int) -> None:
        for index in range(number // NUM_CLIENTS):
            text = TEXTS[index % len(TEXTS)]
            if index % 10 == 9:
                with pytest.raises(RequestFailed):
                    ask(client, MODEL, text, -1)
            elif index % 10 == 8:
                hang_up(client, text)
            elif index % 5 == 2:
                stream(client, text, 3)
            else:
                ask(client, MODEL, text, 1 + index % 4)

    assert ask_at_once([lambda: ask_many(400)] * NUM_CLIENTS) == [None] * NUM_CLIENTS
    before, shared_before = measure_memory(server)
    assert ask_at_once([lambda: ask_many(2000)] * NUM_CLIENTS) == [None] * NUM_CLIENTS
    after, shared_after = measure_memory(server)
    assert after - before < 8 << 20
    assert shared_after <= shared_before
    assert shared_after < 4 << 20, "the regions are not small: what leaks would hide in them"
