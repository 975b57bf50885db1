"""What a python model's source says without being run: names, constants, arrays."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

ENTRY = "model.py"
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
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class ArrayFacts:
    """What is known of an array: Triton's data type, its shape; None where it is not known."""

    data_type: int | None = None
    shape: tuple[int | None, ...] | None = None


@dataclass
class PythonSource:
    """The source files of one version of a python model.

    Attributes:
        folder: The version folder.
        trees: What parsed, by path relative to the folder: model.py and what it imports beside it.
        broken: What did not, with the reason.
    """

    folder: Path
    trees: dict[str, ast.Module] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def entry(self) -> ast.Module | None:
        """The tree of model.py."""
        return self.trees.get(ENTRY)

    def nodes(self) -> Iterator[tuple[str, ast.AST]]:
        """Yields every node with its file."""
        for name, tree in self.trees.items():
            for node in ast.walk(tree):
                yield name, node

    def constant(self, file: str, node: ast.expr | None) -> str | None:
        """Returns the text that an expression always is; None where that is not known."""
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else None
        return self._find_name(file, node.id, set()) if isinstance(node, ast.Name) else None

    def _find_name(self, file: str, name: str, seen: set[tuple[str, str]]) -> str | None:
        """Follows a module's name through its assignment, or the sibling that it comes from."""
        if (file, name) in seen or file not in self.trees:
            return None
        for node in self.trees[file].body:
            value = assigned_value(node, name)
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                return value.value
            for alias in node.names if isinstance(node, ast.ImportFrom) and node.level else ():
                if (alias.asname or alias.name) == name:
                    origin = sibling_file(self.folder, file, node)
                    return self._find_name(origin or "", alias.name, seen | {(file, name)})
        return None


def read_python_source(folder: Path, version: tuple[int, int]) -> PythonSource:
    """Parses model.py and the siblings that it imports, in the grammar of a Python version."""
    source = PythonSource(folder)
    waiting = [ENTRY]
    while waiting:
        name = waiting.pop()
        path = folder / name
        if name in source.trees or name in source.broken or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
            source.trees[name] = ast.parse(text, filename=name, feature_version=version)
        except (SyntaxError, ValueError) as error:
            source.broken[name] = str(error)
            continue
        for node in ast.walk(source.trees[name]):
            if isinstance(node, ast.ImportFrom) and node.level:
                waiting += [file for file in list_siblings(folder, name, node) if file]
    return source


def list_siblings(folder: Path, file: str, node: ast.ImportFrom) -> list[str | None]:
    """Lists the files that a relative import reads; None for one that is not there."""
    if node.module:
        return [sibling_file(folder, file, node)]
    return [
        sibling_file(folder, file, ast.ImportFrom(alias.name, [], node.level))
        for alias in node.names
    ]


def sibling_file(folder: Path, file: str, node: ast.ImportFrom) -> str | None:
    """Returns the file of a relative import, relative to the version folder."""
    base = Path(file).parent
    for _ in range(node.level - 1):
        base = base.parent
    stem = base.joinpath(*(node.module or "").split("."))
    for candidate in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
        if stem.name and (folder / candidate).is_file():
            return candidate.as_posix()
    return None


def defined_names(tree: ast.Module) -> set[str]:
    """Lists what a module offers for import, nested blocks included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    return names


def called_name(call: ast.Call) -> str:
    """Returns the last part of what is called: `Tensor` of `pb_utils.Tensor(…)`."""
    func = call.func
    if isinstance(func, ast.Attribute):
        return func.attr
    return func.id if isinstance(func, ast.Name) else ""


def argument(call: ast.Call, position: int, keyword: str) -> ast.expr | None:
    """Returns an argument, by its place or its keyword."""
    if len(call.args) > position:
        return call.args[position]
    return next((item.value for item in call.keywords if item.arg == keyword), None)


def assigned_value(node: ast.AST, name: str) -> ast.expr | None:
    """Returns what a statement assigns to a plain name."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
        targets = [node.target]
    else:
        return None
    plain = any(isinstance(target, ast.Name) and target.id == name for target in targets)
    return node.value if plain else None


def infer_array(node: ast.expr | None, scope: Function | None, depth: int = 0) -> ArrayFacts:
    """Tells what an expression's array is, as far as the source says so for certain."""
    if isinstance(node, ast.Name) and scope is not None and depth < 5:
        values = [v for item in ast.walk(scope) if (v := assigned_value(item, node.id))]
        stored = [
            item
            for item in ast.walk(scope)
            if isinstance(item, ast.Name) and item.id == node.id and isinstance(item.ctx, ast.Store)
        ]
        if len(values) == 1 == len(stored):
            return infer_array(values[0], scope, depth + 1)
    if not isinstance(node, ast.Call):
        return ArrayFacts()
    name = called_name(node)
    if isinstance(node.func, ast.Attribute) and name in ("astype", "reshape"):
        before = infer_array(node.func.value, scope, depth + 1)
        if name == "astype":
            return ArrayFacts(numpy_type(argument(node, 0, "dtype")), before.shape)
        sizes = node.args[0].elts if _is_tuple(node.args) else node.args
        return ArrayFacts(before.data_type, _sizes(sizes))
    if name in DTYPE_POSITIONS and _is_numpy(node.func):
        dtype = argument(node, DTYPE_POSITIONS[name], "dtype")
        if name in SHAPED:
            shape = node.args[0].elts if _is_tuple(node.args) else node.args[:1]
            return ArrayFacts(numpy_type(dtype), _sizes(shape))
        if dtype is not None:
            return ArrayFacts(numpy_type(dtype))
        return infer_array(node.args[0] if node.args else None, scope, depth + 1)
    return ArrayFacts()


def numpy_type(node: ast.expr | None) -> int | None:
    """Returns the Triton data type of `np.float32`, `"float32"`, `object` or `bool`."""
    if isinstance(node, ast.Attribute):
        return NUMPY_TYPES.get(node.attr)
    if isinstance(node, ast.Name):
        return NUMPY_TYPES.get(node.id) if node.id in ("object", "bool") else None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return NUMPY_TYPES.get(node.value)
    return None


def _is_numpy(func: ast.expr) -> bool:
    return (
        isinstance(func, ast.Attribute)
        and isinstance(func.value, ast.Name)
        and func.value.id in ("np", "numpy")
    )


def _is_tuple(args: list[ast.expr]) -> bool:
    return len(args) > 0 and isinstance(args[0], ast.Tuple | ast.List)


def _sizes(nodes: list[ast.expr]) -> tuple[int | None, ...] | None:
    if any(isinstance(node, ast.Starred) for node in nodes):
        return None
    return tuple(
        node.value if isinstance(node, ast.Constant) and isinstance(node.value, int) else None
        for node in nodes
    )
