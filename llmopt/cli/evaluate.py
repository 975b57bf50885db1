"""`eval`: perplexity of a model and its distance from a baseline, by hand."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from llmopt.cli import options as opt
from llmopt.cli.console import print_data, print_json
from llmopt.cli.one_step import (
    HandRun,
    build_recipe,
    describe_data,
    describe_model,
    print_recipe,
    run_by_hand,
)
from llmopt.cli.step_options import ORDERING_FIELDS, given, option_parameters, with_parameters
from llmopt.cli.summary import describe_artifact
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.steps.eval_perplexity import EvalPerplexity

DEFAULT_DATA = "apparel-ja"
STEP_NAME = "perplexity"


def make_eval_command() -> Callable[..., None]:
    """Makes the `eval` command from the perplexity step's fields."""
    step_fields = set(EvalPerplexity.model_fields)

    def evaluate(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, or org/model@rev.")],
        *,
        baseline: Annotated[
            str | None, typer.Option("--baseline", help="Adds KL divergence and agreement.")
        ] = None,
        data: Annotated[
            str, typer.Option("--data", help="A shipped set's name, or a file.")
        ] = DEFAULT_DATA,
        as_json: opt.JsonOption = False,
        show_recipe: Annotated[
            bool, typer.Option("--print-recipe", help="Print the equivalent recipe and stop.")
        ] = False,
        store: opt.StoreOption = None,
        device: opt.DeviceOption = "auto",
        threads: opt.ThreadsOption = None,
        quiet: opt.HandQuietOption = False,
        **fields: Any,
    ) -> None:
        """Score a model on a held-out set; with --baseline also KL and top-1 agreement."""
        chosen = given(fields)
        settings = {name: value for name, value in chosen.items() if name in step_fields}
        data_fields = {name: value for name, value in chosen.items() if name not in step_fields}
        loaded = build_recipe(
            STEP_NAME, _write_recipe(model, baseline, data, settings, data_fields)
        )
        if show_recipe:
            print_data(print_recipe(loaded))
            return
        hand = HandRun(opt.open_store(store), None, device, threads, quiet)
        artifact = run_by_hand(loaded, hand)
        if as_json:
            print_json(artifact.manifest.metrics)
        else:
            print_data("\n".join(describe_artifact(artifact)))

    left_out = {*ORDERING_FIELDS, *EvalPerplexity.input_fields()}
    parameters = [
        *option_parameters(EvalPerplexity, left_out),
        *option_parameters(DatasetSpec, {"set", "path", "hf", "revision", "pack"}),
    ]
    return with_parameters(evaluate, parameters)


def _write_recipe(
    model: str,
    baseline: str | None,
    data: str,
    settings: dict[str, Any],
    data_fields: dict[str, Any],
) -> dict[str, Any]:
    described = describe_data(data, data_fields)
    if "set" in described:
        described = {"set": described.pop("set"), "split": "heldout", **described}
    sources = {"candidate": describe_model(model)}
    step: dict[str, Any] = {"uses": "eval.perplexity", "model": "candidate", "data": "heldout"}
    if baseline is not None:
        sources["base"] = describe_model(baseline)
        step["baseline"] = "base"
    return {
        "version": 1,
        "name": "eval",
        "sources": sources,
        "datasets": {"heldout": described},
        "steps": {STEP_NAME: {**step, **settings}},
    }


evaluate = make_eval_command()
