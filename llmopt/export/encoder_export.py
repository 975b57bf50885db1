"""Exports a BERT encoder; it is small beside a decoder and loaded whole."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForMaskedLM
from transformers.utils import logging as transformers_logging

from llmopt.artifacts.onnx_description import MODEL_NAME, OnnxDescription
from llmopt.artifacts.progress import Progress
from llmopt.checkpoint.encoder_config import EncoderConfig, EncoderTask
from llmopt.errors import InputError
from llmopt.export.decoder_export import ExportOptions
from llmopt.export.hollow_model import Encoder, MaskedPositionEncoder
from llmopt.export.model_file import save_model
from llmopt.export.parameters import Parameters, fill_parameters
from llmopt.export.signature import describe_encoder
from llmopt.export.tracing import TracedModel, trace

LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)
HEAD_SUFFIX = ".turned"  # of the tied embeddings' second copy
QUANTIZED_OPERATORS = ["MatMul", "Gather"]


def export_encoder(
    config: EncoderConfig,
    task: EncoderTask,
    options: ExportOptions,
    folder: Path,
    progress: Progress,
) -> OnnxDescription:
    """Writes `model.onnx`, `model.onnx.data` and `onnx.json` into a folder.

    For `int8_dynamic` this is the float32 model that `quantize_weights_dynamically` reads.

    Raises:
        InputError: transformers does not load the model.
        NumericalError: A weight does not fit into the dtype.
    """
    dtype: torch.dtype = getattr(torch, options.dtype)
    model = load_encoder(config, task).to(dtype)
    signature = describe_encoder(
        config, options.dtype, task, masked_positions=options.masked_positions
    )
    wrapper = MaskedPositionEncoder if options.masked_positions else Encoder
    progress.start("tracing", 1)
    traced = trace(wrapper(model).eval(), signature, options.opset)
    progress.advance()
    if options.weights == "int8_dynamic":
        _untie_head(traced)
    state = model.state_dict()
    source = Parameters(lambda name: state[name.removesuffix(HEAD_SUFFIX)], dtype, "plain", {})
    fill_parameters(traced.model, traced.parameters, source)
    save_model(traced.model, folder, progress)
    description = OnnxDescription(
        model_type="bert",
        task=task,
        weights=options.weights,
        dtype=options.dtype,
        opset=options.opset,
        kv_cache=False,
        last_token_logits=False,
        masked_positions=options.masked_positions,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        inputs=signature.inputs,
        outputs=signature.outputs,
    )
    description.write(folder)
    return description


def load_encoder(config: EncoderConfig, task: EncoderTask) -> Any:
    """Loads a model of transformers in float32, with the head that the task needs.

    Raises:
        InputError: It can't be loaded, or the checkpoint lacks some of its weights.
    """
    loader = AutoModelForMaskedLM if task == "fill_mask" else AutoModel
    extra = {} if task == "fill_mask" else {"add_pooling_layer": False}
    try:
        with _quiet_transformers():
            model, loaded = loader.from_pretrained(
                config.folder,
                dtype=torch.float32,
                attn_implementation="sdpa",
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **extra,
            )
    except LOAD_ERRORS as error:
        raise InputError(f"transformers does not load {config.folder}: {error}") from None
    missing = sorted(loaded["missing_keys"])
    if missing:  # transformers would fill them with random numbers
        raise InputError(
            f"{config.folder} lacks {len(missing)} tensors of {type(model).__name__}, the first is "
            f"{missing[0]}",
            remedy="complete the download of the checkpoint",
        )
    return model.eval().requires_grad_(requires_grad=False)


def quantize_weights_dynamically(source: Path, folder: Path, description: OnnxDescription) -> int:
    """Writes an exported encoder anew with int8 weights, whose inputs are rounded as they come.

    Returns:
        The number of products that are computed in integers.
    """
    with _quiet_root_logger():
        quantize_dynamic(
            source / MODEL_NAME,
            folder / MODEL_NAME,
            op_types_to_quantize=QUANTIZED_OPERATORS,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )
    description.write(folder)
    graph = onnx.load(folder / MODEL_NAME, load_external_data=False).graph
    return sum(node.op_type == "MatMulInteger" for node in graph.node)


def _untie_head(traced: TracedModel) -> None:
    """Gives an output layer that is tied to the embeddings a weight of its own.

    The embeddings are read by row and multiplied by column, and onnxruntime's quantiser takes only
    a product whose weight is stored as it is used.
    """
    for name, value in list(traced.parameters.items()):
        turns = [node for node in value.consumers() if node.op_type == "Transpose"]
        if not turns or len(turns) == len(value.consumers()):
            continue
        copy = ir.Value(name=name + HEAD_SUFFIX, shape=value.shape, type=value.type)
        for turn in turns:
            turn.replace_input_with(0, copy)
        traced.parameters[name + HEAD_SUFFIX] = copy


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keeps its progress bar and its report of unused heads to itself; both are global."""
    level = transformers_logging.get_verbosity()
    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if had_bar:
            transformers_logging.enable_progress_bar()


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Swallows the quantiser's advice, which else sets up the root logger for good."""
    root, sink = logging.getLogger(), logging.NullHandler()
    root.addHandler(sink)
    try:
        yield
    finally:
        root.removeHandler(sink)
