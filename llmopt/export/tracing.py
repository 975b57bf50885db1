"""Traces a module into an ONNX graph whose parameters are still to be filled in."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import nn

from llmopt.artifacts.tensor_spec import BATCH, PAST, SEQUENCE, TOTAL, TensorSpec
from llmopt.export.hollow_model import DECODER_PREFIX
from llmopt.export.signature import Signature

# Sizes of the example that is traced: no two alike and none 0 or 1, so that none is taken for a
# constant or for another.
EXAMPLE_SIZES = {BATCH: 2, SEQUENCE: 3, PAST: 5, TOTAL: 8}


@dataclass(frozen=True)
class TracedModel:
    """A graph, and its parameters by their names in the model of transformers.

    The parameters are values without contents: neither inputs nor initialisers.
    """

    model: ir.Model
    parameters: dict[str, ir.Value]


def trace(module: nn.Module, signature: Signature, opset: int) -> TracedModel:
    """Traces a module with hollow parameters.

    Args:
        module: Takes the inputs that the signature names, a list for the key-value cache.
        signature: Names and axes.
        opset: Of the default ONNX domain.

    Returns:
        The optimised model.
    """
    with _without_warnings(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(_group(signature, [_make_example(spec) for spec in signature.inputs])),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=opset,
            input_names=[spec.name for spec in signature.inputs],
            output_names=[spec.name for spec in signature.outputs],
            dynamic_shapes=tuple(_group(signature, [_name_axes(s) for s in signature.inputs])),
        )
        assert program is not None
        model = program.model
        parameters = _detach_parameters(model, module)
        onnxscript.optimizer.optimize_ir(model)
    for value in parameters.values():
        model.graph.inputs.remove(value)
    for value, spec in zip(model.graph.outputs, signature.outputs, strict=True):
        # The exporter calls an axis of the cache "sequence + past_sequence".
        value.shape = ir.Shape([axis.name if axis.is_dynamic else axis.size for axis in spec.axes])
    _forget_origins(model)
    return TracedModel(model, parameters)


def _make_example(spec: TensorSpec) -> torch.Tensor:
    sizes = [EXAMPLE_SIZES[axis.name] if axis.is_dynamic else axis.size for axis in spec.axes]
    return torch.ones(sizes, dtype=getattr(torch, spec.dtype))


def _name_axes(spec: TensorSpec) -> dict[int, str]:
    return {index: axis.name for index, axis in enumerate(spec.axes) if axis.is_dynamic}


def _group(signature: Signature, entries: list[Any]) -> list[Any]:
    """Puts the entries of the key-value cache into one list, as the modules take them."""
    first = len(signature.inputs) - len(signature.cache_inputs())
    return entries if first == len(entries) else [*entries[:first], entries[first:]]


def _detach_parameters(model: ir.Model, module: nn.Module) -> dict[str, ir.Value]:
    """Turns parameters into inputs: the optimiser would fold their zeros into the graph.

    Returns:
        By name in the model of transformers; tied parameters by that of the first.
    """
    graph = model.graph
    names = {id(parameter): name for name, parameter in reversed([*module.named_parameters()])}
    found: dict[str, ir.Value] = {}
    for alias, parameter in module.named_parameters(remove_duplicate=False):
        value = graph.initializers.pop(alias, None)
        if value is None:
            continue
        value.const_value = None
        name = names[id(parameter)].removeprefix(DECODER_PREFIX)
        if name in found:
            value.replace_all_uses_with(found[name])
        else:
            found[name] = value
            graph.inputs.append(value)
    return found


def _forget_origins(model: ir.Model) -> None:
    """Drops what the exporter notes of source files: folders of the machine it ran on."""
    graph = model.graph
    graph.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keeps what the exporter says of torchvision and of axes that share a name to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
