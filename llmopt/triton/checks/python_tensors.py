"""Tensors that a python model's source reads and writes, against those that its config declares.

A name that the config lacks is a fault where one that it has is left out: a source may serve
several configs, and does not read or write all of its names in each.
"""

import ast
from collections.abc import Iterator

from tritonclient.grpc import model_config_pb2 as pb

from llmopt.triton.checks.python_arrays import ArrayFacts, infer_array
from llmopt.triton.checks.python_source import ENTRY, PythonSource, find_argument
from llmopt.triton.checks.python_texts import Texts, find_texts
from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import ServedModel

Use = tuple[str, ast.Call, Texts | None]


def find_read_faults(model: ServedModel, version: int, source: PythonSource) -> Iterator[Fault]:
    """Judges the names of inputs that the source asks for."""
    declared = {tensor.name for tensor in model.config.input}
    needed = {tensor.name for tensor in model.config.input if not tensor.optional}
    uses = _list_uses(source, "get_input_tensor_by_name", 1)
    if any(names is None for _, _, names in uses) or any(source.calls("inputs")):
        return
    if needed <= _join(uses):
        return
    for file, call, names in uses:
        for name in sorted((names or frozenset()) - declared):
            yield model.fault(
                f"line {call.lineno}",
                f'reads input "{name}"',
                f"inputs of config.pbtxt are allowed: {', '.join(sorted(declared))}",
                "correct one of the two names, or declare the input",
                f"{version}/{file}",
            )


def find_written_faults(
    model: ServedModel, version: int, source: PythonSource
) -> Iterator[Finding]:
    """Judges names, data types and shapes of the tensors that the source makes."""
    declared = {tensor.name: tensor for tensor in model.config.output}
    uses = _list_uses(source, "Tensor", 0)
    for file, call, names in uses:
        if names is not None and len(names) == 1 and names <= set(declared):
            facts = infer_array(source, find_argument(call, 1, "data"))
            place = f"{version}/{file}"
            yield from _find_array_faults(model, place, call, declared[next(iter(names))], facts)
    if any(names is None for _, _, names in uses) or any(source.calls("from_dlpack")):
        yield Unchecked(
            f"{model.name}: which outputs {version}/{ENTRY} writes: not all names are constants"
        )
        return
    missing = sorted(set(declared) - _join(uses))
    for name in missing:
        yield model.fault(
            f'output "{name}"',
            f"is written nowhere in {version}/{ENTRY}",
            f"the source writes {', '.join(sorted(_join(uses))) or 'none'}",
            "write it, or remove it from the config",
        )
    if missing and not any(source.calls("InferenceRequest")):  # which takes inputs of others
        yield from _find_name_faults(model, version, uses, set(declared))


def _list_uses(source: PythonSource, function: str, position: int) -> list[Use]:
    """Lists the calls of a function, and which names they may give."""
    return [
        (file, call, find_texts(source, file, find_argument(call, position, "name")))
        for file, call in source.calls(function)
    ]


def _join(uses: list[Use]) -> set[str]:
    return {name for _, _, names in uses for name in names or ()}


def _find_name_faults(
    model: ServedModel, version: int, uses: list[Use], declared: set[str]
) -> Iterator[Fault]:
    for file, call, names in uses:
        for name in sorted((names or frozenset()) - declared):
            yield model.fault(
                f"line {call.lineno}",
                f'writes output "{name}"',
                f"outputs of config.pbtxt are allowed, others are dropped without a word: "
                f"{', '.join(sorted(declared))}",
                "correct one of the two names, or declare the output",
                f"{version}/{file}",
            )


def _find_array_faults(
    model: ServedModel, place: str, call: ast.Call, declared: pb.ModelOutput, facts: ArrayFacts
) -> Iterator[Fault]:
    field = f'line {call.lineno}, output "{declared.name}"'
    if facts.data_type not in (None, declared.data_type):
        yield model.fault(
            field,
            f"is {pb.DataType.Name(facts.data_type)}",
            f"config.pbtxt says {pb.DataType.Name(declared.data_type)}, which the server does "
            "not hold it to",
            "convert it, or correct data_type",
            place,
        )
    batch = [-1] if model.config.max_batch_size > 0 else []
    dims = batch + list(declared.dims)
    if facts.shape is None or declared.HasField("reshape"):
        return
    fits = len(facts.shape) == len(dims) and all(
        size is None or limit in (-1, size) for size, limit in zip(facts.shape, dims, strict=True)
    )
    if not fits:
        shape = ", ".join("?" if size is None else str(size) for size in facts.shape)
        yield model.fault(
            field,
            f"has shape [{shape}]",
            f"config.pbtxt says {dims} (batch axis included), which the server does not hold it to",
            "reshape it, or correct dims",
            place,
        )
