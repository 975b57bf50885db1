"""An exported model's outputs from onnxruntime, to hold an engine's against."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.onnx_session import open_session, run_errors


class OnnxReference:
    """An exported model in onnxruntime, on the CPU.

    Args:
        folder: Holds `model.onnx`.
        description: Names the session options that it is to run with.

    Raises:
        InputError: onnxruntime does not load or run it.
        MemoryError: There is not enough for it.
    """

    def __init__(self, folder: Path, description: OnnxDescription) -> None:
        self._folder = folder
        self._session = open_session(folder, description)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Returns every output for the inputs, by name."""
        with run_errors(self._folder):
            arrays = self._session.run(None, dict(feeds))
        names = [output.name for output in self._session.get_outputs()]
        return {
            name: np.asarray(array, np.float32) for name, array in zip(names, arrays, strict=True)
        }
