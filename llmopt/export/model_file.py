"""Writes an ONNX model: the graph in one file, the weights in one beside it."""

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from llmopt.artifacts.onnx_description import DATA_NAME, MODEL_NAME
from llmopt.artifacts.progress import Progress
from llmopt.errors import InputError


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
        InputError: It breaks it, or its external data is missing.
    """
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise InputError(f"{path} is no valid ONNX model: {error}") from None
