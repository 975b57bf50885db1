"""A CUDA driver of one GPU that is named, and fails, as the environment says; compiled here.

It stands in for NVIDIA's library, so that what a machine with a busy GPU does is seen without one.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from llmopt.engine import cuda_driver

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, getenv("FAKE_GPU_NAME"), length);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    const char *capability = getenv("FAKE_GPU_CAPABILITY");
    *value = attribute == 75 ? capability[0] - '0' : capability[2] - '0';
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    return atoi(getenv("FAKE_GPU_STATUS"));
}
"""
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)")


def install_driver(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, capability: str, status: int = 0
) -> None:
    """Makes this process and those that it starts find that GPU, whose use ends with a status."""
    library = folder / cuda_driver.LIBRARY
    if not library.exists():
        folder.mkdir(exist_ok=True)
        source = folder / "driver.c"
        source.write_text(SOURCE)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(library))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    monkeypatch.setenv("FAKE_GPU_NAME", name)
    monkeypatch.setenv("FAKE_GPU_CAPABILITY", capability)
    monkeypatch.setenv("FAKE_GPU_STATUS", str(status))


def install_tensorrt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process, and those that it starts, find an empty package `tensorrt` 10.13.3."""
    (folder / "tensorrt").mkdir(parents=True)
    (folder / "tensorrt" / "__init__.py").touch()
    metadata = folder / "tensorrt-10.13.3.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt\nVersion: 10.13.3\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
