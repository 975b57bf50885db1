"""`llmopt verify` of engines, and `doctor`: what a machine without such a GPU can and can't say."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.engine_description import read_engine_description
from llmopt.artifacts.onnx_description import OnnxDescription, read_onnx_description
from llmopt.artifacts.onnx_session import open_session
from llmopt.artifacts.optimization_profile import POINTS
from llmopt.artifacts.tensor_spec import TensorDtype, make_spec
from llmopt.engine.backends import RTX, why_not_run_here
from llmopt.engine.cuda_driver import CudaError, list_gpus
from llmopt.engine.engine_runner import judge_cuda_error
from llmopt.engine.onnx_reference import OnnxReference
from llmopt.engine.probe_inputs import make_feeds
from llmopt.engine.verification import (
    find_output_faults,
    make_probes,
    relative_error,
    to_float32,
    verify_engine,
)
from llmopt.export.session import OnnxDecoder
from tests.cli.conftest import RunHere
from tests.cli.conftest import run_here as run_here  # noqa: PLC0414 - a fixture
from tests.engine.builds import make_recipe, needs_rtx
from tests.engine.descriptions import describe
from tests.engine.fake_driver import install_driver, needs_compiler
from tests.models import edit_json
from tests.recipe.harness import Workplace

pytestmark = needs_rtx
assert RTX.runs_on is not None
NO_GPU = why_not_run_here(RTX, RTX.runs_on, list_gpus())
needs_no_gpu = pytest.mark.skipif(NO_GPU is None, reason="a GPU that TensorRT-RTX runs on is here")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> Path:
    """An engine's artifact; do not write into it."""
    workplace = Workplace(tmp_path_factory.mktemp("engine"))
    workplace.run(make_recipe(exported))
    return workplace.artifact("engine").path.resolve()


@needs_no_gpu
def test_without_a_gpu_it_says_what_was_not_checked(
    run_here: RunHere, engine: Path, exported: Path
) -> None:
    done = run_here("verify", engine, "--onnx", exported)
    assert done.returncode == 0, done.stderr
    assert "TensorRT-RTX 1." in done.stdout
    assert "profiles prefill, decode, for compute capability" in done.stdout
    assert "built from the model in" in done.stdout
    assert "not run, because TensorRT-RTX engines run on GPUs" in done.stdout
    assert done.stdout.endswith("is sound as far as checked\n")
    report = json.loads(run_here("verify", engine, "--json").stdout)
    assert report["faults"] == []
    assert len(report["not_checked"]) == 1


@pytest.mark.skipif(NO_GPU is not None, reason=f"needs a GPU that it runs on: {NO_GPU}")
def test_on_a_gpu_it_is_run_and_compared(engine: Path, exported: Path) -> None:
    report = verify_engine(engine, exported)
    assert report.faults == []
    assert report.not_checked == []
    assert report.checked[2:] == ["loaded, and run 6 times", "5 outputs against onnxruntime's"]


@needs_compiler
@pytest.mark.parametrize(
    ("status", "meaning"),
    [(46, "46 (the GPU is busy)"), (100, "100"), (2, "2 (the GPU's memory is full)")],
    ids=["busy", "absent", "full"],
)
def test_a_gpu_that_can_not_be_had_now_is_no_fault_of_the_engine(
    engine: Path,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    meaning: str,
) -> None:
    install_driver(tmp_path / "driver", monkeypatch, "NVIDIA L4", "8.9", status)
    report = verify_engine(engine, exported)
    assert report.faults == []
    (line,) = report.not_checked
    assert "not run, because cuDevicePrimaryCtxRetain ended with CUDA error " + meaning in line


@pytest.mark.parametrize(
    ("status", "kind"), [(2, "memory"), (46, "unavailable"), (700, "refused"), (719, "refused")]
)
def test_what_an_engine_does_to_a_gpu_is_its_fault(status: int, kind: str) -> None:
    """An illegal address or a failed launch, but not memory that others fill."""
    assert judge_cuda_error(CudaError("cuStreamSynchronize failed", status)).event.kind == kind


def test_every_output_is_held_against_onnxruntime(
    engine: Path, exported: Path, tmp_path: Path
) -> None:
    description = read_engine_description(engine)
    reference = OnnxReference(exported, description.model)
    probe = next(make_probes(description, tmp_path))
    outputs = reference.run(probe.feeds)
    assert len(outputs) == len(description.model.outputs) == 5
    assert list(find_output_faults(probe, outputs, description, reference)) == []
    for name, values in outputs.items():
        wrong = {**outputs, name: values + 0.1 * np.abs(values).max()}
        (fault,) = find_output_faults(probe, wrong, description, reference)
        assert fault.startswith(f"profile prefill at min: {name} is 0.1 of its largest value away")
        nan = {**outputs, name: values * np.float32("nan")}
        (fault,) = find_output_faults(probe, nan, description, None)
        assert fault == f"profile prefill at min: {name} holds NaN or infinity"


def other_bytes(folder: Path) -> None:
    data = bytearray((folder / "model.engine").read_bytes())
    data[-1] ^= 1
    (folder / "model.engine").write_bytes(data)


def truncate(folder: Path) -> None:
    data = (folder / "model.engine").read_bytes()
    (folder / "model.engine").write_bytes(data[:-1])


def remove(folder: Path) -> None:
    (folder / "model.engine").unlink()


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (other_bytes, ["model.engine is not the file that engine.json was written for"]),
        (truncate, ["sha256 differs", "has no header of a TensorRT-RTX engine of its length"]),
        (remove, ["model.engine is missing"]),
    ],
)
def test_a_damaged_engine_is_not_sound(
    engine: Path, tmp_path: Path, damage: Callable[[Path], None], messages: list[str]
) -> None:
    folder = Path(shutil.copytree(engine, tmp_path / "engine"))
    assert verify_engine(folder, None).faults == []
    damage(folder)
    faults = verify_engine(folder, None).faults
    assert len(faults) == len(messages)
    for fault, message in zip(faults, messages, strict=True):
        assert message in fault


def test_a_description_of_another_engine_is_found(
    run_here: RunHere, engine: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(engine, tmp_path / "engine"))
    edit_json(folder / "engine.json", engine_sha256="0" * 64)
    done = run_here("verify", folder)
    assert done.returncode == 8
    assert "engine.json has" in done.stderr  # the manifest's word
    assert "model.engine is not the file that engine.json was written for" in done.stderr


def test_another_model_is_told_from_its_own(engine: Path, exported: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(exported, tmp_path / "model"))
    assert verify_engine(engine, model).faults == []
    with (model / "model.onnx.data").open("ab") as file:
        file.write(b"x")
    (fault,) = verify_engine(engine, model).faults
    assert "model.onnx.data is not the file that the engine was built from" in fault


def test_another_model_says_nothing_against_the_engine(
    run_here: RunHere, engine: Path, exported: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(exported, tmp_path / "model"))
    with (model / "model.onnx.data").open("ab") as file:
        file.write(b"x")
    done = run_here("verify", engine, "--onnx", model)
    assert done.returncode == 8
    assert "is not sound" not in done.stderr
    assert "itself is sound as far as checked, but the exported model is another one" in done.stderr
    assert "→ name the model that it was made from with --onnx" in done.stderr
    report = json.loads(run_here("verify", engine, "--onnx", model, "--json").stdout)
    assert (report["faults"], len(report["other_model"])) == ([], 1)


def test_probes_cover_every_profile_and_onnxruntime_takes_them(
    engine: Path, exported: Path, tmp_path: Path
) -> None:
    """The inputs that a GPU's engine would get, and what it would be held against."""
    description = read_engine_description(engine)
    reference = OnnxReference(exported, description.model)
    probes = list(make_probes(description, tmp_path))
    assert [probe.title for probe in probes] == [
        f"profile {profile} at {point}" for profile in ("prefill", "decode") for point in POINTS
    ]
    for probe in probes:
        profile = description.profiles[probe.request.profile]
        with np.load(probe.request.feeds_path) as feeds:
            shapes = {name: array.shape for name, array in feeds.items()}
        point = probe.title.rpartition(" ")[2]
        sizes = profile.sizes_at(point)
        assert shapes == {spec.name: spec.shape_of(sizes) for spec in description.model.inputs}
        logits = reference.run(probe.feeds)["logits"]
        assert logits.shape[:2] == (sizes["batch"], sizes["sequence"])
        assert np.isfinite(logits).all()


def test_the_reference_is_the_decoders_own(exported: Path) -> None:
    """Two ways to run the model in onnxruntime give the same logits for the same tokens."""
    description = read_onnx_description(exported)
    sizes = {"batch": 2, "sequence": 7, "past_sequence": 0, "total_sequence": 7}
    feeds = make_feeds(description, sizes)
    decoder = OnnxDecoder(open_session(exported, description, threads=1), description)
    decoder.start(2)
    logits = decoder.forward(feeds["input_ids"], feeds["attention_mask"])
    reference = OnnxReference(exported, description).run(feeds)["logits"]
    assert relative_error(logits, reference) < 1e-3


def test_errors_are_relative_and_keep_nan() -> None:
    ones = np.ones((2, 2), np.float32)
    assert relative_error(3 * ones, 4 * ones) == pytest.approx(0.25)
    assert relative_error(ones[:1], ones) == float("inf")
    assert not relative_error(np.float32("nan") * ones, ones) <= 1


def test_bfloat16_passes_as_its_bits() -> None:
    description = describe_in("bfloat16")
    sizes = {"batch": 1, "sequence": 2, "past_sequence": 3, "total_sequence": 5}
    keys = make_feeds(description, sizes)["past_key_values.0.key"]
    assert keys.dtype == np.uint16
    float32 = make_feeds(describe_in("float32"), sizes)["past_key_values.0.key"]
    np.testing.assert_allclose(to_float32(keys), float32, rtol=1 / 128)


def test_masked_positions_lie_inside_the_rows() -> None:
    positions = make_spec("masked_positions", "int64", batch=-1)
    description = describe()
    masked = description.model_copy(update={"inputs": (*description.inputs[:2], positions)})
    sizes = {"batch": 50, "sequence": 3, "total_sequence": 3}
    drawn = make_feeds(masked, sizes)["masked_positions"]
    assert (drawn.shape, drawn.dtype) == ((50,), np.int64)
    assert set(drawn.tolist()) == {0, 1, 2}


def describe_in(dtype: TensorDtype) -> OnnxDescription:
    """Describes a small decoder whose cache is of that dtype."""
    description = describe()
    inputs = tuple(
        spec.model_copy(update={"dtype": dtype}) if spec.dtype == "float16" else spec
        for spec in description.inputs
    )
    return description.model_copy(update={"inputs": inputs})


@needs_no_gpu
def test_doctor_says_what_builds_and_what_runs(run_here: RunHere) -> None:
    findings = {each["name"]: each for each in json.loads(run_here("doctor", "--json").stdout)}
    for name in ("onnx", "onnxruntime", "onnxscript", "TensorRT-RTX builds engines"):
        assert findings[name]["present"], name
    runs = findings["TensorRT-RTX runs engines"]
    assert not runs["present"]
    assert "7.5, 8.6, 8.9, 12.0, 12.1" in runs["detail"]
    assert "TensorRT builds engines" in findings


def test_a_whole_artifact_has_no_faults(engine: Path) -> None:
    assert Artifact.open(engine).find_faults() == []
