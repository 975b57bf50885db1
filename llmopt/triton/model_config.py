"""config.pbtxt, through Triton's own protobufs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb  # the server's own

from llmopt.artifacts.tensor_spec import TensorDtype, TensorSpec
from llmopt.artifacts.triton_description import Backend
from llmopt.errors import InputError

__all__ = ["CONFIG_NAME", "ModelConfig", "make_config", "pb", "read_config", "write_config"]

CONFIG_NAME = "config.pbtxt"
ModelConfig = Any  # model_config_pb2.ModelConfig; the generated module carries no types
TRITON_DTYPES: dict[TensorDtype, str] = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "uint32": "TYPE_UINT32",
    "bool": "TYPE_BOOL",
    "string": "TYPE_STRING",
}


def make_config(
    name: str,
    backend: Backend,
    max_batch_size: int,
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
) -> ModelConfig:
    """Writes what every model's config says: its name, backend, batch size and whole IO.

    Args:
        name: The model's folder.
        backend: "ensemble" becomes the platform of that name.
        max_batch_size: Where it is not 0, the first axis of each spec is the batch, which the
            config leaves out.
        inputs: In the config's order.
        outputs: Likewise.
    """
    config = pb.ModelConfig(name=name, max_batch_size=max_batch_size)
    if backend == "ensemble":
        config.platform = "ensemble"
    else:
        config.backend = backend
    for spec in inputs:
        _add_tensor(config.input, spec, max_batch_size)
    for spec in outputs:
        _add_tensor(config.output, spec, max_batch_size)
    return config


def write_config(folder: Path, config: ModelConfig) -> None:
    """Writes a model's config.pbtxt, reads it back and compares."""
    text = text_format.MessageToString(config, as_utf8=True)
    assert text_format.Parse(text, pb.ModelConfig()) == config, "config.pbtxt does not read back"
    (folder / CONFIG_NAME).write_text(text, encoding="utf-8")


def read_config(folder: Path) -> ModelConfig:
    """Reads a model's config.pbtxt.

    Raises:
        InputError: There is none, or it is no ModelConfig; with line and column.
    """
    path = folder / CONFIG_NAME
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except FileNotFoundError:
        raise InputError(f"{folder} holds no {CONFIG_NAME}") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no model config: {error}") from None


def _add_tensor(tensors: Any, spec: TensorSpec, max_batch_size: int) -> None:
    """Adds a tensor; one value per row is dims [1], reshaped to what the model takes: [batch]."""
    dims = _dims(spec, max_batch_size)
    tensor = tensors.add(name=spec.name, data_type=_dtype(spec), dims=dims or [1])
    if not dims:
        tensor.reshape.SetInParent()


def _dtype(spec: TensorSpec) -> int:
    return int(pb.DataType.Value(TRITON_DTYPES[spec.dtype]))


def _dims(spec: TensorSpec, max_batch_size: int) -> list[int]:
    return list(spec.shape[1:] if max_batch_size else spec.shape)
