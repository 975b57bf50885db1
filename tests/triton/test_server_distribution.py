"""The pinned server in its cache: how it is fetched, what is refused, what lies there then."""

import os
import platform
import sys
import zipfile
from pathlib import Path

import pytest

from llmopt.errors import CapabilityError, InputError
from llmopt.triton.server_distribution import (
    ServerDistribution,
    find_server,
    install_server,
    require_server,
)

WHEEL_NAME = "nvidia_pytriton-0.7.0-py3-none-manylinux_2_35_x86_64.whl"
METADATA = "Metadata-Version: 2.1\nName: nvidia-pytriton\nVersion: 0.7.0\n"
needs_linux = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="needs x86-64 Linux"
)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without a server, and pip without any index."""
    monkeypatch.setenv("LLMOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "cache"


def test_an_empty_cache_has_no_server(empty_cache: Path) -> None:
    assert find_server() is None
    with pytest.raises(CapabilityError, match="no tritonserver in") as missing:
        require_server()
    assert missing.value.remedy == "llmopt doctor --get tritonserver"
    assert not empty_cache.exists(), "looking made a folder"


@needs_linux
def test_what_pip_can_not_fetch(empty_cache: Path) -> None:
    with pytest.raises(CapabilityError, match=r"could not fetch nvidia-pytriton==0\.7\.0: .*ERROR"):
        install_server(lambda _: None)
    assert find_server() is None


@needs_linux
def test_another_wheel_of_that_name_is_refused(empty_cache: Path, tmp_path: Path) -> None:
    folder = "nvidia_pytriton-0.7.0.dist-info"
    with zipfile.ZipFile(tmp_path / "wheels" / WHEEL_NAME, "w") as wheel:
        wheel.writestr("pytriton/tritonserver/bin/tritonserver", "#!/bin/sh\n")
        wheel.writestr(f"{folder}/METADATA", METADATA)
        wheel.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{folder}/RECORD", "")
    with pytest.raises(
        InputError, match=r"as fetched has the SHA-256 [0-9a-f]{64}, allowed is 21f"
    ):
        install_server(lambda _: None)
    assert find_server() is None
    assert [path.name for path in empty_cache.iterdir()] == ["tritonserver.lock"]


def test_what_lies_in_the_cache(server_distribution: ServerDistribution) -> None:
    assert os.access(server_distribution.executable, os.X_OK)
    stub = server_distribution.backends / "python" / "triton_python_backend_stub"
    assert os.access(stub, os.X_OK)
    assert (server_distribution.caches / "local" / "libtritoncache_local.so").exists()
    assert not (server_distribution.folder / "pytriton/tritonserver/python_backend_stubs").exists()


def test_a_server_that_is_there_is_not_fetched_again(
    server_distribution: ServerDistribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said: list[str] = []
    assert install_server(said.append) == server_distribution
    assert said == []
