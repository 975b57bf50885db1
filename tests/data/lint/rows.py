"""Rows for the tests of lint, made as a file's rows are."""

from pathlib import Path

from llmopt.data.documents import Document
from llmopt.data.lint.finding import Finding
from llmopt.data.lint.rows import Row, read_rows
from tests.models import REPOSITORY

SHIPPED = REPOSITORY / "calibration" / "apparel-ja"


def make_rows(*texts: str, lang: str | None = None) -> list[Row]:
    """Makes rows `d.jsonl:1`, `d.jsonl:2`, …"""
    return [
        Row(Document(f"d.jsonl:{number}", "c", text=text), lang)
        for number, text in enumerate(texts, start=1)
    ]


def make_chat(*contents: str) -> Row:
    """Makes a chat whose turns are the user's and the assistant's."""
    roles = ("user", "assistant") * len(contents)
    turns = tuple({"role": r, "content": c} for r, c in zip(roles, contents, strict=False))
    return Row(Document("d.jsonl:1", "c", messages=turns))


def read_shipped(split: str) -> list[Row]:
    """Reads the rows of a shipped set's split."""
    return list(read_rows(SHIPPED / f"{split}.jsonl").rows)


def list_faults(findings: list[Finding]) -> dict[str, list[str]]:
    """Lists what is not in order: check → names of the rows."""
    return {
        finding.check: [place.name for place in finding.rows]
        for finding in findings
        if finding.severity != "info"
    }


def find(findings: list[Finding], check: str) -> Finding:
    """Finds one check's finding."""
    (found,) = [finding for finding in findings if finding.check == check]
    return found


def write_lines(path: Path, *lines: str) -> Path:
    """Writes a file line by line."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
