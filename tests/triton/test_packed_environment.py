"""A packed environment works where it is unpacked, over the system's Python of that version."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from llmopt.errors import CapabilityError
from llmopt.triton.packed_environment import SERVER_BIN, find_python, pack_environment

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with jinja2 alone."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "requirements.txt").write_text("# for a test\njinja2\n", encoding="utf-8")
    pack_environment(folder / "requirements.txt", HERE, folder / "environment.tar.gz")
    return folder / "environment.tar.gz"


@pytest.mark.skipif(
    not Path(f"{SERVER_BIN}/python{HERE}").exists(), reason=f"needs {SERVER_BIN}/python{HERE}"
)
def test_what_is_unpacked_elsewhere_is_activated_there(packed: Path, tmp_path: Path) -> None:
    moved = tmp_path / "with space"
    with tarfile.open(packed) as archive:
        archive.extractall(moved, filter="tar")
    code = "import jinja2, sys; print(sys.prefix, jinja2.__file__, sep='\\n')"
    done = subprocess.run(
        ["bash", "-c", f'source "$1/bin/activate" && python3 -c "{code}"', "-", str(moved)],
        capture_output=True,
        text=True,
        env={"PATH": os.defpath},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    prefix, module = done.stdout.splitlines()
    assert prefix == str(moved)
    assert Path(module).is_relative_to(moved)


def test_nothing_in_it_names_the_folder_that_it_was_made_in(packed: Path) -> None:
    with tarfile.open(packed) as archive:
        config = archive.extractfile("./pyvenv.cfg")
        activate = archive.extractfile("./bin/activate")
        assert config is not None
        assert activate is not None
        text = (config.read() + activate.read()).decode()
        names = archive.getnames()
    assert "llmopt-environment" not in text
    assert f"home = {SERVER_BIN}" in text
    assert not any("__pycache__" in name or name.endswith("/pip") for name in names)


def test_another_python_is_asked_for(tmp_path: Path) -> None:
    assert find_python(HERE) == sys.executable
    with pytest.raises(CapabilityError, match=r"must be of Python 3\.2, the server's") as caught:
        pack_environment(tmp_path / "requirements.txt", "3.2", tmp_path / "environment.tar.gz")
    assert "leave pack_environment out" in str(caught.value.remedy)


def test_what_pip_says_is_told(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("./no-such-package\n", encoding="utf-8")
    with pytest.raises(CapabilityError, match="could not install for the packed environment"):
        pack_environment(tmp_path / "requirements.txt", HERE, tmp_path / "environment.tar.gz")
    assert not (tmp_path / "environment.tar.gz").exists()
