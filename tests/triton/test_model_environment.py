"""Environments of models: made once per requirements, with the numpy that the server bears."""

import os
import subprocess
from pathlib import Path

import pytest

from llmopt.errors import CapabilityError, InputError
from llmopt.triton.model_environment import ModelEnvironment, make_environment, read_requirements


def test_requirements_are_read_without_comments(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(
        "# of the model\nnumpy<2  # the server's\n\n  jinja2>=3.1\nx @ file:///a#egg=x\n"
    )
    assert read_requirements(path) == ("numpy<2", "jinja2>=3.1", "x @ file:///a#egg=x")
    with pytest.raises(InputError, match=r"holds no requirements\.txt"):
        read_requirements(tmp_path / "nowhere" / "requirements.txt")


def test_numpy_is_the_servers(bare_environment: ModelEnvironment) -> None:
    done = subprocess.run(
        [bare_environment.python, "-c", "import numpy; print(numpy.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1.26.4\n"


def test_the_same_requirements_are_the_same_environment(
    bare_environment: ModelEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said: list[str] = []
    assert make_environment(("numpy>=2",), said.append) == bare_environment
    assert said == []


def test_what_pip_can_not_install_leaves_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOPT_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for _ in range(2):
        with pytest.raises(CapabilityError, match=r"could not install numpy-stl, numpy==1\.26\.4"):
            make_environment(("numpy-stl", "numpy~=2.0"), lambda _: None)
