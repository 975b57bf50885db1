"""Options that several commands share, defined once."""

import os
from pathlib import Path
from typing import Annotated

import typer

from llmopt.artifacts.store import Store

STORE_VARIABLE = "LLMOPT_STORE"
OUTPUT_ROOT = Path("out")

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help=f"The artifact store (default .llmopt/store, or ${STORE_VARIABLE}).",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:N; GPTQ takes several: cuda:0,cuda:1; auto is a GPU if there is one.",
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads (default: torch's choice).")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say errors and notes only: no progress, no summary.")
]
HandQuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="No progress: only the result on stdout, and errors and notes on stderr.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file.")]
VariantOption = Annotated[
    str | None, typer.Option("--variant", help="Lay this variant over the recipe.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value: steps.quantize.bits=8."),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="STEP", help="Run this step and what it needs.")
]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="STEP", help="Run this step and what follows from it."),
]
ForceOption = Annotated[
    list[str] | None,
    typer.Option("--force", metavar="STEP", help="Run this step although it is stored."),
]


def open_store(path: Path | None) -> Store:
    """Opens the store named by option, environment or default."""
    return Store(path or Path(os.environ.get(STORE_VARIABLE) or ".llmopt/store"))
