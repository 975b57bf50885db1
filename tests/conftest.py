"""Fixtures shared by all tests: models are made once per session, never downloaded."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from llmopt.triton.server_distribution import GET_REMEDY, ServerDistribution, find_server
from tests.models import REPOSITORY, TINY_MODEL, make_model, write_documents

# The same examples on every run, however slow the machine is at the moment.
settings.register_profile("llmopt", deadline=None, derandomize=True, database=None)
settings.load_profile("llmopt")
torch.set_num_threads(1)  # for fixtures of a wide scope; `one_thread` sees to it in a test

REQUIRE_SERVER = "LLMOPT_REQUIRE_SERVER"
RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The trained model in examples/."""
    return TINY_MODEL


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 3 blocks, hidden 128, bf16; do not write into it."""
    return make_model(tmp_path_factory.mktemp("models") / "random-llama")


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small JSONL calibration file; do not write into it."""
    return write_documents(tmp_path_factory.mktemp("data") / "documents.jsonl")


@pytest.fixture(scope="session")
def server_distribution() -> ServerDistribution:
    """The server in the cache; a test that needs it is skipped where there is none.

    With LLMOPT_REQUIRE_SERVER=1, as in CI, it fails instead.
    """
    found = find_server()
    if found is None:
        refuse = pytest.fail if os.environ.get(REQUIRE_SERVER) == "1" else pytest.skip
        refuse(f"needs tritonserver: {GET_REMEDY}")
    return found


@pytest.fixture
def run_cli(tmp_path: Path) -> RunCli:
    """Runs the real `llmopt` in a process of its own, in tmp_path; returns the finished process."""
    return make_run_cli(tmp_path)


def make_run_cli(folder: Path) -> RunCli:
    """Returns a way to run the real `llmopt` in a folder."""

    def run(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llmopt", *map(str, arguments)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"},
        )

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Computes on one thread: small work on two threads costs several times the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
