"""A tritonserver that runs without a container: the one in NVIDIA's wheel nvidia-pytriton.

It holds the server of one release with the python backend and the local response cache. The wheel
is unpacked, never installed: as a package it would ask for an older numpy.
"""

import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.cache_folder import locate_cache_folder, open_cache_folder
from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.files import clear_folder
from llmopt.artifacts.locking import hold_lock
from llmopt.errors import CapabilityError, InputError

PACKAGE = "nvidia-pytriton==0.7.0"
WHEEL_SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
SERVER_RELEASE = "24.10"  # of the containers, whose server is of the same build
SERVER_VERSION = "2.51.0"
# numpy 2 breaks this server's stub: strings fail, INT64 outputs come back empty without an error.
SERVER_NUMPY = "numpy==1.26.4"
PYTHONS = ("3.11", "3.12")  # with a stub in the wheel, a wheel of that numpy, and llmopt
MIN_GLIBC = (2, 35)
GET_REMEDY = "llmopt doctor --get tritonserver"
STUB_NAME = "triton_python_backend_stub"
_LIBRARIES = "nvidia_pytriton.libs"
_SERVER = "pytriton/tritonserver"


@dataclass(frozen=True)
class ServerDistribution:
    """An unpacked server.

    Attributes:
        folder: Its own folder in the cache; to be read only.
    """

    folder: Path

    @property
    def executable(self) -> Path:
        """The program `tritonserver`."""
        return self.folder / _SERVER / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """The folder of backends: `python` alone."""
        return self.folder / _SERVER / "backends"

    @property
    def caches(self) -> Path:
        """The folder of response caches: `local` alone."""
        return self.folder / _SERVER / "caches"

    @property
    def libraries(self) -> Path:
        """The folder of the shared libraries that came with it."""
        return self.folder / _LIBRARIES


def find_server() -> ServerDistribution | None:
    """Returns the server that lies in the cache for this Python, None where there is none."""
    folder = _locate(locate_cache_folder())
    return ServerDistribution(folder) if folder.is_dir() else None


def require_server() -> ServerDistribution:
    """Returns the server that lies in the cache.

    Raises:
        CapabilityError: There is none; the remedy is how to get it.
    """
    server = find_server()
    if server is None:
        raise CapabilityError(
            f"no tritonserver in {locate_cache_folder()}",
            remedy=why_no_server_here() or GET_REMEDY,
        )
    return server


def why_no_server_here() -> str | None:
    """Says why the pinned server can't run on this machine; None where it can."""
    machine = f"{sys.platform} {platform.machine()}"
    if machine != "linux x86_64":
        return f"{PACKAGE} holds a server for x86-64 Linux, this is {machine}"
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split("."))) < MIN_GLIBC:
        return (
            f"its server needs glibc {'.'.join(map(str, MIN_GLIBC))} or newer, "
            f"here is {library or 'another C library'} {version}".rstrip()
        )
    if _python() not in PYTHONS:
        return f"its server serves Python {' and '.join(PYTHONS)} here, this is {_python()}"
    return None


def install_server(report: Callable[[str], None]) -> ServerDistribution:
    """Fetches the pinned wheel with pip, checks its digest and unpacks it into the cache, once.

    Args:
        report: Gets a sentence when something is about to take long.

    Raises:
        CapabilityError: The server can't run here, or pip can't fetch it.
        InputError: The wheel that was fetched is not the pinned one.
    """
    reason = why_no_server_here()
    if reason is not None:
        raise CapabilityError(f"tritonserver can't be had: {reason}")
    cache = open_cache_folder()
    folder = _locate(cache)
    with hold_lock(cache / "tritonserver.lock", report):
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            clear_folder(partial)
            try:
                report(f"fetching tritonserver {SERVER_VERSION} ({PACKAGE}, 55 MB)")
                wheel = _download_wheel(partial)
                _unpack_wheel(wheel, ServerDistribution(partial))
                wheel.unlink()
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return ServerDistribution(folder)


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _locate(cache: Path) -> Path:
    return cache / f"tritonserver-{SERVER_VERSION}-py{_python()}"


def _download_wheel(folder: Path) -> Path:
    """Fetches the wheel and holds its digest against the pinned one."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), PACKAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise CapabilityError(
            f"pip could not fetch {PACKAGE}: {said}",
            remedy="where there is no network, put the wheel into a folder and name it in "
            "PIP_FIND_LINKS",
        )
    found = digest_file(wheels[0])
    if found != WHEEL_SHA256:
        raise InputError(
            f"{wheels[0].name} as fetched has the SHA-256 {found}, allowed is {WHEEL_SHA256}",
            remedy="the package index gives another file of this name: take it from PyPI",
        )
    return wheels[0]


def _unpack_wheel(wheel: Path, server: ServerDistribution) -> None:
    """Takes the server and its libraries out of the wheel, with the stub for this Python alone."""
    stub = f"{_SERVER}/python_backend_stubs/{_python()}/{STUB_NAME}"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            is_stub = name.startswith(f"{_SERVER}/python_backend_stubs/")
            if name.startswith((f"{_SERVER}/", f"{_LIBRARIES}/")) and not is_stub:
                archive.extract(name, server.folder)
        # Three folders below the libraries, as its relative RPATH wants it.
        target = server.backends / "python" / STUB_NAME
        target.write_bytes(archive.read(stub))
    for program in (server.executable, target):
        program.chmod(0o755)
