"""What stands beside an exported ONNX model: all that an engine or a server needs to know of it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from llmopt.artifacts.files import write_text_atomically
from llmopt.artifacts.json_model import read_json_model
from llmopt.artifacts.tensor_spec import TensorDtype, TensorSpec
from llmopt.errors import InputError

DESCRIPTION_NAME = "onnx.json"
MODEL_NAME = "model.onnx"
DATA_NAME = "model.onnx.data"
EXPORT_REMEDY = "copy the folder again, or export the model anew"
# Without it onnxruntime rounds the inputs of int4 products to int8 (session option, measured:
# 3 % of error in the logits).
EXACT_INT4 = {"session.qdq_matmulnbits_accuracy_level": "0"}
OnnxWeights = Literal["plain", "dequantised", "qdq_int4", "matmulnbits", "int8_dynamic"]
OnnxTask = Literal["generate", "fill_mask", "embed"]


class OnnxDescription(BaseModel):
    """The contents of `onnx.json`.

    Attributes:
        session_options: Entries of onnxruntime's session config that the model is to run with.
        max_position_embeddings: Tokens that a row may have, past and present.
        masked_positions: Whether a row's logits are those of the one position that the input of
            this name gives.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: Literal[1] = 1
    model_type: str
    task: OnnxTask
    weights: OnnxWeights
    dtype: TensorDtype
    opset: int
    kv_cache: bool
    last_token_logits: bool
    masked_positions: bool = False
    vocab_size: int
    max_position_embeddings: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    session_options: dict[str, str] = {}

    def write(self, folder: Path) -> None:
        """Writes `onnx.json` into a folder."""
        write_text_atomically(folder / DESCRIPTION_NAME, self.model_dump_json(indent=1) + "\n")


def read_onnx_description(folder: Path) -> OnnxDescription:
    """Reads the description of an exported model.

    Raises:
        InputError: There is none, or it is not one that this version can read.
    """
    path = folder / DESCRIPTION_NAME
    what = "the description of an exported model"
    try:
        return read_json_model(path, OnnxDescription, what, EXPORT_REMEDY)
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no {DESCRIPTION_NAME}",
            remedy="export the model with llmopt export-onnx",
        ) from None
