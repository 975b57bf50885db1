"""Writes an ONNX model: the graph in one file, the weights in one beside it."""

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from llmopt.artifacts.onnx_description import DATA_NAME, EXPORT_REMEDY, MODEL_NAME
from llmopt.artifacts.progress import Progress
from llmopt.errors import InputError

# What onnx.checker says of a file that ends too early, or was never a model.
TORN_SIGNS = ("Unable to parse proto", "ir_version")


def save_model(model: ir.Model, folder: Path, progress: Progress) -> None:
    """Writes `model.onnx` and `model.onnx.data`, reading one tensor at a time."""
    progress.start("writing weights", len(model.graph.initializers))

    def hear(tensor: Any, info: Any) -> None:
        del tensor, info
        progress.advance()

    ir.save(model, folder / MODEL_NAME, external_data=DATA_NAME, callback=hear)


def check_model_file(path: Path) -> None:
    """Holds a model against the ONNX standard, by its path: it may exceed 2 GB.

    Raises:
        InputError: It is not there, truncated, breaks the standard, or lacks its external data.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing, or no file", remedy=EXPORT_REMEDY)
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError) as error:
        said = " ".join(str(error).split())
        is_torn = any(sign in said for sign in TORN_SIGNS)
        fault = "is truncated, or no ONNX file" if is_torn else f"is no valid ONNX model: {said}"
        raise InputError(f"{path} {fault}", remedy=EXPORT_REMEDY) from None
