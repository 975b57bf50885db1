"""A CUDA driver whose GPUs are named, and fail, as the environment says; compiled here.

It stands in for NVIDIA's library, so that what a machine with a busy GPU does is seen without one.
Its memory is the host's, and counted.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from llmopt.engine import cuda_driver

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) {
    const char *given = getenv("FAKE_GPU_COUNT");
    *count = given ? atoi(given) : 1;
    return 0;
}
int cuDeviceGet(int *device, int index) {
    int count;
    cuDeviceGetCount(&count);
    *device = index;
    return index < count ? 0 : 101;
}
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
    *context = (void *)(long)(device + 1);
    return atoi(getenv("FAKE_GPU_STATUS"));
}
static int opened = -1;
int cuCtxSetCurrent(void *context) { opened = (int)(long)context - 1; return 0; }
int cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)1; return 0; }
int cuStreamSynchronize(void *stream) { return 0; }
static long allocated = 0;
int cuMemAlloc_v2(unsigned long long *address, size_t size) {
    const char *limit = getenv("FAKE_GPU_ALLOCATIONS");
    if (limit && allocated >= atol(limit)) return 2;
    *address = (unsigned long long)malloc(size);
    allocated++;
    return 0;
}
int cuMemFree_v2(unsigned long long address) {
    if (!address) return 1;
    free((void *)address);
    allocated--;
    return 0;
}
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t size) {
    memcpy((void *)to, from, size);
    return 0;
}
int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t size) {
    memcpy(to, (void *)from, size);
    return 0;
}
int count_allocated(void) { return (int)allocated; }
int find_opened(void) { return opened; }
"""
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)")


class FakeDriver:
    """What the driver counted in this process."""

    def __init__(self, library: Path) -> None:
        self.path = str(library)
        self._library = ctypes.CDLL(self.path)

    def count_allocated(self) -> int:
        """Returns how many pieces of memory are not freed."""
        return int(self._library.count_allocated())

    def find_opened(self) -> int:
        """Returns the index of the GPU that was opened last; -1 for none."""
        return int(self._library.find_opened())


def install_driver(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, capability: str, status: int = 0
) -> FakeDriver:
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
    return FakeDriver(library)


def install_tensorrt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process, and those that it starts, find an empty package `tensorrt` 10.13.3."""
    (folder / "tensorrt").mkdir(parents=True)
    (folder / "tensorrt" / "__init__.py").touch()
    metadata = folder / "tensorrt-10.13.3.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt\nVersion: 10.13.3\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
