"""Fixtures of the tests with a real tritonserver: it is fetched and its environment made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmopt.triton.client import TritonClient
from llmopt.triton.grpc_client import GrpcClient
from llmopt.triton.model_environment import ModelEnvironment, make_environment
from llmopt.triton.server import ServerOptions, TritonServer
from llmopt.triton.server_distribution import ServerDistribution
from tests.triton.decoders import ExportedDecoder, export_small_decoder
from tests.triton.repositories import ECHO, SPELL, add_model


@pytest.fixture(scope="session")
def bare_environment(server_distribution: ServerDistribution) -> ModelEnvironment:
    """An environment of numpy alone."""
    return make_environment((), print)


@pytest.fixture(scope="session")
def small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`echo` and `spell`, and the file `spell-notes` beside the repository."""
    folder = tmp_path_factory.mktemp("triton")
    add_model(folder / "repository", "echo", ECHO, "echo.py")
    spell = SPELL.replace("NOTES", str(folder / "spell-notes"))
    add_model(folder / "repository", "spell", spell, "spell.py")
    return folder / "repository"


@pytest.fixture(scope="session")
def small_server(
    small_repository: Path, bare_environment: ModelEnvironment
) -> Iterator[TritonServer]:
    """An explicit server over it, with both models loaded."""
    options = ServerOptions(explicit=True, models=("echo", "spell"))
    log = small_repository.parent / "server.log"
    with TritonServer(small_repository, bare_environment, log, options) as server:
        yield server


@pytest.fixture
def client(small_server: TritonServer) -> TritonClient:
    """Its HTTP client."""
    return TritonClient.of(small_server)


@pytest.fixture
def grpc_client(small_server: TritonServer) -> Iterator[GrpcClient]:
    """Its gRPC client."""
    with GrpcClient(small_server.grpc_address) as made:
        yield made


@pytest.fixture(scope="session")
def exported_decoder(tmp_path_factory: pytest.TempPathFactory) -> ExportedDecoder:
    """A small random decoder in ONNX; do not write into it."""
    return export_small_decoder(tmp_path_factory.mktemp("decoder"))
