"""Exports a decoder: traced without weights, filled tensor by tensor as the file is written."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from llmopt.artifacts.onnx_description import (
    EXACT_INT4,
    OnnxDescription,
    OnnxWeights,
)
from llmopt.artifacts.progress import Progress
from llmopt.artifacts.tensor_spec import TensorDtype
from llmopt.checkpoint.checkpoint import Checkpoint, linear_names
from llmopt.checkpoint.packed_weight import PackedWeight
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER
from llmopt.checkpoint.stored_quantization import StoredLayer
from llmopt.checkpoint.stored_weight import read_packed_weight
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.export.hollow_model import CachedDecoder, PlainDecoder, build_hollow_decoder
from llmopt.export.model_file import save_model
from llmopt.export.parameters import Parameters, fill_parameters
from llmopt.export.signature import describe_decoder
from llmopt.export.tracing import trace
from llmopt.export.weight_form import IntegerLayer


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported.

    Attributes:
        weights: How the weights of linear layers stand in the file.
        dtype: What is computed in.
        opset: Of the default ONNX domain.
        kv_cache: Whether a decoder takes and returns its key-value cache.
        last_token_logits: Whether a decoder returns the logits of the last position alone.
        masked_positions: Whether an encoder returns the logits of one given position per row.
    """

    weights: OnnxWeights
    dtype: TensorDtype
    opset: int
    kv_cache: bool
    last_token_logits: bool
    masked_positions: bool = False


@dataclass(frozen=True)
class ExportedModel:
    """What was written.

    Attributes:
        description: Goes beside the model.
        integer_layers: Layers that the file holds as integers.
    """

    description: OnnxDescription
    integer_layers: tuple[str, ...]


def export_decoder(
    checkpoint: Checkpoint, options: ExportOptions, folder: Path, progress: Progress
) -> ExportedModel:
    """Writes `model.onnx`, `model.onnx.data` and `onnx.json` into a folder.

    Raises:
        IncompatibleError: Its rotary frequencies can't be a graph, or a layer's groups can't be
            written in this form.
        NumericalError: A weight does not fit into the dtype.
        InputError: A weight is damaged.
    """
    dtype: torch.dtype = getattr(torch, options.dtype)
    config = checkpoint.config
    streamed = StreamedModel(checkpoint, torch.device("cpu"), dtype)
    signature = describe_decoder(
        config,
        options.dtype,
        kv_cache=options.kv_cache,
        last_token_logits=options.last_token_logits,
    )
    progress.start("tracing", 1)
    wrapper = CachedDecoder if options.kv_cache else PlainDecoder
    hollow = wrapper(
        build_hollow_decoder(streamed), last_token_logits=options.last_token_logits
    ).eval()
    traced = trace(hollow, signature, options.opset)
    progress.advance()
    integers = list_integer_layers(checkpoint)
    source = Parameters(streamed.read_weight, dtype, options.weights, integers)
    integer_layers = fill_parameters(traced.model, traced.parameters, source)
    save_model(traced.model, folder, progress)
    description = OnnxDescription(
        model_type=config.model_type,
        task="generate",
        weights=options.weights,
        dtype=options.dtype,
        opset=options.opset,
        kv_cache=options.kv_cache,
        last_token_logits=options.last_token_logits,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        inputs=signature.inputs,
        outputs=signature.outputs,
        session_options=EXACT_INT4 if integer_layers else {},
    )
    description.write(folder)
    return ExportedModel(description, tuple(integer_layers))


def list_integer_layers(checkpoint: Checkpoint) -> dict[str, IntegerLayer]:
    """Returns the checkpoint's layers of packed integers by name."""
    if checkpoint.quantization is None:
        return {}
    reader = _LayerReader(checkpoint)
    head = (OUTPUT_LAYER, checkpoint.config.embedding_shape)
    layers = {}
    for name, shape_OI in (*linear_names(checkpoint.config), head):
        stored = checkpoint.quantization.find_layer(name)
        if isinstance(stored, StoredLayer):
            read = partial(reader.read, name)
            layers[name] = IntegerLayer(name, stored.scheme, shape_OI, read)
    return layers


class _LayerReader:
    """Reads packed layers and keeps the last one: its parts are written one after another."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._last: tuple[str, PackedWeight] | None = None

    def read(self, name: str) -> PackedWeight:
        if self._last is None or self._last[0] != name:
            self._last = None  # the old one goes before the new one comes
            self._last = (name, read_packed_weight(self._checkpoint, name))
        return self._last[1]
