"""Errors as the user sees them: a message and an exit code for each kind, a report for a bug."""

import errno
import subprocess
import sys

import pytest

from llmopt import errors
from llmopt.cli.main import _report
from llmopt.errors import LlmoptError

CODES = {
    "RecipeError": 2,
    "GateFailed": 3,
    "LockDrift": 4,
    "CapabilityError": 5,
    "ResourceError": 6,
    "IncompatibleError": 7,
    "InputError": 8,
    "NumericalError": 9,
}


def test_every_kind_of_error_has_its_exit_code() -> None:
    assert {cls.__name__: cls.exit_code for cls in LlmoptError.__subclasses__()} == CODES


@pytest.mark.parametrize("name", CODES)
def test_an_error_is_a_title_a_message_and_a_way_out(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    cls: type[LlmoptError] = getattr(errors, name)
    assert _report(cls("what is wrong", remedy="do this")) == CODES[name]
    assert capsys.readouterr().err == f"{cls.title}: what is wrong\n  → do this\n"


def test_a_bug_is_reported_as_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    assert _report(KeyError("hf_0123456789")) == 1
    told = capsys.readouterr().err
    assert "KeyError: '***'" in told
    assert "this is a bug in llmopt" in told


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_refusal_of_the_system_is_no_bug(capsys: pytest.CaptureFixture[str], number: int) -> None:
    assert _report(OSError(number, "refused", "/some/file")) == 8
    assert "/some/file: refused" in capsys.readouterr().err


def test_a_reader_that_went_away_is_no_bug() -> None:
    """As in `llmopt schema | head -1`, but surely gone before the first byte."""
    command = f"{sys.executable} -m llmopt schema | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
