"""The CUDA driver by ctypes: what it finds here, and memory where there is a GPU."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from llmopt.engine.cuda_driver import LIBRARY, CudaDriver, CudaError, list_gpus
from tests.engine.fake_driver import install_driver, needs_compiler


def has_driver() -> bool:
    """Tells whether the loader finds the driver."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="a CUDA driver is here")
def test_a_machine_without_a_driver_has_no_gpus() -> None:
    assert list_gpus() == ()
    with pytest.raises(CudaError, match=LIBRARY):
        CudaDriver()


@pytest.mark.skipif(not list_gpus(), reason="needs a CUDA GPU (llmopt doctor)")
def test_arrays_come_back_from_the_gpu() -> None:
    driver = CudaDriver()
    gpu = driver.list_gpus()[0]
    assert gpu.name
    assert float(gpu.compute_capability) >= 5
    driver.open_first()
    stream = driver.make_stream()
    sent = np.arange(1000, dtype=np.float32).reshape(10, 100)
    address = driver.allocate(sent.nbytes)
    driver.copy_to(address, sent)
    driver.wait(stream)
    back = np.empty_like(sent)
    driver.copy_from(address, back)
    driver.free(address)
    np.testing.assert_array_equal(back, sent)
    assert driver.allocate(0) != 0  # an empty tensor has an address too


@needs_compiler
def test_a_gpu_is_opened_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install_driver(tmp_path / "driver", monkeypatch, "NVIDIA L4", "8.9")
    monkeypatch.setenv("FAKE_GPU_COUNT", "2")
    driver = CudaDriver()
    driver.open(1)
    assert fake.find_opened() == 1
    driver.open_first()
    assert fake.find_opened() == 0
    with pytest.raises(CudaError, match="cuDeviceGet ended with CUDA error 101"):
        driver.open(2)
