"""The command line's tree of commands; imports no torch."""

from typing import Annotated

import typer

from llmopt import __version__
from llmopt.cli.evaluate import make_eval_command
from llmopt.cli.inspect import doctor, init, store_app, verify
from llmopt.cli.quantize import make_quantize_command
from llmopt.cli.run import plan, run, schema, validate

app = typer.Typer(
    help="From checkpoint to served artifact, each step a few lines of YAML in git.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
quantize_app = typer.Typer(help="Quantise one model by hand.", no_args_is_help=True)


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


app.command()(run)
app.command()(plan)
app.command()(validate)
app.command()(schema)
app.command()(init)
app.command("eval")(make_eval_command())
app.command()(verify)
app.command()(doctor)
for _method in ("gptq", "rtn"):
    quantize_app.command(_method)(make_quantize_command(_method))
app.add_typer(quantize_app, name="quantize")
app.add_typer(store_app, name="store")
