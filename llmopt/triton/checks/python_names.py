"""Names that a python model's source uses and nothing defines: errors at its first request."""

import ast
import builtins
import difflib
import symtable
from collections.abc import Iterator

from llmopt.triton.checks.python_source import PythonSource, list_names
from llmopt.triton.checks.report import Fault
from llmopt.triton.checks.repository import ServedModel

UTILITIES = "triton_python_backend_utils"
# What that module offers in the server: its own source, and what the stub adds.
UTILITY_NAMES = {
    "Tensor", "InferenceRequest", "InferenceResponse", "InferenceResponseSender", "InferenceTrace",
    "Logger", "Metric", "MetricFamily", "ModelConfig", "PreferredMemory", "ResponseIterator",
    "SharedMemory", "TritonError", "TritonModelException", "TRITONSERVER_MEMORY_CPU",
    "TRITONSERVER_MEMORY_GPU", "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START", "TRITONSERVER_RESPONSE_COMPLETE_FINAL",
    "TRITON_STRING_TO_NUMPY", "deserialize_bytes_tensor", "get_input_config_by_name",
    "get_input_tensor_by_name", "get_output_config_by_name", "get_output_tensor_by_name",
    "is_model_ready", "load_model", "numpy_to_triton_type", "serialize_byte_tensor",
    "triton_string_to_numpy", "triton_to_numpy_type", "unload_model",
    "using_decoupled_model_transaction_policy",
}  # fmt: skip
MODULE_NAMES = frozenset({*dir(builtins), "__file__", "__annotations__"})


def find_name_faults(model: ServedModel, version: int, source: PythonSource) -> Iterator[Fault]:
    """Judges every name, and every attribute of the server's own module."""
    for file, tree in source.trees.items():
        place = f"{version}/{file}"
        text = (source.folder / file).read_text(encoding="utf-8")
        for name in list_undefined(tree, text, file):
            yield model.fault(
                f"line {name.lineno}",
                f"uses {name.id}, which nothing defines",
                "names of the file and Python's own are allowed",
                "import or define it",
                place,
            )
        for node in _list_wrong_attributes(tree):
            close = difflib.get_close_matches(node.attr, UTILITY_NAMES, n=1)
            yield model.fault(
                f"line {node.lineno}",
                f"uses {UTILITIES}.{node.attr}",
                "the server's module has no such name",
                f"write {close[0]}" if close else "remove it",
                place,
            )


def list_undefined(tree: ast.Module, text: str, file: str) -> list[ast.Name]:
    """Lists the first use of each global name that the module does not define."""
    defined = list_names(tree) | MODULE_NAMES
    if "*" in defined:
        return []
    used = set(_list_global_names(symtable.symtable(text, file, "exec")))
    first: dict[str, ast.Name] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in used - defined:
            first.setdefault(node.id, node)
    return list(first.values())


def _list_global_names(table: symtable.SymbolTable) -> Iterator[str]:
    """Yields what a scope, or one in it, looks up in the module."""
    is_module = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (is_module or symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _list_global_names(child)


def _list_wrong_attributes(tree: ast.Module) -> Iterator[ast.Attribute]:
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == UTILITIES
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in aliases
            and node.attr not in UTILITY_NAMES
        ):
            yield node
