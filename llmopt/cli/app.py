"""The command line's tree of commands; each is loaded when it is asked for, none with torch."""

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmopt import __version__

# Command → where it lies, and what `llmopt --help` says of it without loading it.
COMMANDS = {
    "run": ("llmopt.cli.run:run", "Run a recipe: only what is not already in the store."),
    "plan": ("llmopt.cli.run:plan", "Show what would run and why, with rough needs; run nothing."),
    "validate": (
        "llmopt.cli.run:validate",
        "Check recipes: syntax, references, files, and whether the target could serve.",
    ),
    "schema": ("llmopt.cli.run:schema", "Print the JSON Schema of recipes, for editors."),
    "init": ("llmopt.cli.inspect:init", "Write a first recipe for a model: quantise, then gate."),
    "quantize": ("llmopt.cli.model_commands:quantize_app", "Quantise one model by hand."),
    "export-onnx": (
        "llmopt.cli.model_commands:export_onnx",
        "Export one model to ONNX by hand, held against PyTorch.",
    ),
    "build-trt": (
        "llmopt.cli.model_commands:build_trt",
        "Build a TensorRT engine from an exported model by hand.",
    ),
    "triton-repo": (
        "llmopt.cli.triton_repo:triton_repo",
        "Write a Triton model repository for an export, an engine or a checkpoint by hand.",
    ),
    "eval": (
        "llmopt.cli.evaluate:evaluate",
        "Score a model on a held-out set; with --baseline also KL and top-1 agreement.",
    ),
    "calibration": (
        "llmopt.cli.calibration:calibration_app",
        "Check a calibration set, say what it is made of, or cut it into token windows.",
    ),
    "verify": (
        "llmopt.cli.inspect:verify",
        "Check that an artifact is whole, what it claims to be, and loadable.",
    ),
    "report": (
        "llmopt.cli.report:report",
        "Write one HTML page about an artifact or a run: recipe, quality, errors, costs, files.",
    ),
    "diff": (
        "llmopt.cli.diff:diff",
        "Show what two artifacts differ in; exit with 3 where a given threshold is passed.",
    ),
    "doctor": (
        "llmopt.cli.inspect:doctor",
        "Say what this machine can run, and how to get what is missing.",
    ),
    "store": ("llmopt.cli.inspect:store_app", "Look at the artifact store and clear it."),
}


class LazyGroup(TyperGroup):
    """Puts the real command in place of its entry in the list, once it is to be run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Finds the command that the first argument names, and loads it."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed if name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """Imports a command's module; returns what typer makes of it."""
    place, summary = COMMANDS[name]
    module, attribute = place.split(":")
    found = getattr(importlib.import_module(module), attribute)
    loaded = typer.Typer(help=summary, add_completion=False, no_args_is_help=True)
    if isinstance(found, typer.Typer):
        loaded.add_typer(found, help=summary)
    else:
        loaded.command(name, help=summary)(found)
    return typer.main.get_command(loaded)


app = typer.Typer(
    cls=LazyGroup,
    help="From checkpoint to served artifact, each step a few lines of YAML in git.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"llmopt {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version


def _listed() -> None:
    """Stands in the list of commands for one that is not loaded."""


for _name, (_, _summary) in COMMANDS.items():
    app.command(_name, help=_summary)(_listed)
