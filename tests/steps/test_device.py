"""Which device a step computes on."""

from pathlib import Path

import pytest
import torch

from llmopt.artifacts.progress import SilentProgress
from llmopt.errors import CapabilityError, RecipeError
from llmopt.steps.base import RunContext
from llmopt.steps.device import describe_device, describe_devices, note_idle, select_device
from tests.quant.test_quantize_checkpoint import InterruptingProgress

CPU, FIRST, SECOND = torch.device("cpu"), torch.device("cuda:0"), torch.device("cuda:1")


def context(device: str, threads: int | None = None) -> RunContext:
    return RunContext(Path(), Path(), device, threads, SilentProgress())


def test_the_cpu_is_always_there(one_thread: None) -> None:
    assert select_device(context("cpu", threads=2)) == torch.device("cpu")
    assert torch.get_num_threads() == 2
    select_device(context("cpu"))
    assert torch.get_num_threads() == 2


def test_auto_takes_what_there_is() -> None:
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    assert select_device(context("auto")).type == kind


@pytest.mark.parametrize(
    "device",
    [
        "banana",
        "meta",
        "mps",
        "cuda:",
        "cuda:x",
        "cuda:-1",
        "",
        "CPU",
        "cuda:0,cuda:0",
        "cpu,cpu",
        "cuda:0,",
    ],
)
def test_what_is_no_device_is_refused(device: str) -> None:
    with pytest.raises(
        RecipeError, match=f"--device {device}: allowed are auto, cpu, cuda, cuda:N and"
    ):
        select_device(context(device))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7", "cuda:0,cuda:1"])
def test_a_missing_gpu_is_a_missing_capability(device: str) -> None:
    with pytest.raises(
        CapabilityError, match=f"device {device.split(',', maxsplit=1)[0]} is asked for, but torch"
    ):
        select_device(context(device))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_that_is_one_too_many_is_a_missing_capability() -> None:
    count = torch.cuda.device_count()
    assert select_device(context(f"cuda:{count - 1}")).index == count - 1
    with pytest.raises(CapabilityError, match=f"device cuda:{count} is asked for, but torch sees"):
        select_device(context(f"cuda:{count}"))


def test_a_device_that_stays_idle_is_spoken_of() -> None:
    progress = InterruptingProgress()
    note_idle([FIRST, SECOND], [FIRST, SECOND], progress)
    note_idle([CPU], [CPU], progress)
    assert progress.notes == []
    note_idle([FIRST, SECOND], [FIRST], progress)
    assert progress.notes == ["this step computes on one device: cuda:0; cuda:1 will not be used"]


def test_several_devices_are_all_named() -> None:
    assert describe_devices([CPU]) == describe_device(CPU)
    assert describe_devices([CPU, CPU]) == {**describe_device(CPU), "devices": "cpu,cpu"}
