"""What the command line loads, says of itself, and offers."""

import subprocess
import sys
from pathlib import Path

import pytest

from llmopt import __version__
from llmopt.cli.app import COMMANDS
from llmopt.cli.step_options import ORDERING_FIELDS, option_parameters
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.steps.base import StepBase
from llmopt.steps.eval_perplexity import EvalPerplexity
from llmopt.steps.union import step_types
from tests.cli.conftest import RunHere
from tests.conftest import RunCli
from tests.models import REPOSITORY
from tests.report.artifacts import write_run

HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "datasets"}
LIST_MODULES = """
import sys
from llmopt.cli.app import app
app(sys.argv[1:], standalone_mode=False)
print(*sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["quantize", "gptq", "--help"],
        ["validate", "recipes/quickstart.yaml"],
        ["plan", "recipes/quickstart.yaml", "--store", "STORE"],
        ["schema"],
        ["calibration", "lint", "apparel-ja"],
        ["calibration", "stats", "apparel-ja"],
        ["store", "ls", "--store", "STORE"],
        ["report", "RUN", "-o", "STORE.html"],
        ["diff", "RUN/quantize", "RUN/gate"],
    ],
    ids=" ".join,
)
def test_only_work_loads_heavy_libraries(tmp_path: Path, arguments: list[str]) -> None:
    write_run(tmp_path / "run")
    places = {"STORE": str(tmp_path / "store"), "RUN": str(tmp_path / "run")}
    for word, place in places.items():
        arguments = [argument.replace(word, place) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", LIST_MODULES, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "typer" in loaded
    assert not loaded & {*HEAVY, "matplotlib"}


def test_the_version_is_the_packages(run_cli: RunCli) -> None:
    done = run_cli("--version")
    assert (done.returncode, done.stdout) == (0, f"llmopt {__version__}\n")


def test_help_lists_every_command_without_loading_one(run_here: RunHere) -> None:
    text = run_here("--help").stdout
    for command in COMMANDS:
        assert f" {command} " in text
    assert "gptq" in run_here("quantize", "--help").stdout
    assert "gc" in run_here("store", "--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_listed_command_is_there(run_here: RunHere, command: str) -> None:
    done = run_here(command, "--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    assert f"Usage: llmopt {command} " in words
    assert COMMANDS[command][1] in words


@pytest.mark.parametrize(
    ("command", "model", "left_out"),
    [
        (
            ("quantize", "gptq"),
            step_types()["quantize.gptq"],
            {"model", "data", "overrides", "experts"},
        ),
        (("quantize", "rtn"), step_types()["quantize.rtn"], {"model", "data", "overrides"}),
        (("quantize", "gptq"), DatasetSpec, {"set", "path", "hf", "revision", "mix", "require"}),
        (
            ("calibration", "build"),
            DatasetSpec,
            {"set", "path", "hf", "revision", "mix", "require"},
        ),
        (("eval",), EvalPerplexity, {"model", "data", "baseline"}),
    ],
)
def test_every_field_is_an_option_with_its_help_and_default(
    run_here: RunHere,
    command: tuple[str, ...],
    model: type[StepBase] | type[DatasetSpec],
    left_out: set[str],
) -> None:
    words = " ".join(run_here(*command, "--help").stdout.replace("│", " ").split())
    offered = {parameter.name for parameter in option_parameters(model, ORDERING_FIELDS | left_out)}
    assert offered == set(model.model_fields) - ORDERING_FIELDS - left_out
    for name in offered:
        field = model.model_fields[name]
        assert f"--{name.replace('_', '-')} " in words
        assert " ".join((field.description or "?").split()) in words
        if field.default is not None and not field.default_factory:
            shown = words.partition(f"--{name.replace('_', '-')} ")[2].partition(" --")[0]
            assert f"[default: ({field.default}" in shown


def test_a_usage_error_is_exit_code_2(run_cli: RunCli) -> None:
    for arguments in (["run"], ["run", "r.yaml", "--nonsense"], ["quantise"], ["--threads", "0"]):
        done = run_cli(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "Usage: llmopt" in done.stderr


def test_schema_is_the_file_in_the_repository(run_cli: RunCli) -> None:
    done = run_cli("schema")
    path = REPOSITORY / "schema" / "recipe-v1.json"
    assert done.stdout == path.read_text(encoding="utf-8")
    assert done.stderr == ""


def test_the_shipped_recipes_validate(run_cli: RunCli) -> None:
    recipes = sorted((REPOSITORY / "recipes").glob("*.yaml"))
    done = run_cli("validate", *recipes)
    assert done.returncode == 0
    assert done.stdout == ""
    assert done.stderr.count(": valid (") == len(recipes) > 0
    assert "variants smoke" in done.stderr
