"""The Triton kernel without a GPU: interpreted against the plain path, and compiled for GPUs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import REPOSITORY

# CUDA builds of torch bring triton along; for CPU builds it has an environment of its own.
TRITON_PYTHON = REPOSITORY / ".venvs" / "triton" / "bin" / "python"
PYTHON = Path(sys.executable) if importlib.util.find_spec("triton") else TRITON_PYTHON
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not PYTHON.exists(), reason="needs the Triton compiler: make triton-env (llmopt doctor)"
    ),
]


def run_script(module: str, *arguments: str, interpret: bool) -> str:
    """Runs a script of this folder in a process of its own: triton reads its mode at import."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    finished = subprocess.run(
        [PYTHON, "-m", f"tests.quant.{module}", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def test_interpreted_kernel_rounds_as_the_plain_path() -> None:
    output = run_script("interpret_triton_kernel", interpret=True)
    assert output.splitlines()[-1] == "16 cases agree"


@pytest.mark.parametrize("architecture", ["80", "89", "90"])
def test_kernel_compiles_for(architecture: str) -> None:
    output = run_script("compile_triton_kernel", architecture, interpret=False)
    assert ".entry _round_rows" in output
    assert f".target sm_{architecture}" in output
