"""requirements.txt: which pins keep numpy 2 out, what brings a module, which lines are not read."""

from pathlib import Path

import pytest

from llmopt.triton.checks.report import Fault
from llmopt.triton.checks.repository import read_repository
from llmopt.triton.checks.requirements import find_requirement_faults
from tests.triton.good_repositories import WRITERS

GENERATE = "numpy<2\njinja2\ntokenizers\n"


def find(folder: Path, base: str, text: str) -> tuple[list[str], list[str]]:
    """Returns the faults and the notes on a requirements.txt of a good repository."""
    WRITERS[base](folder)
    (folder / "requirements.txt").write_text(text, encoding="utf-8")
    found = list(find_requirement_faults(read_repository(folder)))
    return (
        [str(each) for each in found if isinstance(each, Fault)],
        [str(each) for each in found if not isinstance(each, Fault)],
    )


@pytest.mark.parametrize(
    "line",
    [
        "numpy<2",
        "numpy<=1.26.4",
        "numpy==1.26.4",
        "NumPy ~= 1.26",
        "numpy==1.*",
        "numpy>=1.26,<2  # the stub breaks with 2",
        "numpy==1.26.4 --hash=sha256:00",
        "numpy==1.26.4 \\\n    --hash=sha256:00",
        "numpy>=1.26\nnumpy<2",
        'numpy<2; python_version < "3.11"',
        'numpy<2; python_version < "3.11"\nnumpy>=2; python_version >= "3.11"',
    ],
)
def test_a_pin_that_keeps_numpy_2_out_is_accepted(line: str, tmp_path: Path) -> None:
    assert find(tmp_path, "encoder", f"{line}\n") == ([], [])


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "numpy<2.1",
        "numpy<20",
        "numpy!=2.0.0",
        "numpy>=2.3,<2.4",
        "numpy>2",
        "numpy>=3",
        "numpy==2.0.0rc1",
        "numpy==2.*",
        "numpy @ https://example.org/numpy.whl",
        "numpy-financial<2",
        'numpy<2; sys_platform == "win32"',
    ],
)
def test_a_pin_that_lets_numpy_2_in_is_refused(line: str, tmp_path: Path) -> None:
    (fault,), _ = find(tmp_path, "encoder", f"{line}\n")
    assert "the python backend of 24.10 breaks with numpy 2" in fault


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu==1.23.2", "ONNXRuntime_GPU"])
def test_a_build_of_onnxruntime_brings_it(name: str, tmp_path: Path) -> None:
    assert find(tmp_path, "counter", f"{GENERATE}{name}\n") == ([], [])


@pytest.mark.parametrize("name", ["onnxruntime-genai", "onnxruntime-tools"])
def test_another_package_of_a_like_name_does_not(name: str, tmp_path: Path) -> None:
    (fault,), _ = find(tmp_path, "counter", f"{GENERATE}{name}\n")
    assert "imports onnxruntime; packages of requirements.txt are allowed" in fault


@pytest.mark.parametrize("line", ["-r more.txt", "./wheels/numpy.whl", "git+https://example.org/a"])
def test_what_a_line_brings_that_is_no_requirement_is_not_checked(
    line: str, tmp_path: Path
) -> None:
    notes = [f"requirements.txt: what {line} brings"]
    assert find(tmp_path, "encoder", f"{line}\n") == ([], notes)
