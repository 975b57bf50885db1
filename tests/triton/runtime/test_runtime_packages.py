"""What is copied into repositories: Python 3.10's grammar, and nothing that is not there."""

import ast
import sys
from pathlib import Path

import pytest

from llmopt.engine import cuda_driver
from llmopt.triton import runtime
from llmopt.triton.generate_model import GENERATE_REQUIREMENTS

ROOT = Path(runtime.__file__).parent
MODULES = [*sorted(ROOT.glob("*/*.py")), Path(cuda_driver.__file__)]  # it goes with engines
ALLOWED = {
    *sys.stdlib_module_names, "numpy", "onnxruntime", "tokenizers", "jinja2", "transformers",
    "triton_python_backend_utils",
}  # fmt: skip


def list_imports(tree: ast.Module) -> set[str]:
    """Names the packages that a module imports; "." for its neighbours."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_module_is_python_3_10_and_needs_what_requirements_name(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    assert list_imports(tree) <= ALLOWED | {"."}


def test_generation_needs_what_its_requirements_name() -> None:
    imported: set[str] = set()
    for path in MODULES:
        if path.parent.name == "generate":
            imported |= list_imports(ast.parse(path.read_text(encoding="utf-8")))
    packages = imported - set(sys.stdlib_module_names) - {".", "triton_python_backend_utils"}
    assert packages == {*GENERATE_REQUIREMENTS, "numpy", "onnxruntime"}
