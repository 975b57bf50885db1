"""`verify`, `store`, `doctor`, `init`: looking at artifacts, the store and the machine."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.deferred_build import DEFERRED_BUILD_NAME, read_deferred_build
from llmopt.artifacts.engine_description import ENGINE_DESCRIPTION_NAME, read_engine_description
from llmopt.artifacts.files import format_bytes
from llmopt.artifacts.manifest import MANIFEST_NAME
from llmopt.artifacts.onnx_description import DESCRIPTION_NAME
from llmopt.artifacts.triton_description import TRITON_DESCRIPTION_NAME
from llmopt.cli import options as opt
from llmopt.cli.console import print_data, print_json, print_line
from llmopt.errors import CapabilityError, InputError, RecipeError
from llmopt.recipe.starter import write_starter_recipe

MODEL_CONFIG = "config.pbtxt"  # of each model in a Triton repository
ANEW = "copy it from its source again, or make it anew"
store_app = typer.Typer()


def verify(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="An artifact, a checkpoint or a Triton model repository."
        ),
    ],
    onnx: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For an engine: the exported model to compare its outputs with (default: the "
            "store's, if it is there).",
        ),
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Check that an artifact is whole, what it claims to be, and loadable."""
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder", remedy="name the folder of an artifact or a checkpoint"
        )
    seen = _examine(folder, onnx)
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "checked": seen.checked,
                "not_checked": seen.not_checked,
                "faults": seen.faults,
                "other_model": seen.other_model,
            }
        )
    if seen.faults:
        start = " " if len(seen.faults) == 1 else "\n  "
        raise InputError(
            f"{folder} is not sound:{start}" + "\n  ".join(seen.faults),
            remedy=None if seen.faults_name_fixes else ANEW,
        )
    if seen.other_model:
        raise InputError(
            f"{folder} itself is sound as far as checked, but the exported model is another one: "
            + "; ".join(seen.other_model),
            remedy="name the model that it was made from with --onnx, or leave --onnx out",
        )
    if not as_json:
        lines = [f"✓ {line}" for line in seen.checked]
        lines += [f"- not checked: {line}" for line in seen.not_checked]
        lines.append(f"{folder} is sound" + (" as far as checked" if seen.not_checked else ""))
        print_data("\n".join(lines))


@dataclass
class Examination:
    """What was looked at, what could not be, and what was wrong; one line each.

    `other_model` names the files of the exported model that are not those of the artifact, which
    says nothing against the artifact.
    """

    checked: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    other_model: list[str] = field(default_factory=list)
    faults_name_fixes: bool = False


def _examine(folder: Path, onnx: Path | None) -> Examination:
    """Looks at a folder by what it holds."""
    seen = Examination()
    if (folder / MANIFEST_NAME).exists():
        artifact = Artifact.open(folder)
        seen.faults += artifact.find_faults()
        seen.checked.append(f"{len(artifact.manifest.files)} files against the manifest")
    if (folder / ENGINE_DESCRIPTION_NAME).exists():
        from llmopt.engine.verification import verify_engine  # noqa: PLC0415 - numpy

        model = onnx or _find_model(folder)
        if model is not None:
            seen.other_model += read_engine_description(folder).find_other_files(model)
        report = verify_engine(folder, None if seen.other_model else model)
        seen.faults += report.faults
        seen.checked += report.checked
        seen.not_checked += report.not_checked
    elif (folder / DEFERRED_BUILD_NAME).exists():
        _examine_deferred(folder, onnx or _find_model(folder), seen)
    elif (folder / DESCRIPTION_NAME).exists():
        from llmopt.export.verification import verify_onnx  # noqa: PLC0415 - onnxruntime

        exported = verify_onnx(folder)
        seen.faults += exported.faults
        seen.not_checked += exported.not_checked
        seen.checked.append(f"ONNX model ({exported.description})")
    elif (folder / TRITON_DESCRIPTION_NAME).exists() or any(folder.glob(f"*/{MODEL_CONFIG}")):
        _examine_repository(folder, seen)
    elif (folder / MODEL_CONFIG).exists():
        raise InputError(
            f"{folder} is one model of a Triton repository",
            remedy=f"verify the repository: llmopt verify {folder.parent}",
        )
    elif (folder / "config.json").exists() or not seen.checked:
        _examine_checkpoint(folder, seen)
    return seen


def _examine_checkpoint(folder: Path, seen: Examination) -> None:
    from llmopt.checkpoint.verification import verify_checkpoint  # noqa: PLC0415 - torch
    from llmopt.data.tokenization import DocumentTokenizer  # noqa: PLC0415

    try:
        report = verify_checkpoint(folder)
        seen.faults += report.faults
        seen.checked.append(f"{report.num_tensors} tensors ({report.description})")
        seen.checked.append(f"tokenizer of {len(DocumentTokenizer(folder))} tokens")
    except InputError as error:
        seen.faults.append(error.message)


def _examine_repository(folder: Path, seen: Examination) -> None:
    """Judges a Triton model repository, whoever made it, by its files."""
    try:
        from llmopt.triton.checks.repository_check import check_repository  # noqa: PLC0415 - extra
    except ModuleNotFoundError as error:
        raise CapabilityError(
            f"a Triton repository is verified with the package {error.name}, which is not here",
            remedy="pip install 'llmopt[triton]'",
        ) from None
    report = check_repository(folder)
    seen.faults_name_fixes = bool(report.faults) and not seen.faults
    seen.faults += map(str, report.faults)
    seen.checked += report.checked
    seen.not_checked += report.not_checked


def _examine_deferred(folder: Path, model: Path | None, seen: Examination) -> None:
    """Says what a deferred build is, and holds its digests against the model where that lies."""
    sealed = read_deferred_build(folder)
    profiles = ", ".join(profile.name for profile in sealed.profiles)
    seen.checked.append(
        f"deferred build of a {sealed.model.dtype} {sealed.model.model_type}, profiles {profiles}: "
        f"no engine yet; it needs {sealed.requirement}; here, {sealed.reason}"
    )
    if model is None:
        seen.not_checked.append("the exported model's digests: name it with --onnx")
        return
    seen.other_model += sealed.find_other_files(model)
    if not seen.other_model:
        seen.checked.append(f"the exported model {model} against the sealed digests")


def _find_model(folder: Path) -> Path | None:
    """Returns the exported model that lies beside an artifact in its store."""
    if not (folder / MANIFEST_NAME).exists():
        return None
    given = Artifact.open(folder).manifest.inputs.get("onnx")
    model = None if given is None else folder.resolve().parent / given.digest
    return model if model is not None and (model / DESCRIPTION_NAME).exists() else None


class Obtainable(StrEnum):
    """What `doctor --get` fetches."""

    TRITONSERVER = "tritonserver"


def doctor(
    as_json: opt.JsonOption = False,
    get: Annotated[
        Obtainable | None,
        typer.Option(
            "--get",
            help="Fetch this into $LLMOPT_CACHE (default ~/.cache/llmopt), unless it is there.",
        ),
    ] = None,
) -> None:
    """Say what this machine can run, and how to get what is missing."""
    if get is not None:
        from llmopt.triton.server_distribution import install_server  # noqa: PLC0415

        print_line(f"tritonserver is in {install_server(print_line).folder}")
        return
    from llmopt.cli.doctor import examine_machine  # noqa: PLC0415 - psutil

    findings = examine_machine()
    if as_json:
        print_json([finding.as_dict() for finding in findings])
        return
    for finding in findings:
        mark = "✓" if finding.present else "✗"
        print_data(f"{mark} {finding.name}: {finding.detail}")
        if not finding.present and finding.remedy:
            print_data(f"    {finding.purpose}: {finding.remedy}")


def init(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="A model folder.")] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The recipe to write.")
    ] = Path("recipe.yaml"),
) -> None:
    """Write a first recipe for a model: quantise, then gate."""
    if model is None:
        raise RecipeError("no model", remedy="name a model folder: llmopt init ./my-model")
    write_starter_recipe(Path(model), output)
    print_line(f"wrote {output}; next: llmopt plan {output}")


@store_app.command("ls")
def list_store(as_json: opt.JsonOption = False, store: opt.StoreOption = None) -> None:
    """List artifacts and unfinished work."""
    entries = list(opt.open_store(store).entries())
    if as_json:
        print_json(
            [
                {
                    "identity": entry.identity,
                    "path": str(entry.path),
                    "size_bytes": entry.size_bytes,
                    "uses": entry.artifact.manifest.step.uses if entry.artifact else None,
                    "finished": entry.artifact is not None,
                    "links": [str(link) for link in entry.links],
                }
                for entry in entries
            ]
        )
        return
    for entry in entries:
        what = entry.artifact.manifest.step.uses if entry.artifact else "unfinished"
        links = ", ".join(str(link) for link in entry.links) or "no link: gc would remove it"
        print_data(f"{entry.identity[:12]}  {format_bytes(entry.size_bytes):>9}  {what}  ({links})")
    total = sum(entry.size_bytes for entry in entries)
    print_data(f"{len(entries)} entries, {format_bytes(total)}")


@store_app.command("gc")
def collect_garbage(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, remove nothing.")
    ] = False,
    store: opt.StoreOption = None,
) -> None:
    """Remove what no out/ link points at, and unfinished work that nobody is doing."""
    removed = opt.open_store(store).collect_garbage(dry_run=dry_run)
    for entry in removed:
        print_data(f"{entry.identity[:12]}  {format_bytes(entry.size_bytes):>9}")
    verb = "would free" if dry_run else "freed"
    total = sum(entry.size_bytes for entry in removed)
    print_data(f"{verb} {format_bytes(total)} in {len(removed)} entries")
