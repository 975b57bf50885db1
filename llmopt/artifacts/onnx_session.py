"""Sessions of onnxruntime on the CPU, and what it says where it can't; imports onnxruntime."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from llmopt.artifacts.child_events import OUT_OF_MEMORY
from llmopt.artifacts.onnx_description import EXPORT_REMEDY, MODEL_NAME, OnnxDescription
from llmopt.errors import InputError

LOG_FATAL = 4  # it raises its errors, and need not print them too
ORT_ERRORS = (
    ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf, ort_errors.NoSuchFile, ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)  # fmt: skip
# Its code, and its source's places with the function there, in front of what it says.
CODE = re.compile(r".*\[ONNXRuntimeError\] : \d+ : \w+ : ", re.DOTALL)
SOURCE_PLACE = re.compile(r"\S+\.(?:cc|h):\d+ (?:[^()]*::\w+\([^()]*\)|\w+) ")


def open_session(
    folder: Path, description: OnnxDescription, threads: int | None = None
) -> ort.InferenceSession:
    """Loads an exported model.

    Args:
        folder: Holds `model.onnx`.
        description: Names the session options that it is to run with.
        threads: None leaves onnxruntime's choice.

    Raises:
        InputError: onnxruntime takes it not; its own words are in the message.
        MemoryError: There is not enough for it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = LOG_FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    for key, value in description.session_options.items():
        options.add_session_config_entry(key, value)
    path = folder / MODEL_NAME
    try:
        with memory_errors():
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        raise InputError(
            f"onnxruntime does not load {path}: {clean_message(error)}",
            remedy=EXPORT_REMEDY,
        ) from None


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raises what onnxruntime says of memory that ran out as a MemoryError."""
    try:
        yield
    except (ort_errors.Fail, ort_errors.RuntimeException) as error:
        if OUT_OF_MEMORY.search(str(error)):
            raise MemoryError(clean_message(error)) from None
        raise


@contextmanager
def run_errors(folder: Path) -> Iterator[None]:
    """Raises what onnxruntime says where it can't run the model of a folder as the folder's fault.

    Raises:
        InputError: The model does not run on inputs that its description allows.
        MemoryError: There is not enough for it.
    """
    try:
        with memory_errors():
            yield
    except ORT_ERRORS as error:
        raise InputError(
            f"onnxruntime does not run {folder / MODEL_NAME}: {clean_message(error)}",
            remedy=EXPORT_REMEDY,
        ) from None


def clean_message(error: Exception) -> str:
    """Returns what onnxruntime says, on one line, without its codes and its source's places."""
    return " ".join(SOURCE_PLACE.sub("", CODE.sub("", str(error))).split())
