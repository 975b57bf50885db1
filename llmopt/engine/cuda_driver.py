"""The CUDA driver by ctypes: which GPUs are here, and memory for engines; no torch, no toolkit."""

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # steps import this module, and they load fast
    from numpy.typing import NDArray

LIBRARY = "libcuda.so.1"
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute in cuda.h
NAME_BYTES = 256
OUT_OF_MEMORY = 2  # CUresult in cuda.h
# No fault of what was to run: not initialised, a stub, busy or in exclusive use, no device, a
# driver of another version or not ready.
MACHINE_ERRORS = (3, 34, 46, 100, 101, 802, 803, 804)


class CudaError(Exception):
    """A call of the driver failed, with that status; None where there is no driver."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class InstalledGpu:
    """A GPU that the driver shows: its name, and its compute capability such as `8.9`."""

    name: str
    compute_capability: str


class CudaDriver:
    """The driver's library, initialised; its handles and addresses are plain integers.

    Raises:
        CudaError: There is no driver, or it finds no GPU that works.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise CudaError(str(error)) from None
        self._call("cuInit", ctypes.c_uint(0))

    def list_gpus(self) -> tuple[InstalledGpu, ...]:
        """Returns the GPUs in the driver's order."""
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        return tuple(self._describe(index) for index in range(count.value))

    def open_first(self) -> None:
        """Opens the first GPU."""
        self.open(0)

    def open(self, index: int) -> None:
        """Makes a GPU the one that this thread's later calls, and TensorRT's, work on.

        Args:
            index: In the driver's order, from 0.

        Raises:
            CudaError: There is no such GPU, or it is busy.
        """
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._find(index))
        self._call("cuCtxSetCurrent", context)

    def make_stream(self) -> int:
        """Returns the handle of a new stream."""
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(0))
        return int(stream.value or 0)

    def wait(self, stream: int) -> None:
        """Waits until a stream's work is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def allocate(self, num_bytes: int) -> int:
        """Returns the address of new memory on the GPU; at least one byte, so that it has one."""
        address = ctypes.c_uint64()
        size = ctypes.c_size_t(max(num_bytes, 1))
        self._call("cuMemAlloc_v2", ctypes.byref(address), size)
        return address.value

    def free(self, address: int) -> None:
        """Gives memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def copy_to(self, address: int, array: "NDArray[Any]") -> None:
        """Copies a contiguous array to the GPU."""
        if array.nbytes:
            pointer, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
            self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), pointer, size)

    def copy_from(self, address: int, array: "NDArray[Any]") -> None:
        """Fills a contiguous array from the GPU."""
        if array.nbytes:
            pointer, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
            self._call("cuMemcpyDtoH_v2", pointer, ctypes.c_uint64(address), size)

    def _describe(self, index: int) -> InstalledGpu:
        device, name = self._find(index), ctypes.create_string_buffer(NAME_BYTES)
        self._call("cuDeviceGetName", name, ctypes.c_int(NAME_BYTES), device)
        major, minor = (self._read(each, device) for each in (CAPABILITY_MAJOR, CAPABILITY_MINOR))
        return InstalledGpu(name.value.decode(errors="replace"), f"{major}.{minor}")

    def _find(self, index: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
        return device

    def _read(self, attribute: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), device)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise CudaError(f"{name} ended with CUDA error {status}{_explain(status)}", status)


def _explain(status: int) -> str:
    meanings = {OUT_OF_MEMORY: " (the GPU's memory is full)", 46: " (the GPU is busy)"}
    return meanings.get(status, "")


def list_gpus() -> tuple[InstalledGpu, ...]:
    """Returns the GPUs that the driver shows; none where there is no driver or no working GPU."""
    try:
        return CudaDriver().list_gpus()
    except CudaError:
        return ()
