"""What a python model's source reads and writes, against what its config declares."""

import ast
from collections.abc import Callable, Iterator

from tritonclient.grpc import model_config_pb2 as pb

from llmopt.triton.checks.python_arrays import ArrayFacts, infer_array
from llmopt.triton.checks.python_names import find_name_faults
from llmopt.triton.checks.python_source import (
    ENTRY,
    Function,
    PythonSource,
    find_argument,
    list_names,
    list_siblings,
    read_python_source,
)
from llmopt.triton.checks.python_texts import Texts, find_texts
from llmopt.triton.checks.release import find_python_version
from llmopt.triton.checks.report import Fault, Finding, Unchecked
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
        _find_read_faults,
        _find_written_faults,
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


def _find_read_faults(model: ServedModel, version: int, source: PythonSource) -> Iterator[Fault]:
    """Judges the names of inputs that the source asks for."""
    declared = [tensor.name for tensor in model.config.input]
    for file, call in source.calls("get_input_tensor_by_name"):
        if isinstance(call.func, ast.Attribute) and _answers_of_others(call):
            continue
        names = find_texts(source, file, find_argument(call, 1, "name"))
        for name in sorted((names or frozenset()) - set(declared)):
            yield model.fault(
                f"line {call.lineno}",
                f'reads input "{name}"',
                f"inputs of config.pbtxt are allowed: {', '.join(declared)}",
                "correct one of the two names, or declare the input",
                f"{version}/{file}",
            )


def _answers_of_others(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(call.args[0], ast.Call)


def _find_written_faults(
    model: ServedModel, version: int, source: PythonSource
) -> Iterator[Finding]:
    """Judges names, data types and shapes of the tensors that the source makes."""
    declared = {tensor.name: tensor for tensor in model.config.output}
    written: set[str] = set()
    unknown = any(source.calls("from_dlpack"))
    calls_others = any(source.calls("InferenceRequest"))
    for file, call in source.calls("Tensor"):
        names = find_texts(source, file, find_argument(call, 0, "name"))
        if names is None:
            unknown = True
            continue
        written |= names
        place = f"{version}/{file}"
        if not calls_others:
            yield from _find_name_faults(model, place, call, names, list(declared))
        if len(names) == 1 and names <= set(declared):
            facts = infer_array(source, find_argument(call, 1, "data"))
            yield from _find_array_faults(model, place, call, declared[next(iter(names))], facts)
    if unknown:
        yield Unchecked(
            f"{model.name}: which outputs {version}/{ENTRY} writes: not all names are constants"
        )
        return
    for name in sorted(set(declared) - written):
        yield model.fault(
            f'output "{name}"',
            f"is written nowhere in {version}/{ENTRY}",
            f"the source writes {', '.join(sorted(written)) or 'none'}",
            "write it, or remove it from the config",
        )


def _find_name_faults(
    model: ServedModel, place: str, call: ast.Call, names: Texts, declared: list[str]
) -> Iterator[Fault]:
    for name in sorted(names - set(declared)):
        yield model.fault(
            f"line {call.lineno}",
            f'writes output "{name}"',
            f"outputs of config.pbtxt are allowed, others are dropped without a word: "
            f"{', '.join(declared)}",
            "correct one of the two names, or declare the output",
            place,
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
