"""A server in use: a version is replaced under load, a model's process dies and comes back."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from llmopt.errors import RequestFailed
from llmopt.triton.client import TritonClient
from llmopt.triton.server import TritonServer
from tests.triton.repositories import VERSION, add_model

NUM_CLIENTS = 4


def ask_version(client: TritonClient, model: str) -> str:
    return str(client.generate(model, {"text": "?"})["version"])


def test_a_version_is_replaced_under_load_without_a_failed_request(
    client: TritonClient, small_repository: Path
) -> None:
    folder = add_model(
        small_repository, "switched", VERSION.replace("NAME", "switched"), "version.py"
    )
    client.load("switched")
    is_over = threading.Event()

    def keep_asking(_: int) -> list[str]:
        versions = []
        while not is_over.is_set():
            versions.append(ask_version(client, "switched"))
        return versions

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        asked = [pool.submit(keep_asking, each) for each in range(NUM_CLIENTS)]
        try:
            time.sleep(0.3)
            shutil.copytree(folder / "1", folder / "2")
            client.load("switched")
            time.sleep(0.3)
        finally:
            is_over.set()
        answers = [each.result() for each in asked]
    for versions in answers:
        assert versions == sorted(versions), "an answer of the old version after one of the new"
        assert set(versions) == {"1", "2"}
    assert client.is_ready("switched", "2")
    assert not client.is_ready("switched", "1")


def test_a_killed_model_comes_back_when_it_is_loaded_anew(
    client: TritonClient, small_server: TritonServer, small_repository: Path
) -> None:
    """The server does not restart it, and calls it ready all the while: only requests tell."""
    add_model(small_repository, "mortal", VERSION.replace("NAME", "mortal"), "version.py")
    client.load("mortal")
    assert ask_version(client, "mortal") == "1"
    find_stub(small_server, small_repository / "mortal").kill()
    with pytest.raises(RequestFailed, match="Stub process 'mortal_0_0' is not healthy"):
        ask_version(client, "mortal")
    assert client.is_ready("mortal")
    assert client.generate("spell", {"text": "襟", "whole": True})["part"] == "襟"
    client.unload("mortal")
    client.load("mortal")
    assert ask_version(client, "mortal") == "1"


def find_stub(server: TritonServer, model: Path) -> psutil.Process:
    """Returns the process that a model's python runs in."""
    (stub,) = (
        process
        for process in psutil.Process(server.pid).children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and f"{model}/" in " ".join(process.cmdline())
    )
    return stub
