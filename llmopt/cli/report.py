"""`report`: one page about an artifact or a run, and its plots as PNG."""

import os
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.files import make_folder, write_text_atomically
from llmopt.artifacts.json_model import describe_faults
from llmopt.artifacts.manifest import MANIFEST_NAME
from llmopt.artifacts.secrets import redact
from llmopt.cli.console import print_line
from llmopt.errors import CapabilityError, InputError, RecipeError
from llmopt.report.lineage import Lineage, open_lineage
from llmopt.report.page import Report, Verdict, list_plots, make_report, render_page
from llmopt.steps.eval_gate import Requirement, find_misses

PAGE_NAME = "report.html"
PAGE_SUFFIXES = (".html", ".htm")
GATE = "eval.gate"


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="An artifact, or a run's folder: out/RECIPE.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.html",
            help="The page (default: report.html in a run's folder, DIR.html beside an artifact).",
        ),
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="DIR", help="Also write the plots as PNG files.")
    ] = None,
) -> None:
    """Write one HTML page about an artifact or a run: recipe, quality, errors, costs, files."""
    lineage = open_lineage(folder)
    page = output or choose_output(folder, lineage)
    for place in (page, png):
        if place is not None:
            refuse_artifact(place)
    made = make_report(lineage, judge_gates(lineage))
    _write_page(page, made)
    if png is not None:
        _write_plots(png, made)


def judge_gates(lineage: Lineage) -> dict[str, Verdict]:
    """Judges every gate by the limits in its manifest; keys are identities.

    Raises:
        InputError: A gate's limits are not as this version writes them.
    """
    return {
        artifact.manifest.identity: _judge(artifact)
        for artifact in lineage.artifacts
        if artifact.manifest.step.uses == GATE
    }


def _judge(gate: Artifact) -> Verdict:
    written = gate.manifest.step.settings.get("require")
    limits = written if isinstance(written, dict) else {}
    try:
        require = {name: Requirement.model_validate(limit) for name, limit in limits.items()}
    except ValidationError as error:
        raise InputError(
            f"{gate.path / MANIFEST_NAME}: the gate's limits can't be read: "
            f"{describe_faults(error)}",
            remedy="copy the artifact again, or make it anew: run its step with --force",
        ) from None
    sentences = [describe_limits(metric, limit) for metric, limit in require.items()]
    misses = find_misses(require, gate.manifest.metrics)
    return Verdict(gate.manifest.step.id, tuple(sentences), tuple(misses))


def describe_limits(metric: str, limits: Requirement) -> str:
    """Says in words what a gate requires of one metric."""
    words = {"max": "at most {:g}", "min": "at least {:g}", "max_increase_pct": "at most {:+g} %"}
    given = limits.model_dump(exclude_defaults=True)
    parts = [
        words[name].format(value) if name in words else name if value is True else f"{name} {value}"
        for name, value in given.items()
    ]
    return f"{metric} {', '.join(parts)}"


def choose_output(folder: Path, lineage: Lineage) -> Path:
    """Returns where the page goes without -o: never into an artifact, nor into the store.

    Raises:
        RecipeError: The artifact was named by its place in the store.
    """
    place = Path(os.path.abspath(folder))  # noqa: PTH100 - beside the link, not beside its target
    if lineage.subject is None:
        return place / PAGE_NAME
    if place.name == lineage.subject.manifest.identity:
        raise RecipeError(
            f"{folder} lies in the store, which holds artifacts alone",
            remedy="say where the page goes: -o report.html",
        )
    return place.with_name(f"{place.name}.html")


def refuse_artifact(place: Path) -> None:
    """Refuses to write into an artifact, whose files its manifest vouches for.

    Raises:
        RecipeError: `place` lies in one, or is a folder where a file is meant.
    """
    for parent in Path(os.path.abspath(place)).parents:  # noqa: PTH100
        if (parent / MANIFEST_NAME).exists():
            raise RecipeError(
                f"{place} lies inside the artifact {parent}, whose files its manifest vouches for",
                remedy="name a place outside of it",
            )


def _write_page(page: Path, made: Report) -> None:
    if page.is_dir():
        raise RecipeError(f"-o {page} is a folder", remedy="name the page's file: -o report.html")
    if page.suffix not in PAGE_SUFFIXES:
        raise RecipeError(f"-o {page}: a page's name ends with {' or '.join(PAGE_SUFFIXES)}")
    make_folder(page.parent)
    write_text_atomically(page, redact(render_page(made)))
    print_line(f"wrote {os.path.relpath(page)}")


def _write_plots(folder: Path, made: Report) -> None:
    try:
        from llmopt.report.png import find_unwritable, write_plots  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise CapabilityError(
            "--png needs matplotlib, which is not installed",
            remedy="pip install 'llmopt[report]'",
        ) from None
    make_folder(folder)
    plots = list_plots(made)
    for label in find_unwritable(plots):
        print_line(
            f"note: no font for {label} is installed, e.g. fonts-noto-cjk; it shows as boxes"
        )
    for path in write_plots(plots, folder):
        print_line(f"wrote {os.path.relpath(path)}")
