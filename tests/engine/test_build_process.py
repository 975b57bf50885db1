"""The building process: real builds, its log, and every way in which it ends badly."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from llmopt.artifacts.child_events import ChildBug
from llmopt.artifacts.engine_settings import EngineSettings
from llmopt.artifacts.progress import SilentProgress
from llmopt.artifacts.tensor_spec import make_spec
from llmopt.engine.build_job import BuildJob
from llmopt.engine.build_process import run_build
from llmopt.errors import (
    CapabilityError,
    IncompatibleError,
    InputError,
    LlmoptError,
    ResourceError,
)
from llmopt.recipe.resources import explain_failure
from tests.engine.builds import make_job, needs_rtx
from tests.engine.fake_driver import install_tensorrt

pytestmark = needs_rtx


class Phases(SilentProgress):
    """Keeps the phases that a build told of, with the units that it promised."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def start(self, description: str, total: int, completed: int = 0) -> None:
        assert completed == 0
        self.seen.append((description, total))


def test_a_build_tells_phases_and_keeps_its_log(exported: Path, tmp_path: Path) -> None:
    phases = Phases()
    result = run_build(make_job(exported, tmp_path), phases)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build.log", "model.engine"]
    assert (tmp_path / "model.engine").read_bytes().startswith(b"vtrt")
    names = [name for name, _ in phases.seen]
    assert names[0] == "parsing the graph"
    assert "Building engine" in names  # TensorRT's own
    assert {total for _, total in phases.seen} == {0}  # nobody knows how long they take
    assert result.tensorrt_version.startswith("1.")
    assert "8.9" in result.compute_capabilities
    assert "7.5" not in result.compute_capabilities
    assert "[" in (tmp_path / "build.log").read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"compute_capabilities": ("8.9",)},
        {"compute_capabilities": ("8.6", "12.0")},
        {"weight_streaming": True},
        {"tf32": False},
        {"workspace_bytes": 1 << 30},
    ],
    ids=",".join,
)
def test_settings_reach_the_builder(
    exported: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    job = make_job(exported, tmp_path).model_copy(update={"settings": EngineSettings(**settings)})
    result = run_build(job, SilentProgress())
    wanted = settings.get("compute_capabilities")
    assert wanted is None or result.compute_capabilities == wanted
    assert (tmp_path / "model.engine").stat().st_size > 10_000


def fail(job: BuildJob, error: type[LlmoptError], message: str) -> LlmoptError:
    """Runs a build that is to fail so, and sees that it leaves no file."""
    with pytest.raises(error, match=message) as caught:
        run_build(job, SilentProgress())
    assert list(Path(job.folder).iterdir()) == []
    return caught.value


def test_a_capability_that_it_lacks_is_named_with_those_it_has(
    exported: Path, tmp_path: Path
) -> None:
    settings = EngineSettings(compute_capabilities=("9.0",))
    job = make_job(exported, tmp_path).model_copy(update={"settings": settings})
    error = fail(job, IncompatibleError, r"compute capability 9\.0 is none that it builds for")
    assert "8.6, 8.9" in error.message


def test_a_timing_cache_is_refused_where_nothing_is_timed(exported: Path, tmp_path: Path) -> None:
    job = make_job(exported, tmp_path).model_copy(update={"known_timings": "/nowhere"})
    fail(job, IncompatibleError, "tensorrt_rtx times no kernels: leave timing_cache out")


def test_what_the_parser_reads_otherwise_is_refused(exported: Path, tmp_path: Path) -> None:
    job = make_job(exported, tmp_path)
    wrong = (*job.outputs[1:], make_spec("logits", "float32", batch=-1, sequence=-1, vocab=320))
    error = fail(
        job.model_copy(update={"outputs": wrong}), IncompatibleError, "output logits is float16"
    )
    assert "not float32" in error.message


def test_a_wrong_profile_is_refused_by_the_builder_too(exported: Path, tmp_path: Path) -> None:
    job = make_job(exported, tmp_path)
    shapes = {**job.profiles[0], "input_ids": ((2, 1), (1, 16), (2, 64))}
    profiles = (shapes, job.profiles[1])
    fail(job.model_copy(update={"profiles": profiles}), IncompatibleError, "TensorRT-RTX refuses")


def test_a_missing_backend_is_a_missing_capability(exported: Path, tmp_path: Path) -> None:
    job = make_job(exported, tmp_path).model_copy(update={"backend": "tensorrt"})
    error = fail(job, CapabilityError, "TensorRT can't be used here")
    assert error.exit_code == 5
    assert "pip install tensorrt" in str(error.remedy)


def test_an_operator_that_it_lacks_is_named(tmp_path: Path) -> None:
    """What int8_dynamic exports are made of."""
    job = write_killer(tmp_path)
    model = onnx.load(job.onnx_path)
    del model.graph.node[:]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="narrow"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model.graph.node.extend(nodes)
    onnx.save(model, job.onnx_path)
    error = fail(job, IncompatibleError, "TensorRT-RTX refuses")
    assert "node narrow (DynamicQuantizeLinear)" in error.message


def write_killer(folder: Path) -> BuildJob:
    """Writes a graph that kills TensorRT's parser: it divides by the number of heads."""
    spec = {"batch": -1, "sequence": 4, "hidden": 8}
    node = helper.make_node(
        "RotaryEmbedding", ["x", "p", "c", "c"], ["y"], domain="com.microsoft", num_heads=0
    )
    cache = helper.make_tensor("c", TensorProto.FLOAT, [16, 2], [0.5] * 32)
    position = helper.make_tensor("p", TensorProto.INT64, [1, 4], [0, 1, 2, 3])
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 8]) for name in "xy"
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:], [cache, position])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports), path)
    work = folder / "work"
    work.mkdir()
    return BuildJob(
        backend="tensorrt_rtx",
        onnx_path=str(path),
        inputs=(make_spec("x", "float32", **spec),),
        outputs=(make_spec("y", "float32", **spec),),
        profiles=({"x": ((1, 4, 8), (1, 4, 8), (2, 4, 8))},),
        settings=EngineSettings(),
        known_timings=None,
        folder=str(work),
    )


def test_a_graph_that_kills_the_parser_kills_no_more(tmp_path: Path) -> None:
    error = fail(write_killer(tmp_path), InputError, "died of SIGFPE; the end of its log")
    assert error.exit_code == 8
    assert "llmopt export-onnx" in str(error.remedy)


def test_a_killed_process_is_taken_for_one_without_memory(exported: Path, tmp_path: Path) -> None:
    """As the kernel kills, without a word."""
    killer = threading.Thread(target=kill_when_there, args=(tmp_path,))
    killer.start()
    error = fail(make_job(exported, tmp_path), ResourceError, "killed, most likely because memory")
    killer.join()
    assert error.exit_code == 6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_from_a_bad_graph(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "model.engine").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        run_build(make_job(exported, tmp_path), SilentProgress())
    assert isinstance(explain_failure(caught.value), ResourceError)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_file_is_named(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "model.engine").symlink_to(exported / "model.onnx" / "below-a-file")
    with pytest.raises(NotADirectoryError) as caught:
        run_build(make_job(exported, tmp_path), SilentProgress())
    assert caught.value.filename == str(tmp_path / "model.engine")
    assert isinstance(explain_failure(caught.value), InputError)


def test_a_bug_in_the_process_stays_one(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that lacks what it should have: nobody's graph is at fault."""
    install_tensorrt(tmp_path / "packages", monkeypatch)
    (tmp_path / "work").mkdir()
    job = make_job(exported, tmp_path / "work").model_copy(update={"backend": "tensorrt"})
    words = r"status 1: Traceback[^|]*module 'tensorrt' has no"
    with pytest.raises(ChildBug, match=words) as caught:
        run_build(job, SilentProgress())
    assert explain_failure(caught.value) is None  # which main() reports as a bug, exit code 1
    assert list((tmp_path / "work").iterdir()) == []


def kill_when_there(folder: Path) -> None:
    """Kills the child that builds into a folder."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in find_builders(os.getpid(), folder):
            child.kill()
            return
        time.sleep(0.001)


def find_builders(parent: int, folder: Path) -> list[psutil.Process]:
    """Finds the building processes below a process whose job lies in a folder."""
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        try:
            command = child.cmdline()
        except psutil.Error:
            continue  # it ended just now
        if "llmopt.engine.builder" in command and any(str(folder) in part for part in command):
            found.append(child)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: prctl(PR_SET_PDEATHSIG)")
def test_no_builder_outlives_its_parent(exported: Path, tmp_path: Path) -> None:
    """A parent that is killed can't end its child; the kernel does."""
    job = make_job(exported, tmp_path)
    code = (
        "import sys; from llmopt.engine.build_job import BuildJob\n"
        "from llmopt.engine.build_process import run_build\n"
        "from llmopt.artifacts.progress import SilentProgress\n"
        "run_build(BuildJob.model_validate_json(sys.argv[1]), SilentProgress())"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, job.model_dump_json()],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    children: list[psutil.Process] = []
    # Its log has a first line once TensorRT runs, and so once prctl was called.
    while not children or not (tmp_path / "build.log").stat().st_size:
        assert parent.poll() is None
        assert time.monotonic() < deadline
        children = find_builders(parent.pid, tmp_path)
        time.sleep(0.001)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() and child.status() != "zombie" for child in children)
    assert not (tmp_path / "model.engine").exists()
