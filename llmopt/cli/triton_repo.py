"""`triton-repo`: a Triton model repository for one artifact, by hand."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from llmopt.artifacts.deferred_build import DEFERRED_BUILD_NAME
from llmopt.artifacts.engine_description import ENGINE_DESCRIPTION_NAME
from llmopt.artifacts.onnx_description import DESCRIPTION_NAME
from llmopt.cli import options as opt
from llmopt.cli.console import print_data
from llmopt.cli.model_commands import OutputOption, ShowRecipeOption, run_into
from llmopt.cli.one_step import HandRun, build_recipe, describe_model, print_recipe
from llmopt.cli.step_options import ORDERING_FIELDS, given, option_parameters, with_parameters
from llmopt.steps.union import step_types

STEP, TYPE = "repository", "package.triton"
TOKENIZER = "tokenizer"
UNFIT_FOR_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")


def triton_repo(
    artifact: Annotated[
        str,
        typer.Argument(metavar="ARTIFACT", help="A folder of export-onnx, build-trt or a model."),
    ],
    *,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The checkpoint whose tokenizer is used (default: what the export holds).",
        ),
    ] = None,
    output: OutputOption = None,
    show_recipe: ShowRecipeOption = False,
    store: opt.StoreOption = None,
    quiet: opt.QuietOption = False,
    **fields: Any,
) -> None:
    """Write a Triton model repository for an export, an engine or a checkpoint by hand."""
    name, source = _name_source(artifact), _describe_source(artifact)
    sources: dict[str, Any] = {name: source}
    # A description without a kind is a checkpoint's.
    shape = "vllm" if isinstance(source, str) else "generate"
    step: dict[str, Any] = {"uses": TYPE, "shape": shape, "model": name, **given(fields)}
    if tokenizer is not None:
        sources[TOKENIZER] = describe_model(tokenizer)
        step["tokenizer"] = TOKENIZER
    loaded = build_recipe(
        STEP,
        {
            "version": 1,
            "name": TYPE.replace(".", "-"),
            "sources": sources,
            "datasets": {},
            "steps": {STEP: step},
        },
    )
    if show_recipe:
        print_data(print_recipe(loaded))
    else:
        run_into(loaded, output, HandRun(opt.open_store(store), output, "cpu", None, quiet))


def _describe_source(artifact: str) -> str | dict[str, str]:
    """Writes a source of the kind that the folder's files show."""
    folder = Path(artifact)
    if (folder / ENGINE_DESCRIPTION_NAME).exists() or (folder / DEFERRED_BUILD_NAME).exists():
        return {"path": artifact, "kind": "tensorrt_engine"}
    if (folder / DESCRIPTION_NAME).exists():
        return {"path": artifact, "kind": "onnx_model"}
    return describe_model(artifact)


def _name_source(artifact: str) -> str:
    """Names the source, and so by default the model, after the folder or the hub's model."""
    last = Path(artifact.partition("@")[0]).name
    name = UNFIT_FOR_A_NAME.sub("-", last).strip("-_")[:80]
    return name if name and name not in (TOKENIZER, STEP) else "model"


triton_repo = with_parameters(
    triton_repo,
    list(option_parameters(step_types()[TYPE], {*ORDERING_FIELDS, "model", TOKENIZER})),
)
