"""A packed environment works where it is unpacked, over the system's Python of that version.

The real server unpacks one and serves from it.
"""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from llmopt.errors import CapabilityError
from llmopt.triton.client import TritonClient
from llmopt.triton.generate_model import GENERATE_REQUIREMENTS
from llmopt.triton.model_config import read_config, write_config
from llmopt.triton.model_environment import ModelEnvironment
from llmopt.triton.packed_environment import (
    PACKED_NAME,
    PACKED_PATH,
    SERVER_BIN,
    find_python,
    pack_environment,
)
from llmopt.triton.repository import ENVIRONMENT_KEY
from llmopt.triton.server import ServerOptions, TritonServer
from llmopt.triton.server_distribution import SERVER_NUMPY
from tests.triton.decoders import ExportedDecoder
from tests.triton.generate_repository import add_generate_model

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with jinja2, and tqdm for its script."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "requirements.txt").write_text("# for a test\njinja2\ntqdm\n", encoding="utf-8")
    pack_environment(folder / "requirements.txt", HERE, folder / "environment.tar.gz")
    return folder / "environment.tar.gz"


needs_system_python = pytest.mark.skipif(
    not Path(f"{SERVER_BIN}/python{HERE}").exists(), reason=f"needs {SERVER_BIN}/python{HERE}"
)


@needs_system_python
def test_what_is_unpacked_elsewhere_is_activated_there(packed: Path, tmp_path: Path) -> None:
    moved = tmp_path / "with space"
    with tarfile.open(packed) as archive:
        archive.extractall(moved, filter="tar")
    code = "import jinja2, sys; print(sys.prefix, jinja2.__file__, sep='\\n')"
    typed = f'source "$1/bin/activate" && python3 -c "{code}" && tqdm --version'
    done = subprocess.run(
        ["bash", "-c", typed, "-", str(moved)],
        capture_output=True,
        text=True,
        env={"PATH": os.defpath},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    prefix, module, version = done.stdout.splitlines()
    assert prefix == str(moved)
    assert Path(module).is_relative_to(moved)
    assert re.fullmatch(r"\d+(\.\d+)+", version)


def test_nothing_in_it_names_the_folder_that_it_was_made_in(packed: Path) -> None:
    with tarfile.open(packed) as archive:
        files = {
            member.name: file.read()
            for member in archive
            if member.isfile() and (file := archive.extractfile(member)) is not None
        }
    assert {"./bin/activate", "./bin/tqdm"} <= files.keys()
    assert [name for name, content in files.items() if b"llmopt-environment" in content] == []
    assert f"home = {SERVER_BIN}" in files["./pyvenv.cfg"].decode()
    assert not any("__pycache__" in name or name.endswith("/pip") for name in files)


def find_system_library() -> Path | None:
    """Returns the folder of the system's libpython: that of another build does not fit."""
    code = "import sysconfig as s; print(s.get_config_var('LIBDIR'), s.get_config_var('MULTIARCH'))"
    python = f"{SERVER_BIN}/python{HERE}"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    base, multiarch = done.stdout.split()
    name = f"libpython{HERE}.so.1.0"
    return next((f for f in (Path(base), Path(base, multiarch)) if (f / name).exists()), None)


@pytest.mark.full
@needs_system_python
def test_the_real_server_unpacks_it_and_serves_from_it(
    tmp_path: Path, exported_decoder: ExportedDecoder, bare_environment: ModelEnvironment
) -> None:
    library = find_system_library()
    if library is None:
        pytest.skip(f"needs libpython{HERE}.so.1.0 beside {SERVER_BIN}/python{HERE}")
    repository = tmp_path / "repository"
    repository.mkdir()
    onnx, description = exported_decoder.folder, exported_decoder.description
    add_generate_model(repository, "apparel", onnx, description, exported_decoder.model)
    config = read_config(repository / "apparel")
    config.parameters[ENVIRONMENT_KEY].string_value = PACKED_PATH
    write_config(repository / "apparel", config)
    requirements = tmp_path / "requirements.txt"
    needed = (SERVER_NUMPY, "onnxruntime", *GENERATE_REQUIREMENTS)
    requirements.write_text("\n".join(needed), encoding="utf-8")
    pack_environment(requirements, HERE, repository / PACKED_NAME)
    # Its own environment has numpy alone, so that only the packed one lets the model load.
    options = ServerOptions(variables={"LD_LIBRARY_PATH": str(library)})
    with TritonServer(repository, bare_environment, tmp_path / "log", options) as server:
        answer = TritonClient.of(server).generate(
            "apparel", {"text_input": "袖口", "max_tokens": 4}
        )
    assert answer["num_output_tokens"] == 4
    assert "Using Python execution env" in (tmp_path / "log").read_text(encoding="utf-8")


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
