"""Whether an exported model's folder is what its description says, and runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from llmopt.artifacts.onnx_description import (
    DESCRIPTION_NAME,
    MODEL_NAME,
    OnnxDescription,
    read_onnx_description,
)
from llmopt.artifacts.onnx_graph import list_inputs, list_outputs
from llmopt.artifacts.onnx_session import open_session, run_errors
from llmopt.artifacts.tensor_spec import describe_differences
from llmopt.errors import InputError
from llmopt.export.model_file import check_model_file
from llmopt.export.session import OnnxDecoder, run_named

PROBE_TOKENS = 4


@dataclass(frozen=True)
class OnnxReport:
    """What was looked at, and what was wrong with it.

    Attributes:
        description: One line: model type, task, dtype, weights.
        faults: One sentence each; empty where the model is sound.
        not_checked: What could not be looked at, with the reason.
    """

    description: str
    faults: list[str]
    not_checked: list[str]


def verify_onnx(folder: Path) -> OnnxReport:
    """Holds an exported model against the ONNX standard and its description, and runs it once.

    Raises:
        InputError: The folder holds no description that can be read.
    """
    description = read_onnx_description(folder)
    kind = f"{description.model_type}, {description.task}, {description.dtype}"
    return OnnxReport(
        f"{kind}, weights {description.weights}, opset {description.opset}",
        list(_find_faults(folder, description)),
        ["running it: onnxruntime's CPU provider lacks bfloat16"]
        if description.dtype == "bfloat16"
        else [],
    )


def _find_faults(folder: Path, description: OnnxDescription) -> Iterator[str]:
    path = folder / MODEL_NAME
    try:
        check_model_file(path)
        graph = onnx.load(str(path), load_external_data=False).graph
    except (InputError, OSError) as error:
        yield str(error).partition("\n")[0]  # without the remedy
        return
    faults = [
        *describe_differences("input", description.inputs, list_inputs(graph)),
        *describe_differences("output", description.outputs, list_outputs(graph)),
    ]
    yield from (f"the graph is not as {DESCRIPTION_NAME} says: {fault}" for fault in faults)
    if faults or description.dtype == "bfloat16":  # which onnxruntime's CPU provider lacks
        return
    try:
        with run_errors(folder):
            values = _probe(folder, description)
    except InputError as error:
        yield error.message
        return
    if not np.isfinite(values).all():
        yield f"{description.outputs[0].name} holds NaN or infinity"


def _probe(folder: Path, description: OnnxDescription) -> np.ndarray:
    """Runs a few tokens; returns the first output."""
    session = open_session(folder, description)
    ids_BT = np.arange(PROBE_TOKENS, dtype=np.int64)[None] % description.vocab_size
    mask_BT = np.ones_like(ids_BT)
    if description.kv_cache:
        decoder = OnnxDecoder(session, description)
        decoder.start(1)
        return decoder.forward(ids_BT, mask_BT)
    feeds = {"input_ids": ids_BT, "attention_mask": mask_BT}
    if any(spec.name == "token_type_ids" for spec in description.inputs):
        feeds["token_type_ids"] = np.zeros_like(ids_BT)
    if description.masked_positions:
        feeds["masked_positions"] = np.full(1, PROBE_TOKENS - 1)
    return run_named(session, feeds, description.outputs[0].name)
