"""Commands of one step on one model: `quantize METHOD`, `export-onnx`, `build-trt`."""

import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from llmopt.artifacts.onnx_description import DESCRIPTION_NAME, MODEL_NAME
from llmopt.cli import options as opt
from llmopt.cli.console import print_data
from llmopt.cli.one_step import (
    HandRun,
    build_recipe,
    describe_data,
    describe_model,
    print_recipe,
    run_by_hand,
)
from llmopt.cli.step_options import (
    ORDERING_FIELDS,
    given,
    option_parameters,
    with_parameters,
)
from llmopt.cli.summary import describe_artifact
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.engine.profile_entries import read_entries, read_shorthand
from llmopt.errors import IncompatibleError, RecipeError
from llmopt.recipe.loader import LoadedRecipe
from llmopt.steps.base import StepBase
from llmopt.steps.union import step_types

OutputOption = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="DIR", help="An empty folder.")
]
ShowRecipeOption = Annotated[
    bool, typer.Option("--print-recipe", help="Print the equivalent recipe and stop.")
]
DEFAULT_DATA = "apparel-ja"
DATA_FIELDS_LEFT_OUT = {"set", "path", "hf", "revision"}


def make_model_command(type_name: str) -> Callable[..., None]:
    """Makes the command of a step that reads one model and perhaps data, such as `export.onnx`."""
    step = step_types()[type_name]
    step_fields = set(step.model_fields)
    step_name = type_name.partition(".")[0]

    def run_step(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, or org/model@rev.")],
        *,
        output: OutputOption = None,
        show_recipe: ShowRecipeOption = False,
        store: opt.StoreOption = None,
        device: opt.DeviceOption = "auto",
        threads: opt.ThreadsOption = None,
        quiet: opt.HandQuietOption = False,
        **fields: Any,
    ) -> None:
        data: str | None = fields.pop("data", None)
        chosen = given(fields)
        settings = {name: value for name, value in chosen.items() if name in step_fields}
        data_fields = {name: value for name, value in chosen.items() if name not in step_fields}
        if data is None and data_fields:
            raise RecipeError(
                f"--{next(iter(data_fields)).replace('_', '-')} is given, but no data set",
                remedy="name one with --data",
            )
        recipe = _write_recipe(type_name, model, data, settings, data_fields)
        loaded = build_recipe(step_name, recipe)
        if show_recipe:
            print_data(print_recipe(loaded))
        else:
            run_into(loaded, output, HandRun(opt.open_store(store), output, device, threads, quiet))

    run_step.__doc__ = step.__doc__
    left_out = {*ORDERING_FIELDS, *step.input_fields()}
    parameters = [*option_parameters(step, left_out), *_data_parameters(step)]
    return with_parameters(run_step, parameters)


def build_trt(
    onnx: Annotated[Path, typer.Argument(metavar="ONNX", help="A folder of export-onnx.")],
    *,
    profile: Annotated[
        list[str],
        typer.Option(
            help="NAME:AXIS=MIN:OPT:MAX,AXIS=SIZE, for example "
            "decode:batch=1:8:16,sequence=1,past_sequence=1:512:2047; may be given several times. "
            "AXIS=128|512 makes a profile of each bucket."
        ),
    ],
    output: OutputOption = None,
    show_recipe: ShowRecipeOption = False,
    store: opt.StoreOption = None,
    quiet: opt.HandQuietOption = False,
    **fields: Any,
) -> None:
    """Build a TensorRT engine from an exported model by hand."""
    step = {
        "uses": "build.tensorrt",
        "onnx": "model",
        "profiles": _read_profiles(profile),
    }
    is_graph = onnx.name == MODEL_NAME and (onnx.parent / DESCRIPTION_NAME).exists()
    folder = onnx.parent if is_graph else onnx  # the graph of an export stands for its folder
    recipe = {
        "version": 1,
        "name": "build-tensorrt",
        "sources": {"model": {"path": str(folder), "kind": "onnx_model"}},
        "datasets": {},
        "steps": {"build": {**step, **given(fields)}},
    }
    loaded = build_recipe("build", recipe)
    if show_recipe:
        print_data(print_recipe(loaded))
        return
    try:
        run_into(loaded, output, HandRun(opt.open_store(store), output, "cpu", None, quiet))
    except IncompatibleError as error:
        if not error.message.startswith("profile "):
            raise
        raise IncompatibleError(f"--{error.message}", remedy=error.remedy) from None


def _read_profiles(texts: list[str]) -> dict[str, Any]:
    """Reads `--profile` options.

    Raises:
        RecipeError: One is not of its form, its sizes are out of order, or there are two of one
            name.
    """
    profiles: dict[str, Any] = {}
    for text in texts:
        try:
            name, written = read_shorthand(text)
        except ValueError as error:
            raise RecipeError(f"--profile {error}") from None
        if name in profiles:
            raise RecipeError(f"--profile {name} is given twice", remedy="name them apart")
        profiles[name] = written
        try:
            read_entries(profiles)
        except ValueError as error:
            said = str(error).removeprefix(f"profile {name}: ")
            raise RecipeError(f"--profile {name}: {said}") from None
    return profiles


def run_into(loaded: LoadedRecipe, output: Path | None, hand: HandRun) -> None:
    """Runs a recipe of one step into a folder and prints what came out."""
    if output is None:
        raise RecipeError("no output folder", remedy="name an empty or new one with -o DIR")
    artifact = run_by_hand(loaded, hand)
    if not hand.quiet:
        print_data("; ".join(describe_artifact(artifact)))
        for fault in artifact.manifest.degraded:
            print_data(f"degraded: {fault}")
    print_data(os.path.relpath(artifact.path))


def _data_parameters(step: type[StepBase]) -> Iterator[inspect.Parameter]:
    """Yields `--data` and the options of a data set, for steps that read one."""
    if "data" not in step.model_fields:
        return
    is_needed = step.model_fields["data"].is_required()
    yield inspect.Parameter(
        "data",
        inspect.Parameter.KEYWORD_ONLY,
        default=DEFAULT_DATA if is_needed else None,
        annotation=Annotated[
            str | None, typer.Option("--data", help="A shipped set's name, or a file.")
        ],
    )
    yield from option_parameters(DatasetSpec, DATA_FIELDS_LEFT_OUT)


def _write_recipe(
    type_name: str,
    model: str,
    data: str | None,
    settings: dict[str, Any],
    data_fields: dict[str, Any],
) -> dict[str, Any]:
    step: dict[str, Any] = {"uses": type_name, "model": "base"}
    recipe: dict[str, Any] = {
        "version": 1,
        "name": type_name.replace(".", "-"),
        "sources": {"base": describe_model(model)},
        "datasets": {},
    }
    if data is not None:
        recipe["datasets"]["calibration"] = describe_data(data, data_fields)
        step["data"] = "calibration"
    return {**recipe, "steps": {type_name.partition(".")[0]: {**step, **settings}}}


quantize_app = typer.Typer()
for _name in step_types():
    if _name.startswith("quantize."):
        quantize_app.command(_name.removeprefix("quantize."))(make_model_command(_name))
export_onnx = make_model_command("export.onnx")
build_trt = with_parameters(
    build_trt,
    list(option_parameters(step_types()["build.tensorrt"], {*ORDERING_FIELDS, "onnx", "profiles"})),
)
