"""What a build takes of the machine, from the model's size alone."""

import math
from pathlib import Path

from llmopt.artifacts.files import format_bytes
from llmopt.artifacts.onnx_description import DATA_NAME, MODEL_NAME
from llmopt.errors import ResourceError

RAM_FACTOR = 3.5  # of the model's bytes, measured with TensorRT-RTX 1.7
DISK_FACTOR = 1.5  # an engine of two profiles is somewhat larger than its model


def measure_model_bytes(folder: Path) -> int:
    """Returns the size of an exported model's graph and weights."""
    paths = (folder / MODEL_NAME, folder / DATA_NAME)
    return sum(path.stat().st_size for path in paths if path.exists())


def check_memory(path: Path, num_bytes: int, free_bytes: int) -> None:
    """Refuses to begin a build that the machine's memory would end.

    Args:
        path: Of the graph, for the message.
        num_bytes: Its size with its weights.
        free_bytes: Memory that new work could use.

    Raises:
        ResourceError: Names what is needed and what is free.
    """
    needed = math.ceil(RAM_FACTOR * num_bytes)
    if needed > free_bytes:
        raise ResourceError(
            f"building from {path} takes about {format_bytes(needed)} of memory "
            f"({RAM_FACTOR:g} × the model's {format_bytes(num_bytes)}); "
            f"{format_bytes(free_bytes)} are free",
            remedy="build on a machine with more, or export with weights: qdq_int4",
        )
