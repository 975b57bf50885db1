"""Which texts an expression of a python model may be: the names of the tensors that it writes."""

import ast
from collections.abc import Iterable

from llmopt.triton.checks.python_source import (
    Function,
    PythonSource,
    find_argument,
    find_assigned,
    find_sibling,
)

MAX_DEPTH = 6
Texts = frozenset[str]


def find_texts(
    source: PythonSource, file: str, node: ast.expr | None, depth: int = 0
) -> Texts | None:
    """Returns every text that an expression may be; None where the source does not tell.

    Follows constants, names of modules and siblings, loops over literals, and a function's
    parameters to its calls.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return frozenset({node.value})
    if not isinstance(node, ast.Name) or depth > MAX_DEPTH:
        return None
    for scope in source.scopes(node):
        if isinstance(scope, ast.comprehension | ast.For):
            target, iterated = scope.target, scope.iter
        elif generators := getattr(scope, "generators", None):
            target, iterated = generators[0].target, generators[0].iter
        else:
            target, iterated = None, None
        if iterated is not None and isinstance(target, ast.Name) and target.id == node.id:
            return _find_elements(source, file, iterated, depth)
        if isinstance(scope, Function):
            found = _find_in_function(source, file, scope, node.id, depth)
            if found is not None:
                return found
    return _find_in_module(source, file, node.id, depth)


def _find_elements(source: PythonSource, file: str, node: ast.expr, depth: int) -> Texts | None:
    if isinstance(node, ast.Name):
        values = [find_assigned(item, node.id) for item in source.trees[file].body]
        node = next((value for value in values if value is not None), node)
    if not isinstance(node, ast.Tuple | ast.List | ast.Set):
        return None
    return _unite(find_texts(source, file, item, depth + 1) for item in node.elts)


def _find_in_function(
    source: PythonSource, file: str, function: Function, name: str, depth: int
) -> Texts | None:
    parameters = [item.arg for item in (*function.args.posonlyargs, *function.args.args)]
    if name not in parameters:
        values = [v for item in ast.walk(function) if (v := find_assigned(item, name))]
        return _unite(find_texts(source, file, value, depth + 1) for value in values)
    position = parameters.index(name) - (parameters[0] in ("self", "cls"))
    calls = source.calls(function.name)
    return _unite(
        find_texts(source, place, find_argument(call, position, name), depth + 1)
        for place, call in calls
    )


def _find_in_module(source: PythonSource, file: str, name: str, depth: int) -> Texts | None:
    for node in source.trees[file].body:
        value = find_assigned(node, name)
        if isinstance(value, ast.Constant):
            return find_texts(source, file, value, depth + 1)
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            if isinstance(node, ast.ImportFrom) and (alias.asname or alias.name) == name:
                origin = find_sibling(source.folder, file, node.level, node.module or "")
                if origin in source.trees and depth < MAX_DEPTH:
                    return _find_in_module(source, origin, alias.name, depth + 1)
    return None


def _unite(found: Iterable[Texts | None]) -> Texts | None:
    """Joins what is known; None where one is not known, or there is none."""
    known = list(found)
    if not known or any(texts is None for texts in known):
        return None
    return frozenset().union(*(texts for texts in known if texts is not None))
