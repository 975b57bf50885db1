"""The CUDA driver by ctypes: what it finds here, and memory where there is a GPU."""

import ctypes

import numpy as np
import pytest

from llmopt.engine.cuda_driver import LIBRARY, CudaDriver, CudaError, list_gpus


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
