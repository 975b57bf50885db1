"""A build that this machine can't do: sealed, finished by one that can, refused if tampered with.

The machine without TensorRT is a Python whose packages are those of this one but for it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.deferred_build import read_deferred_build
from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.engine_description import read_engine_description
from llmopt.artifacts.onnx_description import DATA_NAME
from llmopt.errors import CapabilityError, IncompatibleError, InputError
from llmopt.steps.base import Deferrable, StepBase
from llmopt.steps.union import step_types
from tests.cli.conftest import RunHere
from tests.cli.conftest import run_here as run_here  # noqa: PLC0414 - a fixture
from tests.conftest import RunCli
from tests.engine.builds import CACHED, make_recipe, needs_rtx
from tests.models import REPOSITORY
from tests.recipe.harness import Workplace, write_recipe

DEFER: dict[str, Any] = {"backend": "tensorrt", "when_unavailable": "defer"}
EXIT_DEFERRED = 10


def test_without_deferral_a_missing_backend_is_exit_code_5(
    workplace: Workplace, exported: Path
) -> None:
    with pytest.raises(CapabilityError, match="tensorrt is not installed") as caught:
        workplace.run(make_recipe(exported, backend="tensorrt"))
    assert caught.value.exit_code == 5
    assert "let another machine do it: when_unavailable: defer" in str(caught.value.remedy)
    assert workplace.stored() == []


def test_a_deferred_build_is_sealed_and_is_no_engine(workplace: Workplace, exported: Path) -> None:
    recipe = make_recipe(exported, **DEFER, tensorrt_version="10.13", compute_capabilities=[8.9])
    recipe["steps"]["after"] = {
        "uses": "bench.onnx",
        "candidates": ["model"],
        "needs": ["engine"],
    }
    result = workplace.run(recipe)
    assert result.has_deferred
    assert result.artifacts == {}
    assert result.unavailable["after"] == "waits for engine, which did not run"
    artifact = workplace.artifact("engine")
    assert artifact.path.resolve() == result.deferred["engine"].path
    assert artifact.manifest.kind == "deferred_build"
    assert [entry.path for entry in artifact.manifest.files] == ["deferred-build.json"]
    sealed = read_deferred_build(artifact.path)
    assert sealed.requirement == (
        "tensorrt 10.13 on a machine with a GPU of compute capability 8.9"
    )
    assert sealed.onnx_sha256 == digest_file(exported / "model.onnx")
    assert sealed.weights_sha256 == digest_file(exported / DATA_NAME)
    assert [profile.name for profile in sealed.profiles] == ["prefill", "decode"]
    assert sealed.reason == "tensorrt is not installed"
    with pytest.raises(InputError, match="holds a build that was deferred, and no engine"):
        read_engine_description(artifact.path)


def test_a_deferred_build_is_sealed_once(workplace: Workplace, exported: Path) -> None:
    recipe = make_recipe(exported, **DEFER)
    workplace.run(recipe)
    created = workplace.artifact("engine").manifest.created
    identity = workplace.artifact("engine").manifest.identity
    assert workplace.states(recipe) == {"engine": "deferred by an earlier run"}
    assert workplace.run(recipe).has_deferred
    assert workplace.artifact("engine").manifest.created == created
    assert list(workplace.stored()) == [identity]


def test_skip_seals_nothing(workplace: Workplace, exported: Path) -> None:
    result = workplace.run(make_recipe(exported, backend="tensorrt", when_unavailable="skip"))
    assert not result.has_deferred
    assert result.deferred == {}
    assert workplace.stored() == []


def test_what_is_wrong_is_found_before_it_is_deferred(
    workplace: Workplace, copied: Callable[[], Path]
) -> None:
    profiles = {"p": {**CACHED["decode"], "past_sequence": [1, 8, 256]}}
    with pytest.raises(IncompatibleError, match="max_position_embeddings"):
        workplace.run(make_recipe(copied(), **DEFER, profiles=profiles))
    shutil.rmtree(workplace.folder.parent / "copied")
    model = copied()
    (model / DATA_NAME).unlink()
    with pytest.raises(InputError, match=r"weights file model\.onnx\.data is missing"):
        workplace.run(make_recipe(model, **DEFER))
    assert workplace.stored() == []


def test_verify_says_what_a_deferred_build_needs(
    run_here: RunHere, tmp_path: Path, copied: Callable[[], Path]
) -> None:
    model = copied()
    write_recipe(tmp_path, make_recipe(model, **DEFER))
    done = run_here("run", "recipe.yaml", "--detailed-exitcode")
    assert "llmopt verify out/small/engine says what it needs" in done.stdout
    verified = run_here("verify", "out/small/engine", "--onnx", model)
    assert verified.returncode == 0, verified.stderr
    assert "no engine yet; it needs tensorrt on a machine with a GPU" in verified.stdout
    assert "against the sealed digests" in verified.stdout
    alone = run_here("verify", "out/small/engine")
    assert "not checked: the exported model's digests: name it with --onnx" in alone.stdout
    flip_last_byte(model / DATA_NAME)
    tampered = run_here("verify", "out/small/engine", "--onnx", model)
    assert tampered.returncode == 8
    assert "model.onnx.data is not the file that was sealed for this build" in tampered.stderr


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class MachineWithout:
    """Runs llmopt with this Python's packages, but for one, such as TensorRT, of some names."""

    def __init__(self, folder: Path, work: Path, missing: str = "tensorrt*") -> None:
        self._work = work
        self._packages = folder
        folder.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            is_own = path.name.startswith(("llmopt", "__editable__"))
            if not is_own and not fnmatch(path.name, missing):
                (folder / path.name).symlink_to(path)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([str(REPOSITORY), str(self._packages)])
        return subprocess.run(
            [sys.executable, "-S", "-m", "llmopt", *arguments],
            cwd=self._work,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "PYTHONPATH": paths},
        )


@pytest.fixture
def deferred_recipe(tmp_path: Path, copied: Callable[[], Path]) -> Path:
    """A recipe of an engine that a machine without TensorRT has run; the model lies beside it."""
    copied()
    recipe = make_recipe(Path("copied"), when_unavailable="defer")
    path = write_recipe(tmp_path, recipe)
    machine = MachineWithout(tmp_path / "packages", tmp_path)
    done = machine.run("run", path.name, "--detailed-exitcode")
    assert done.returncode == EXIT_DEFERRED, done.stderr
    assert "engine: not run: tensorrt_rtx is not installed" in done.stderr
    return path


@needs_rtx
def test_a_machine_with_tensorrt_finishes_it(
    deferred_recipe: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    link = tmp_path / "out" / "small" / "engine"
    sealed = read_deferred_build(link)
    assert sealed.requirement == "tensorrt_rtx or tensorrt"
    planned = run_cli("plan", deferred_recipe.name)
    assert "deferred by an earlier run" in planned.stdout
    done = run_cli("run", deferred_recipe.name, "--detailed-exitcode")
    assert done.returncode == 0, done.stderr
    engine = read_engine_description(link)
    assert engine.profiles == sealed.profiles
    assert engine.onnx_sha256 == sealed.onnx_sha256
    assert Artifact.open(link).find_faults() == []


@needs_rtx
def test_a_model_that_is_not_the_sealed_one_is_refused(
    deferred_recipe: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    flip_last_byte(tmp_path / "copied" / DATA_NAME)
    done = run_cli("run", deferred_recipe.name)
    assert done.returncode == 8
    assert "model.onnx.data is not the file that was sealed for this build" in done.stderr
    assert not list((tmp_path / ".llmopt" / "store" / "partial").glob("*"))
    forced = run_cli("run", deferred_recipe.name, "--force", "engine")
    assert forced.returncode == 0, forced.stderr
    engine = read_engine_description(tmp_path / "out" / "small" / "engine")
    assert engine.weights_sha256 == digest_file(tmp_path / "copied" / DATA_NAME)


@needs_rtx
def test_a_changed_recipe_is_built_and_its_seal_replaced(
    deferred_recipe: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    """Another model by another name is no damaged copy of the one that was sealed."""
    shutil.copytree(tmp_path / "copied", tmp_path / "other")
    flip_last_byte(tmp_path / "other" / DATA_NAME)
    write_recipe(tmp_path, make_recipe(Path("other"), when_unavailable="defer"))
    done = run_cli("run", deferred_recipe.name)
    assert done.returncode == 0, done.stderr
    assert "the deferred build in" in done.stderr
    assert "is of another recipe or model; it is replaced" in done.stderr
    engine = read_engine_description(tmp_path / "out" / "small" / "engine")
    assert engine.weights_sha256 == digest_file(tmp_path / "other" / DATA_NAME)


def test_without_onnx_it_stays_deferred(deferred_recipe: Path, tmp_path: Path) -> None:
    """What was sealed is read before the step runs, and with onnx too."""
    machine = MachineWithout(tmp_path / "others", tmp_path, missing="onnx")
    done = machine.run("run", deferred_recipe.name, "--detailed-exitcode")
    assert done.returncode == EXIT_DEFERRED, done.stderr
    assert "engine: not run: build.tensorrt reads the graph with onnx" in done.stderr


def test_only_engines_are_sealed_for_another_machine() -> None:
    sealing = [name for name, step in step_types().items() if issubclass(step, Deferrable)]
    assert sealing == ["build.tensorrt"]
    assert not hasattr(StepBase, "defer")
    assert not hasattr(StepBase, "check_deferred")


@needs_rtx
def test_a_damaged_seal_is_refused(deferred_recipe: Path, tmp_path: Path, run_cli: RunCli) -> None:
    sealed = tmp_path / "out" / "small" / "engine" / "deferred-build.json"
    text = sealed.read_text()
    sealed.write_text(text.replace("true", "tru3", 1))
    assert len(sealed.read_text()) == len(text)
    done = run_cli("run", deferred_recipe.name)
    assert done.returncode == 8
    assert "the deferred build" in done.stderr
    assert "is damaged: deferred-build.json has other contents" in done.stderr
