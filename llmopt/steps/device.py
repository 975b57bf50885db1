"""Picks the device that a step computes on; imports torch, so only a step's `run()` does."""

import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from llmopt.artifacts.progress import Progress
from llmopt.errors import CapabilityError, RecipeError
from llmopt.steps.base import RunContext

CPU_INFO = Path("/proc/cpuinfo")
DEVICES = re.compile(r"cpu|cuda(:\d{1,3})?|cuda:\d{1,3}(,cuda:\d{1,3})+")


def select_device(context: RunContext) -> torch.device:
    """Returns the context's device, the first of several, and sets torch's threads.

    Raises:
        RecipeError: There is no such kind of device.
        CapabilityError: CUDA is asked for and this torch or machine has none.
    """
    devices = select_devices(context)
    note_idle(devices, devices[:1], context.progress)
    return devices[0]


def note_idle(
    asked: Sequence[torch.device], used: Sequence[torch.device], progress: Progress
) -> None:
    """Says so where a step takes one device though several are asked for."""
    idle = [str(device) for device in asked if device not in used]
    if idle:
        progress.note(
            f"this step computes on one device: {used[0]}; {', '.join(idle)} will not be used"
        )


def select_devices(context: RunContext) -> list[torch.device]:
    """Returns all of the context's devices and sets torch's threads.

    Raises:
        RecipeError: There is no such kind of device, or one is named twice.
        CapabilityError: CUDA is asked for and this torch or machine has none.
    """
    if context.threads is not None:
        torch.set_num_threads(context.threads)
    if context.device == "auto":
        return [torch.device("cuda" if torch.cuda.is_available() else "cpu")]
    names = context.device.split(",")
    if not DEVICES.fullmatch(context.device) or len(set(names)) != len(names):
        raise RecipeError(
            f"--device {context.device}: allowed are auto, cpu, cuda, cuda:N and cuda:N,cuda:M,..."
        )
    return [_require_device(torch.device(name)) for name in names]


def _require_device(device: torch.device) -> torch.device:
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CapabilityError(
            f"device {device} is asked for, but torch {torch.__version__} sees no GPU",
            remedy="use --device cpu, or install a CUDA build of torch: pip install torch",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CapabilityError(
            f"device {device} is asked for, but torch sees {torch.cuda.device_count()} GPU(s)"
        )
    return device


def describe_device(device: torch.device) -> dict[str, str]:
    """Says what a step was computed on, for the manifest."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _describe_processor()
    return {"device": device.type, "name": name, "threads": str(torch.get_num_threads())}


def describe_devices(devices: Sequence[torch.device]) -> dict[str, str]:
    """Says the same of several that took part: the first one, and which they are."""
    several = {"devices": ",".join(map(str, devices))} if len(devices) > 1 else {}
    return {**describe_device(devices[0]), **several}


def _describe_processor() -> str:
    """Names what decides which kernels torch picks, and so the last bits of a result."""
    units = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    if CPU_INFO.exists() and " amx_bf16 " in CPU_INFO.read_text():
        units.append("AMX")
    return " ".join(units)
