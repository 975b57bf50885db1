"""What data type and shape an array of a python model has, as far as its source says."""

import ast
from dataclasses import dataclass

from tritonclient.grpc import model_config_pb2 as pb

from llmopt.triton.checks.python_source import (
    Function,
    PythonSource,
    called_name,
    find_argument,
    find_assigned,
)

MAX_DEPTH = 6
NUMPY_TYPES = {
    "bool": pb.TYPE_BOOL, "bool_": pb.TYPE_BOOL, "uint8": pb.TYPE_UINT8,
    "uint16": pb.TYPE_UINT16, "uint32": pb.TYPE_UINT32, "uint64": pb.TYPE_UINT64,
    "int8": pb.TYPE_INT8, "int16": pb.TYPE_INT16, "int32": pb.TYPE_INT32,
    "int64": pb.TYPE_INT64, "float16": pb.TYPE_FP16, "float32": pb.TYPE_FP32,
    "float64": pb.TYPE_FP64, "object": pb.TYPE_STRING, "object_": pb.TYPE_STRING,
    "bytes_": pb.TYPE_STRING,
}  # fmt: skip
# Where these functions of numpy take a dtype without its keyword.
DTYPE_POSITIONS = {
    "array": 1, "asarray": 1, "ascontiguousarray": 1, "zeros": 1, "ones": 1, "empty": 1, "full": 2,
}  # fmt: skip
SHAPED = ("zeros", "ones", "empty", "full")
# Without a dtype these make float64; the others take what they are given.
FLOAT64_MAKERS = ("zeros", "ones", "empty")


@dataclass(frozen=True)
class ArrayFacts:
    """Triton's data type and the shape; None, or None for a size, where it is not known."""

    data_type: int | None = None
    shape: tuple[int | None, ...] | None = None


UNKNOWN = ArrayFacts()


def infer_array(source: PythonSource, node: ast.expr | None, depth: int = 0) -> ArrayFacts:
    """Tells what an expression's array is, where the source says so for certain."""
    if depth > MAX_DEPTH:
        return UNKNOWN
    if isinstance(node, ast.Name):
        return infer_array(source, _find_only_value(source, node), depth + 1)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return UNKNOWN
    if _is_numpy(node.func):
        return _infer_made(source, node, depth)
    return _infer_changed(source, node, node.func, depth)


def _infer_changed(
    source: PythonSource, node: ast.Call, method: ast.Attribute, depth: int
) -> ArrayFacts:
    """Tells what an array's own method makes of it."""
    before = infer_array(source, method.value, depth + 1)
    if method.attr == "astype":
        return ArrayFacts(_find_type(find_argument(node, 0, "dtype")), before.shape)
    if method.attr == "reshape":
        return ArrayFacts(before.data_type, _find_shape(node.args))
    return UNKNOWN


def _infer_made(source: PythonSource, node: ast.Call, depth: int) -> ArrayFacts:
    """Tells what one of numpy's functions makes."""
    name = called_name(node)
    if name not in DTYPE_POSITIONS or not node.args:
        return UNKNOWN
    dtype = find_argument(node, DTYPE_POSITIONS[name], "dtype")
    if name in SHAPED:
        default = pb.TYPE_FP64 if dtype is None and name in FLOAT64_MAKERS else None
        return ArrayFacts(default or _find_type(dtype), _find_shape(node.args[:1]))
    before = infer_array(source, node.args[0], depth + 1)
    return before if dtype is None else ArrayFacts(_find_type(dtype), before.shape)


def _find_only_value(source: PythonSource, name: ast.Name) -> ast.expr | None:
    """Returns what a local name is assigned, where its function does so once."""
    scope = next((item for item in source.scopes(name) if isinstance(item, Function)), None)
    if scope is None:
        return None
    nodes = list(ast.walk(scope))
    values = [value for item in nodes if (value := find_assigned(item, name.id))]
    stores = [
        item
        for item in nodes
        if isinstance(item, ast.Name) and item.id == name.id and isinstance(item.ctx, ast.Store)
    ]
    changed = any(isinstance(i, ast.AugAssign) and i.target in stores for i in nodes)
    return values[0] if len(values) == len(stores) == 1 and not changed else None


def _find_type(node: ast.expr | None) -> int | None:
    """Returns the data type of `np.float32`, `"float32"`, `object` or `bool`."""
    if isinstance(node, ast.Attribute):
        return NUMPY_TYPES.get(node.attr)
    if isinstance(node, ast.Name):
        return NUMPY_TYPES.get(node.id) if node.id in ("object", "bool") else None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return NUMPY_TYPES.get(node.value)
    return None


def _find_shape(args: list[ast.expr]) -> tuple[int | None, ...] | None:
    """Reads a shape given as a tuple or as arguments; a lone name may be a whole shape."""
    nodes = args[0].elts if args and isinstance(args[0], ast.Tuple | ast.List) else args
    if any(isinstance(node, ast.Starred) for node in nodes):
        return None
    if len(args) == 1 and nodes is args and not isinstance(args[0], ast.Constant | ast.UnaryOp):
        return None
    return tuple(
        node.value if isinstance(node, ast.Constant) and isinstance(node.value, int) else None
        for node in nodes
    )


def _is_numpy(func: ast.Attribute) -> bool:
    return isinstance(func.value, ast.Name) and func.value.id in ("np", "numpy")
