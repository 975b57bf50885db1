"""An exported model's outputs from onnxruntime, to hold an engine's against."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from llmopt.artifacts.onnx_description import MODEL_NAME, OnnxDescription

LOG_ERRORS = 3


class OnnxReference:
    """An exported model in onnxruntime, on the CPU.

    Args:
        folder: Holds `model.onnx`.
        description: Names the session options that it is to run with.
    """

    def __init__(self, folder: Path, description: OnnxDescription) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = LOG_ERRORS
        for key, value in description.session_options.items():
            options.add_session_config_entry(key, value)
        path = str(folder / MODEL_NAME)
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Returns every output for the inputs, by name."""
        arrays = self._session.run(None, dict(feeds))
        names = [output.name for output in self._session.get_outputs()]
        return {
            name: np.asarray(array, np.float32) for name, array in zip(names, arrays, strict=True)
        }
