"""Exports a BERT encoder, and holds it against transformers.

An encoder is small beside a decoder: it is loaded whole.

Shapes: T = tokens of a row.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel, AutoModelForMaskedLM

from llmopt.artifacts.onnx_description import MODEL_NAME, OnnxDescription
from llmopt.artifacts.progress import Progress
from llmopt.checkpoint.encoder_config import EncoderConfig, EncoderTask
from llmopt.errors import InputError
from llmopt.export.decoder_export import ExportOptions
from llmopt.export.hollow_model import Encoder
from llmopt.export.model_file import save_model
from llmopt.export.parameters import Parameters, fill_parameters
from llmopt.export.parity import ROW_LENGTHS, SEED, Parity, compare
from llmopt.export.session import run_named
from llmopt.export.signature import describe_encoder
from llmopt.export.tracing import trace

LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError)


def export_encoder(
    config: EncoderConfig,
    task: EncoderTask,
    options: ExportOptions,
    folder: Path,
    progress: Progress,
) -> OnnxDescription:
    """Writes `model.onnx`, `model.onnx.data` and `onnx.json` into a folder.

    Raises:
        InputError: transformers does not load the model.
    """
    dtype: torch.dtype = getattr(torch, options.dtype)
    model = load_encoder(config, task).to(dtype)
    signature = describe_encoder(config, options.dtype, task)
    progress.start("tracing", 1)
    traced = trace(Encoder(model).eval(), signature, options.opset)
    progress.advance()
    state = model.state_dict()
    fill_parameters(
        traced.model, traced.parameters, Parameters(state.__getitem__, dtype, "plain", {})
    )
    save_model(traced.model, folder, progress)
    description = OnnxDescription(
        model_type="bert",
        task=task,
        weights=options.weights,
        dtype=options.dtype,
        opset=options.opset,
        kv_cache=False,
        last_token_logits=False,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        inputs=signature.inputs,
        outputs=signature.outputs,
    )
    description.write(folder)
    return description


def quantize_weights_dynamically(source: Path, folder: Path, description: OnnxDescription) -> None:
    """Writes an exported encoder anew with int8 weights, whose inputs are rounded as they come."""
    quantize_dynamic(
        source / MODEL_NAME,
        folder / MODEL_NAME,
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )
    description.write(folder)


def load_encoder(config: EncoderConfig, task: EncoderTask) -> Any:
    """Loads a model of transformers in float32, with the head that the task needs.

    Raises:
        InputError: It can't be loaded.
    """
    loader = AutoModelForMaskedLM if task == "fill_mask" else AutoModel
    extra = {} if task == "fill_mask" else {"add_pooling_layer": False}
    try:
        model = loader.from_pretrained(
            config.folder, dtype=torch.float32, attn_implementation="sdpa", **extra
        )
    except LOAD_ERRORS as error:
        raise InputError(f"transformers does not load {config.folder}: {error}") from None
    return model.eval().requires_grad_(requires_grad=False)


def check_encoder(
    session: ort.InferenceSession, description: OnnxDescription, config: EncoderConfig
) -> Parity:
    """Compares an exported encoder with transformers on random tokens, each row alone there."""
    task: EncoderTask = "embed" if description.task == "embed" else "fill_mask"
    model = load_encoder(config, task)
    generator = np.random.default_rng(SEED)
    lengths = [min(length, config.max_position_embeddings) for length in ROW_LENGTHS]
    rows = [generator.integers(0, config.vocab_size, n).tolist() for n in lengths]
    with torch.inference_mode():
        references = [model(torch.tensor([row]))[0][0].numpy() for row in rows]
    longest = max(lengths)
    feeds = {
        "input_ids": np.array([row + [0] * (longest - len(row)) for row in rows], np.int64),
        "attention_mask": np.array([[1] * n + [0] * (longest - n) for n in lengths], np.int64),
        "token_type_ids": np.zeros((len(rows), longest), np.int64),
    }
    output_BTV = run_named(session, feeds, description.outputs[0].name)
    return compare([output_BTV[i, :n] for i, n in enumerate(lengths)], references)
