"""`diff`: what two artifacts differ in, and whether that passes a threshold."""

from pathlib import Path
from typing import Annotated

import typer

from llmopt.artifacts.manifest import MANIFEST_NAME, Manifest, read_manifest
from llmopt.cli import options as opt
from llmopt.cli.console import print_data, print_json
from llmopt.errors import GateFailed, InputError
from llmopt.report.difference import compare_manifests
from llmopt.report.difference_text import as_data, write_text
from llmopt.report.lineage import list_steps
from llmopt.report.thresholds import find_passed, parse_limit


def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="An artifact.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one, compared with A.")],
    max_snr_drop: Annotated[
        float | None,
        typer.Option(
            "--max-snr-drop",
            metavar="DB",
            min=0,
            help="Exit with 3 if a layer's SNR is lower by more than this.",
        ),
    ] = None,
    max_increase: Annotated[
        list[str] | None,
        typer.Option(
            "--max-increase",
            metavar="METRIC=VALUE",
            help="Exit with 3 if the metric is higher by more than this: kl_mean=0.001, "
            "perplexity=1%. Repeatable.",
        ),
    ] = None,
    max_decrease: Annotated[
        list[str] | None,
        typer.Option(
            "--max-decrease",
            metavar="METRIC=VALUE",
            help="The same for a metric that must not fall: top1_agreement=0.005. Repeatable.",
        ),
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Show what two artifacts differ in; exit with 3 where a given threshold is passed."""
    limits = [parse_limit("--max-increase", text, 1) for text in max_increase or ()]
    limits += [parse_limit("--max-decrease", text, -1) for text in max_decrease or ()]
    difference = compare_manifests(_read(before), _read(after))
    passed = find_passed(difference, limits, max_snr_drop)
    if as_json:
        print_json({**as_data(difference), "passed_thresholds": passed})
    else:
        print_data(write_text(difference))
    if passed:
        raise GateFailed(f"{after} against {before}: {'; '.join(passed)}")


def _read(folder: Path) -> Manifest:
    if (folder / MANIFEST_NAME).exists():
        return read_manifest(folder)
    steps = list_steps(folder) if folder.is_dir() else []
    if steps:
        raise InputError(
            f"{folder} is a run's folder, not an artifact",
            remedy="name one of its steps: " + ", ".join(str(folder / name) for name in steps),
        )
    what = f"holds no {MANIFEST_NAME}" if folder.is_dir() else "is no folder"
    raise InputError(f"{folder} is no artifact: it {what}", remedy="name what llmopt made")
