"""The package tritonclient: Triton's protobufs, and clients of its server; an extra of llmopt."""

import importlib.util

from llmopt.errors import CapabilityError


def require_tritonclient(purpose: str) -> None:
    """Refuses where it is not installed.

    Args:
        purpose: What it is needed for, such as "package.triton writes config.pbtxt".

    Raises:
        CapabilityError: It is not; the remedy is how to get it.
    """
    if importlib.util.find_spec("tritonclient") is None:
        raise CapabilityError(
            f"{purpose} with tritonclient, which is not installed",
            remedy="pip install 'llmopt[triton]'",
        )
