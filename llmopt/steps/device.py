"""Picks the device that a step computes on; imports torch, so only a step's `run()` does."""

import torch

from llmopt.errors import CapabilityError, RecipeError
from llmopt.steps.base import RunContext


def select_device(context: RunContext) -> torch.device:
    """Returns the context's device and sets torch's threads.

    Raises:
        RecipeError: There is no such kind of device.
        CapabilityError: CUDA is asked for and this torch or machine has none.
    """
    if context.threads is not None:
        torch.set_num_threads(context.threads)
    if context.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(context.device)
    except RuntimeError as error:
        raise RecipeError(f"--device {context.device}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CapabilityError(
            f"device {context.device} is asked for, but torch {torch.__version__} sees no GPU",
            remedy="use --device cpu, or install a CUDA build of torch: pip install torch",
        )
    return device
