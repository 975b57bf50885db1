"""`calibration lint|stats|build`: what a set is like, before a model is calibrated with it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from llmopt.cli import options as opt
from llmopt.cli.calibration_report import (
    describe_composition,
    describe_findings,
    describe_verdict,
    is_unfit,
)
from llmopt.cli.console import print_data, print_json
from llmopt.cli.step_options import given, option_parameters, with_parameters
from llmopt.data.dataset_spec import DEFAULT_SPLIT, DatasetSpec
from llmopt.data.set_files import SetFiles, locate_set, locate_terms
from llmopt.errors import InputError, RecipeError

if TYPE_CHECKING:
    from llmopt.data.lint.finding import Finding
    from llmopt.data.lint.rows import ReadRows
    from llmopt.data.tokenization import DocumentTokenizer

SOURCE_FIELDS = {"set", "path", "hf", "revision"}

SetArgument = Annotated[
    str,
    typer.Argument(metavar="SET", help="A shipped set's name, a file, or a folder of splits."),
]
SplitOption = Annotated[
    str, typer.Option("--split", help="Which file of a shipped set or a folder.")
]
FieldOption = Annotated[
    str | None,
    typer.Option(
        "--field", help="Field that holds a document (default: messages if present, else text)."
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="MODEL",
        help="A model's folder: adds lengths in tokens, byte fallback and the chat template.",
    ),
]

calibration_app = typer.Typer()


@calibration_app.command()
def lint(
    name: SetArgument,
    tokenizer: TokenizerOption = None,
    split: SplitOption = DEFAULT_SPLIT,
    field: FieldOption = None,
    heldout: Annotated[
        list[Path] | None,
        typer.Option(
            "--heldout",
            metavar="FILE",
            help="A file that the set must not hold; repeatable (default: the set's own heldout "
            "split).",
        ),
    ] = None,
    terms: Annotated[
        str | None,
        typer.Option(
            "--terms",
            metavar="FILE",
            help="A list of terms, or the shipped set that has one (default: the set's own).",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings count as errors.")] = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Look for faults: duplicates, leaks, mojibake, personal data and more. Errors are exit 8."""
    from llmopt.data.lint.finding import count_documents  # noqa: PLC0415 - loaded when used
    from llmopt.data.lint.rows import read_rows  # noqa: PLC0415

    files = locate_set(name, split)
    given_heldout = heldout if heldout is not None else [files.heldout] if files.heldout else []
    read = read_rows(files.data, field)
    findings = _find_faults(
        read,
        [read_rows(path, field) for path in given_heldout],
        locate_terms(terms) if terms else files.terms,
        _load_tokenizer(tokenizer),
    )
    verdict = describe_verdict(findings, strict=strict)
    unfit = is_unfit(findings, strict=strict)
    if as_json:
        print_json(
            {
                "set": name,
                "file": str(files.data),
                "documents": len(read.rows),
                "fit": not unfit,
                "findings": [asdict(finding) for finding in findings],
            }
        )
    else:
        print_data(f"{_describe_files(name, files)}: {count_documents(len(read.rows))}\n")
        print_data("\n".join([*describe_findings(findings), "", verdict]))
    if unfit:
        raise InputError(f"data set {name} is {verdict}")


@calibration_app.command()
def stats(
    name: SetArgument,
    tokenizer: TokenizerOption = None,
    split: SplitOption = DEFAULT_SPLIT,
    field: FieldOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Say what a set is made of: categories, languages, scripts, lengths."""
    from llmopt.data.lint.composition import describe_composition as compose  # noqa: PLC0415
    from llmopt.data.lint.rows import read_rows  # noqa: PLC0415

    files = locate_set(name, split)
    read = read_rows(files.data, field)
    loaded = _load_tokenizer(tokenizer)
    tokens = None
    if loaded is not None:
        from llmopt.data.lint.tokens import TokenCounter, measure_lengths  # noqa: PLC0415

        counter = TokenCounter(loaded)
        tokens = measure_lengths([counter.count(row) for row in read.rows])
    composition = compose(read.rows)
    if as_json:
        table = {"set": name, "file": str(files.data), **composition.as_dict(), "tokens": tokens}
        print_json({**table, "malformed": len(read.malformed)})
        return
    print_data(f"{_describe_files(name, files)}\n")
    print_data("\n".join(describe_composition(composition, tokens)))
    if read.malformed:
        print_data(f"left out: {len(read.malformed):,} malformed rows (llmopt calibration lint)")


def make_build_command() -> Callable[..., None]:
    """Makes the `build` command from the fields of a data set."""

    def build(
        name: SetArgument,
        *,
        tokenizer: Annotated[
            Path, typer.Option("--tokenizer", metavar="MODEL", help="A model's folder.")
        ],
        output: Annotated[
            Path, typer.Option("-o", "--output", metavar="FILE", help="The file to write.")
        ],
        as_json: opt.JsonOption = False,
        **fields: Any,
    ) -> None:
        """Write the exact token windows that a quantisation would use to a safetensors file."""
        if output.is_file():
            raise RecipeError(f"{output} exists already", remedy="name a new file with -o")
        chosen = given(fields)
        files = locate_set(name, chosen.pop("split", DEFAULT_SPLIT))
        spec = _make_spec({**files.source, **chosen})
        loaded = _load_tokenizer(tokenizer)
        from llmopt.data.calibration_windows import build_windows  # noqa: PLC0415 - numpy
        from llmopt.data.documents import read_documents  # noqa: PLC0415
        from llmopt.data.windows_file import describe_windows, write_windows  # noqa: PLC0415

        assert loaded is not None
        windows = build_windows(read_documents(files.data, spec.field), loaded, spec)
        num_windows, seq_len = windows.ids_NT.shape
        cut = spec.model_copy(update={"samples": num_windows, "seq_len": seq_len})
        metadata = describe_windows(cut, files.data, tokenizer)
        write_windows(output, windows, metadata)
        if as_json:
            shape = {"windows": num_windows, "seq_len": seq_len, "tokens": windows.num_tokens}
            print_json({"file": str(output), **shape, **metadata, "spec": cut.model_dump()})
        else:
            print_data(f"{num_windows:,} windows x {seq_len:,} tokens, {windows.num_tokens:,} real")
            print_data(str(output))

    return with_parameters(build, list(option_parameters(DatasetSpec, SOURCE_FIELDS)))


def _find_faults(
    read: "ReadRows",
    heldout: "list[ReadRows]",
    terms: Path | None,
    tokenizer: "DocumentTokenizer | None",
) -> "list[Finding]":
    from llmopt.data.lint.checks import check_texts  # noqa: PLC0415 - scipy
    from llmopt.data.lint.rows import join_reads  # noqa: PLC0415
    from llmopt.data.lint.terms import read_terms  # noqa: PLC0415

    findings = check_texts(read, join_reads(heldout), read_terms(terms) if terms else None)
    if tokenizer is not None:
        from llmopt.data.lint.chats import report_chats  # noqa: PLC0415 - transformers
        from llmopt.data.lint.tokens import report_tokens  # noqa: PLC0415

        findings += [*report_tokens(read.rows, tokenizer), *report_chats(read.rows, tokenizer)]
    return findings


def _load_tokenizer(folder: Path | None) -> "DocumentTokenizer | None":
    if folder is None:
        return None
    if not folder.is_dir():
        raise InputError(f"tokenizer {folder} is no folder", remedy="name a model's folder")
    from llmopt.data.tokenization import DocumentTokenizer  # noqa: PLC0415 - transformers

    return DocumentTokenizer(folder)


def _make_spec(fields: dict[str, Any]) -> DatasetSpec:
    try:
        return DatasetSpec(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + "-".join(map(str, first["loc"])).replace("_", "-")
        raise RecipeError(f"{option}: {first['msg']}") from None


def _describe_files(name: str, files: SetFiles) -> str:
    return f"{name} ({files.data.name})" if files.data.name != Path(name).name else name


calibration_app.command("build")(make_build_command())
