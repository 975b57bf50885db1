"""A python model's source: imports of its own files, the class, and how it answers."""

import ast
from collections.abc import Callable, Iterator

from llmopt.triton.checks.python_names import find_name_faults
from llmopt.triton.checks.python_source import (
    ENTRY,
    Function,
    PythonSource,
    list_names,
    list_siblings,
    read_python_source,
)
from llmopt.triton.checks.python_tensors import find_read_faults, find_written_faults
from llmopt.triton.checks.release import find_python_version
from llmopt.triton.checks.report import Fault, Finding
from llmopt.triton.checks.repository import Repository, ServedModel

CLASS = "TritonPythonModel"
SENDER = "get_response_sender"
NUM_PARAMETERS = {"initialize": 2, "execute": 2, "finalize": 1}


def find_python_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges each served version's source."""
    checks: tuple[Callable[[ServedModel, int, PythonSource], Iterator[Finding]], ...] = (
        _find_import_faults,
        find_name_faults,
        _find_class_faults,
        _find_answer_faults,
        find_read_faults,
        find_written_faults,
    )
    python = find_python_version(repository.description)
    for version, folder in model.served_versions.items():
        source = read_python_source(folder, python)
        for file, reason in source.broken.items():
            yield model.fault(
                "",
                f"does not parse ({reason})",
                f"Python {python[0]}.{python[1]} is allowed",
                "correct it",
                f"{version}/{file}",
            )
        if ENTRY in source.trees:
            for check in checks:
                yield from check(model, version, source)


def _find_import_faults(model: ServedModel, version: int, source: PythonSource) -> Iterator[Fault]:
    """Judges imports of files beside the model, where nothing guards them."""
    for file, tree in source.trees.items():
        for node in tree.body:
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            origins = list_siblings(source.folder, file, node)
            written = f"from {'.' * node.level}{node.module or ''} import …"
            if None in origins:
                yield model.fault(
                    f"line {node.lineno}, {written}",
                    "finds no such file",
                    f"files of {version}/ are allowed",
                    "copy it there",
                    f"{version}/{file}",
                )
                continue
            known = (
                list_names(source.trees[origins[0] or ""])
                if (node.module and origins[0] in source.trees)
                else None
            )
            for alias in node.names:
                if known is not None and alias.name not in (*known, "*"):
                    yield model.fault(
                        f"line {node.lineno}, {written}",
                        f"finds no {alias.name}",
                        f"names of {origins[0]} are allowed",
                        "correct the name",
                        f"{version}/{file}",
                    )


def _find_class_faults(model: ServedModel, version: int, source: PythonSource) -> Iterator[Fault]:
    """Judges the class that the server looks for and its methods' parameters."""
    entry, file = source.trees[ENTRY], f"{version}/{ENTRY}"
    if CLASS not in list_names(entry):
        yield model.fault("", f"holds no class {CLASS}", "one is needed", "write it", file)
        return
    methods = _list_methods(entry)
    if methods is None:
        return
    if "execute" not in methods:
        yield model.fault(CLASS, "has no execute", "one is needed", "write it", file)
    for name, count in NUM_PARAMETERS.items():
        args = methods[name].args if name in methods else None
        if args is None or args.vararg is not None or methods[name].decorator_list:
            continue
        least = len(args.posonlyargs) + len(args.args) - len(args.defaults)
        if not least <= count <= len(args.posonlyargs) + len(args.args):
            yield model.fault(
                f"{CLASS}.{name}",
                f"takes {least} parameters",
                f"{count} are allowed, self included",
                "correct its signature",
                file,
            )


def _list_methods(entry: ast.Module) -> dict[str, Function] | None:
    """Returns the class's methods; None where it is not a plain class of this file."""
    for node in entry.body:
        if isinstance(node, ast.ClassDef) and node.name == CLASS and not node.bases:
            return {item.name: item for item in node.body if isinstance(item, Function)}
    return None


def _find_answer_faults(model: ServedModel, version: int, source: PythonSource) -> Iterator[Fault]:
    """Judges whether answers go the way that the config says: returned, or sent."""
    methods = _list_methods(source.trees[ENTRY]) or {}
    if "execute" not in methods:
        return
    sends = any(source.calls(SENDER))
    returns = any(
        isinstance(node, ast.Return) and not _is_none(node.value)
        for node in ast.walk(methods["execute"])
    )
    field = f"{CLASS}.execute"
    if model.config.model_transaction_policy.decoupled and not sends:
        yield model.fault(
            field,
            f"calls no {SENDER}",
            "a decoupled model sends its answers",
            "send them, or set decoupled to false",
            f"{version}/{ENTRY}",
        )
    elif not model.config.model_transaction_policy.decoupled and not sends and not returns:
        yield model.fault(
            field,
            "returns nothing",
            "a list of one InferenceResponse for each request is needed",
            "return it",
            f"{version}/{ENTRY}",
        )


def _is_none(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)
