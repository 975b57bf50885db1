"""Ctrl-C and SIGTERM during a build: the child ends, no file is left, and it can be repeated."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.workplace import Workplace
from tests.engine.builds import needs_rtx
from tests.engine.test_build_process import find_builders

pytestmark = needs_rtx
EXIT_INTERRUPTED = 130
ARGUMENTS = ("build-trt", "model", "--profile=p:batch=1,sequence=1:8:64,past_sequence=0")


@pytest.fixture
def place(tmp_path: Path, exported: Path) -> Iterator[Workplace]:
    """A working folder with the exported model in it."""
    documents = tmp_path / "documents.jsonl"
    documents.touch()
    furnished = Workplace.furnish(tmp_path / "place", exported, documents)
    yield furnished
    furnished.stop_all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("output", ["quantized", None], ids=["by hand", "recipe"])
def test_a_cancelled_build_leaves_nothing(
    place: Workplace, number: signal.Signals, output: str | None
) -> None:
    arguments = (*ARGUMENTS, "-o", "quantized")
    if output is None:
        (place.folder / "build.yaml").write_text(RECIPE, encoding="utf-8")
        arguments = ("run", "build.yaml")
    run = place.start(*arguments)
    children: list[psutil.Process] = []

    def is_building() -> bool:
        children[:] = find_builders(run.process.pid, place.root)
        return any(has_begun(child) for child in children)

    assert run.wait_for(is_building), run.stderr
    run.send(number)
    assert run.finish() == EXIT_INTERRUPTED, run.stderr
    assert "Traceback" not in run.stderr
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)
    work = [path for name in ("quantized", ".llmopt") for path in (place.folder / name).rglob("*")]
    kept = {"hashes.json", "store.json"}
    files = [path for path in work if path.is_file() and path.suffix not in (".lock", ".read")]
    assert {path.name for path in files} <= kept
    assert not (place.folder / "quantized").exists()
    assert place.find_leftovers() == []
    code, stderr = place.run(*arguments)
    assert code == 0, stderr


def has_begun(child: psutil.Process) -> bool:
    """Tells whether a builder has been at work, so that its parent surely knows of it."""
    try:
        return sum(child.cpu_times()[:2]) > 0.1
    except psutil.NoSuchProcess:
        return False


RECIPE = """
version: 1
name: build
sources: {model: {path: ./model, kind: onnx_model}}
steps:
  engine:
    uses: build.tensorrt
    onnx: model
    profiles: {p: {batch: 1, sequence: 1..8..64, past_sequence: 0}}
"""
