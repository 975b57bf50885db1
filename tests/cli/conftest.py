"""The command line in this process, for tests that would else pay for torch's import each time."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmopt.cli.app import app
from llmopt.cli.main import _report

RunHere = Callable[..., "Finished"]


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_here(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    one_thread: None,
) -> RunHere:
    """Runs `llmopt` in tmp_path, all but the process's own end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> Finished:
        capsys.readouterr()
        try:
            code = app(list(map(str, arguments)), prog_name="llmopt", standalone_mode=False) or 0
        except Exception as error:  # noqa: BLE001 - as main() does
            code = _report(error)
        sys.stdout.flush()
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run
