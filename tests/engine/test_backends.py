"""Which TensorRT builds and runs where, and what is said where none can."""

import importlib.util

import pytest

from llmopt.engine.backends import (
    BACKENDS,
    DATACENTER,
    RTX,
    choose_backend,
    why_not_built_here,
    why_not_run_here,
)
from llmopt.engine.cuda_driver import InstalledGpu
from llmopt.errors import CapabilityError
from tests.engine.builds import needs_rtx

ADA, HOPPER = InstalledGpu("RTX 4090", "8.9"), InstalledGpu("H100", "9.0")
BUILT_FOR = ("8.0", "8.6", "8.9", "12.0")
needs_no_datacenter = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here"
)


@needs_rtx
def test_tensorrt_rtx_builds_without_a_gpu() -> None:
    assert choose_backend(tuple(BACKENDS.values()), None, ()) == RTX
    assert RTX.version is not None
    assert choose_backend((RTX,), RTX.version.rpartition(".")[0], ()) == RTX


@needs_no_datacenter
def test_a_missing_backend_is_named_with_its_remedy() -> None:
    with pytest.raises(CapabilityError, match="tensorrt is not installed") as caught:
        choose_backend((DATACENTER,), None, (ADA,))
    assert caught.value.exit_code == 5
    assert "pip install tensorrt" in str(caught.value.remedy)
    assert "when_unavailable" not in str(caught.value.remedy)  # commands by hand have none


@needs_rtx
@pytest.mark.parametrize("version", ["99", "1.70", "1.7.1.11"])
def test_another_version_is_not_enough(version: str) -> None:
    reason = why_not_built_here(RTX, version, ())
    assert reason == f"tensorrt_rtx is {RTX.version}, not {version} as tensorrt_version asks"


@needs_rtx
def test_engines_run_on_the_gpus_of_their_backend() -> None:
    assert why_not_run_here(RTX, BUILT_FOR, (ADA,)) is None
    without = why_not_run_here(RTX, BUILT_FOR, ())
    assert without == (
        "TensorRT-RTX engines run on GPUs of compute capability 8.6, 8.9, 12.0; none is here"
    )
    hopper = why_not_run_here(RTX, BUILT_FOR, (HOPPER, ADA))
    assert hopper is not None
    assert hopper.endswith("here is H100 (9.0)")
