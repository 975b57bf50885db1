"""A python model's source files, parsed and not run."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ENTRY = "model.py"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class PythonSource:
    """The source files of one version of a python model.

    Attributes:
        folder: The version folder.
        trees: What parsed, by path relative to the folder: model.py and what it imports beside it.
        parents: Each node's parent.
        broken: What did not parse, with the reason.
    """

    folder: Path
    trees: dict[str, ast.Module] = field(default_factory=dict)
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def calls(self, *names: str) -> Iterator[tuple[str, ast.Call]]:
        """Yields every call of something of these names, with its file."""
        for file, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and called_name(node) in names:
                    yield file, node

    def scopes(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yields what a node lies in, from the inside outwards."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def list_imports(self) -> Iterator[tuple[str, int, str]]:
        """Yields each absolute import that nothing guards: file, line, top-level module."""
        for file, tree in self.trees.items():
            for node in tree.body:
                if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    yield file, node.lineno, node.module.split(".")[0]
                for alias in node.names if isinstance(node, ast.Import) else ():
                    yield file, node.lineno, alias.name.split(".")[0]

    def add(self, file: str, version: tuple[int, int]) -> list[ast.ImportFrom]:
        """Parses one file; returns its relative imports."""
        try:
            text = (self.folder / file).read_text(encoding="utf-8")
            tree = ast.parse(text, filename=file, feature_version=version)
        except (SyntaxError, ValueError) as error:
            self.broken[file] = str(error)
            return []
        self.trees[file] = tree
        nodes = list(ast.walk(tree))
        self.parents.update((child, node) for node in nodes for child in ast.iter_child_nodes(node))
        return [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]


def read_python_source(folder: Path, version: tuple[int, int]) -> PythonSource:
    """Parses model.py and the siblings that it imports, in the grammar of a Python version."""
    source = PythonSource(folder)
    waiting = [ENTRY] if (folder / ENTRY).is_file() else []
    while waiting:
        file = waiting.pop()
        if file in source.trees or file in source.broken:
            continue
        for node in source.add(file, version):
            waiting += [found for found in list_siblings(folder, file, node) if found]
    return source


def list_siblings(folder: Path, file: str, node: ast.ImportFrom) -> list[str | None]:
    """Lists the files that a relative import reads; None for one that is not there."""
    if node.module:
        return [find_sibling(folder, file, node.level, node.module)]
    return [find_sibling(folder, file, node.level, alias.name) for alias in node.names]


def find_sibling(folder: Path, file: str, level: int, module: str) -> str | None:
    """Returns the file of a relative import, relative to the version folder."""
    above = Path(file).parents
    if level > len(above):
        return None
    stem = above[level - 1].joinpath(*module.split("."))
    for candidate in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
        if (folder / candidate).is_file():
            return candidate.as_posix()
    return None


def list_names(tree: ast.Module) -> set[str]:
    """Lists what a module may offer for import."""
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
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def find_argument(call: ast.Call, position: int, keyword: str) -> ast.expr | None:
    """Returns an argument, by its place or its keyword."""
    if len(call.args) > position:
        return call.args[position]
    return next((item.value for item in call.keywords if item.arg == keyword), None)


def find_assigned(node: ast.AST, name: str) -> ast.expr | None:
    """Returns what a statement assigns to a plain name."""
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
        targets = [node.target]
    else:
        return None
    plain = any(isinstance(target, ast.Name) and target.id == name for target in targets)
    return node.value if plain else None
