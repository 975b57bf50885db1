"""`build.tensorrt` and `llmopt build-trt`: from an export to an engine that says what it is."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.engine_description import read_engine_description
from llmopt.artifacts.onnx_description import DATA_NAME, read_onnx_description
from llmopt.artifacts.progress import SilentProgress
from llmopt.errors import IncompatibleError, InputError, LlmoptError, RecipeError, ResourceError
from llmopt.recipe.plan import check_plan
from llmopt.steps.base import ResolvedInput, RunContext
from llmopt.steps.build_tensorrt import BuildTensorrt
from tests.cli.conftest import RunHere
from tests.cli.conftest import run_here as run_here  # noqa: PLC0414 - a fixture
from tests.cli.test_terminal import run_on_terminal
from tests.engine.builds import CACHED, DECODE, make_recipe, needs_rtx, seal_export
from tests.engine.test_build_process import write_killer
from tests.models import edit_json
from tests.recipe.harness import Workplace

PROFILES = (
    "--profile=prefill:batch=1:1:2,sequence=16|64,past_sequence=0",
    "--profile=decode:batch=1:2:4,sequence=1,past_sequence=1:32:127",
)


@needs_rtx
def test_a_recipe_builds_an_engine_once(workplace: Workplace, exported: Path) -> None:
    recipe = make_recipe(exported)
    workplace.run(recipe)
    artifact = workplace.artifact("engine")
    names = {entry.path for entry in artifact.manifest.files}
    assert names == {"model.engine", "engine.json", "build.log"}
    assert artifact.manifest.kind == "tensorrt_engine"
    assert artifact.manifest.metrics["profiles"] == ["prefill", "decode"]
    engine = read_engine_description(artifact.path)
    assert engine.backend == "tensorrt_rtx"
    assert engine.engine_sha256 == digest_file(artifact.path / "model.engine")
    assert engine.onnx_sha256 == digest_file(exported / "model.onnx")
    assert engine.weights_sha256 == digest_file(exported / DATA_NAME)
    assert engine.model == read_onnx_description(exported)
    assert engine.profiles[1].axes["total_sequence"].points == (2, 33, 128)
    assert workplace.states(recipe) == {"engine": "in the store"}
    changed = workplace.states(recipe, "steps.engine.tf32=false")
    assert changed["engine"].startswith("invalidated because steps.engine.tf32")


@needs_rtx
def test_by_hand_with_buckets(run_here: RunHere, exported: Path, tmp_path: Path) -> None:
    done = run_here("build-trt", exported, *PROFILES, "-o", "engine")
    assert done.returncode == 0, done.stderr
    assert "profiles prefill_16, prefill_64, decode" in done.stdout
    assert "build: parsing the graph" in done.stderr
    engine = read_engine_description(tmp_path / "engine")
    sizes = [profile.axes["sequence"].points for profile in engine.profiles]
    assert sizes == [(1, 16, 16), (17, 64, 64), (1, 1, 1)]
    verified = run_here("verify", "engine")
    assert verified.returncode == 0, verified.stderr


def test_the_equivalent_recipe_is_printed(run_here: RunHere, exported: Path) -> None:
    options = ("--compute-capabilities", "8.9", "--workspace-gb", "2", "--no-tf32")
    done = run_here("build-trt", exported, *PROFILES, *options, "--print-recipe")
    assert done.returncode == 0, done.stderr
    for line in ("uses: build.tensorrt", "workspace_gb: 2.0", "tf32: false", "buckets:"):
        assert line in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--profile=decode",), 2, "not of the form NAME:AXIS=MIN:OPT:MAX"),
        ((PROFILES[1], PROFILES[1]), 2, "--profile decode is given twice"),
        (("--profile=p:batch=4:2:8,sequence=1",), 2, "error: --profile p: batch has min 4 above"),
        (("--profile=p:batch=1,sequence=1",), 7, "--profile p lacks the axis past_sequence"),
        (("--profile=p:batsh=1",), 7, "incompatible: --profile p: batsh is no dynamic axis or"),
        (("--profile=p:batsh=1",), 7, "did you mean batch? the model's axes are batch, sequence"),
        (
            ("--profile=p:batch=1,sequence=1,past_sequence=1:8:256",),
            7,
            "max 257, beyond the model's max_position_embeddings 256",
        ),
        ((PROFILES[1], "--workspace-gb", "0.000001"), 7, "workspace_gb allows 1.0 kB"),
        ((PROFILES[1], "--workspace-gb", "0"), 2, "workspace-gb"),
        ((PROFILES[1], "--compute-capabilities", "89"), 2, "write 8.9"),
        (
            (PROFILES[1], "--compute-capabilities", "8.9,12.0"),
            2,
            "'8.9,12.0' is no compute capability; write each on its own: 8.9, 12.0 (as options: "
            "--compute-capabilities 8.9 --compute-capabilities 12.0)",
        ),
        ((PROFILES[1], "--tensorrt-version", "x"), 2, "tensorrt-version"),
        ((PROFILES[1], "--timing-cache", "missing"), 8, "timing_cache missing does not exist"),
        ((PROFILES[1], "--backend", "tensorrt"), 5, "tensorrt is not installed"),
        ((PROFILES[1], "--tensorrt-version", "99"), 5, "not 99 as tensorrt_version asks"),
    ],
)
def test_what_is_wrong_has_its_exit_code_and_leaves_nothing(
    run_here: RunHere,
    exported: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    done = run_here("build-trt", exported, *options, "-o", "engine")
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    for word in ("steps.build", "step build", "when_unavailable"):  # recipes' words
        assert word not in done.stderr
    assert not (tmp_path / "engine").exists()


def text_file(model: Path) -> None:
    (model / "model.onnx").write_text("this is no model\n")


def no_data(model: Path) -> None:
    (model / DATA_NAME).unlink()


def short_data(model: Path) -> None:
    data = model / DATA_NAME
    data.write_bytes(data.read_bytes()[:-64])


def other_inputs(model: Path) -> None:
    inputs = json.loads((model / "onnx.json").read_text())["inputs"]
    edit_json(model / "onnx.json", inputs=inputs[1:])


def nbits(model: Path) -> None:
    edit_json(model / "onnx.json", weights="matmulnbits")


def changed(name: str) -> Callable[[Path], None]:
    """Changes one byte of a file since the export's manifest was written."""

    def change(model: Path) -> None:
        seal_export(model)
        data = bytearray((model / name).read_bytes())
        data[-1] ^= 1
        (model / name).write_bytes(data)

    return change


def foreign(model: Path) -> None:
    """The graph that kills the parser, under the description of another."""
    (model / "crafted").mkdir()
    job = write_killer(model / "crafted")
    (model / "model.onnx").write_bytes(Path(job.onnx_path).read_bytes())
    for side in ("inputs", "outputs"):
        specs = [spec.model_dump() for spec in getattr(job, side)]
        edit_json(model / "onnx.json", **{side: specs})


def no_description(model: Path) -> None:
    (model / "onnx.json").unlink()


def huge(model: Path) -> None:
    """As large as no machine's memory; a file with a hole, so that it takes no disk."""
    with (model / DATA_NAME).open("r+b") as file:
        file.truncate(1 << 42)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (text_file, InputError, "model.onnx is no ONNX model"),
        (no_data, InputError, "its weights file model.onnx.data is missing"),
        (short_data, InputError, "model.onnx.data is truncated"),
        (other_inputs, InputError, "input input_ids is one too many"),
        (nbits, IncompatibleError, "weights: matmulnbits, whose operators TensorRT lacks"),
        (foreign, IncompatibleError, "is com.microsoft::RotaryEmbedding"),
        (no_description, InputError, "holds no onnx.json"),
        (huge, ResourceError, "of memory"),
        (changed(DATA_NAME), InputError, "model.onnx.data is not the file that was exported"),
        (changed("model.onnx"), InputError, "model.onnx is not the file that was exported"),
    ],
)
@needs_rtx
def test_a_bad_model_is_refused_before_the_build(
    copied: Callable[[], Path],
    tmp_path: Path,
    damage: Callable[[Path], None],
    error: type[LlmoptError],
    message: str,
) -> None:
    model, work = copied(), tmp_path / "work"
    work.mkdir()
    damage(model)
    profiles = {"p": {"batch": 1}} if damage is foreign else {"decode": DECODE}
    step = BuildTensorrt(uses="build.tensorrt", onnx="model", profiles=profiles)
    context = RunContext(work, tmp_path / "scratch", "cpu", 1, SilentProgress())
    inputs = {"onnx": ResolvedInput("model", "onnx_model", "", model)}
    with pytest.raises(error, match=message):
        step.run(inputs, context)
    assert list(work.iterdir()) == []


def test_a_profile_that_does_not_fit_is_told_with_the_steps_place(
    workplace: Workplace, exported: Path
) -> None:
    recipe = make_recipe(exported, profiles={"p": {**DECODE, "batsh": 1}})
    message = r"recipe\.yaml:\d+:\d+: step engine: profile p: batsh is no dynamic axis"
    with pytest.raises(IncompatibleError, match=message):
        check_plan(workplace.plan(recipe))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"profiles": {}}, "at least 1"),
        ({"profiles": {"p": {"batch": [1, 2.5, 3]}}}, r"batch is \[1, 2\.5, 3\], not a whole"),
        ({"profiles": {"p": {"sequence": [8, 4, 2]}}}, "sequence has min 8 above opt 4"),
        ({"compute_capabilities": [8.9, 8.9]}, "names one twice: 8.9, 8.9"),
        ({"compute_capabilities": 8.9}, r"8\.9 is no list; write a list, such as \[8\.9, 12\.0\]"),
        ({"compute_capabilities": ["sm_120"]}, r"'sm_120' is no .*; write 12\.0"),
        ({"compute_capabilities": ["ada"]}, r"'ada' is no compute capability; write 8\.9"),
        ({"tensorrt_version": 10.1}, "tensorrt_version"),
    ],
)
def test_a_slip_in_a_recipe_is_found_without_the_model(
    workplace: Workplace, step: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        workplace.plan(make_recipe(Path("made-later"), **step))
    assert "recipe.yaml" in caught.value.message


@pytest.mark.parametrize(
    ("gpu", "step", "message"),
    [
        ("h100", {}, "h100 has compute capability 9.0; engines of tensorrt_rtx run on"),
        ("h100", {"backend": "tensorrt_rtx"}, "h100 has compute capability 9.0; engines of"),
        ("a100-80", {"backend": "tensorrt_rtx"}, "a100-80 has compute capability 8.0"),
        ("rtx4090", {"compute_capabilities": [8.6]}, "names 8.6; the target's GPU rtx4090 has 8.9"),
    ],
)
def test_an_engine_that_the_target_can_not_run_is_refused(
    workplace: Workplace, exported: Path, gpu: str, step: dict[str, Any], message: str
) -> None:
    recipe = {**make_recipe(exported, **step), "target": {"runtime": "tensorrt", "gpu": gpu}}
    with pytest.raises(IncompatibleError, match=message):
        workplace.run(recipe)
    assert workplace.stored() == []


@needs_rtx
def test_plan_estimates_a_build(workplace: Workplace, exported: Path) -> None:
    (planned,) = workplace.plan(make_recipe(exported)).steps
    model_bytes = sum((exported / n).stat().st_size for n in ("model.onnx", DATA_NAME))
    assert planned.estimate is not None
    assert planned.estimate.ram_bytes == int(3.5 * model_bytes)
    assert planned.estimate.flops == 0  # not known, which plan says
    workplace.run(make_recipe(exported, profiles={"decode": CACHED["decode"]}))
    engine_bytes = workplace.artifact("engine").manifest.metrics["engine_bytes"]
    assert isinstance(engine_bytes, int)
    assert engine_bytes > 0


@needs_rtx
def test_a_terminal_shows_phases_without_a_share_that_nobody_knows(
    tmp_path: Path, exported: Path
) -> None:
    code, drawn = run_on_terminal(tmp_path, "build-trt", exported, *PROFILES, "-o", "engine")
    assert code == 0, drawn
    assert "build: parsing the graph" in drawn
    assert "build: Building engine" in drawn
    assert not re.search(r"build: .*\d+(/\d+|%)", drawn)
    assert re.search(r"✓ build: done in \d+\.\d s", drawn)


@pytest.mark.parametrize("backend", ["auto", "tensorrt_rtx"])
def test_an_a100_needs_the_other_tensorrt(backend: str) -> None:
    profiles = {"p": {"batch": 1, "sequence": 8, "past_sequence": 0}}
    step = BuildTensorrt.model_validate(
        {
            "uses": "build.tensorrt", "onnx": "m", "profiles": profiles, "backend": backend,
            "compute_capabilities": ["8.0"],
        }
    )  # fmt: skip
    if backend == "auto":
        assert [each.name for each in step.wanted_backends] == ["tensorrt"]
        return
    with pytest.raises(IncompatibleError, match=r"compute_capabilities: 8\.0; engines of") as told:
        step.preflight({}, None)
    assert "backend: tensorrt" in str(told.value.remedy)
