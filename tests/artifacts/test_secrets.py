"""What counts as a secret, and that it is blotted out."""

from pathlib import Path

import pytest

from llmopt.artifacts.manifest import read_manifest
from llmopt.artifacts.secrets import is_secret_name, redact
from tests.artifacts.workspaces import seal

NAMES = [
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "PGPASSWORD",
    "openai_api_key",
]


@pytest.mark.parametrize("name", NAMES)
def test_values_of_secret_variables_are_blotted_out(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "hf_0123456789")
    assert is_secret_name(name)
    assert redact("a hf_0123456789 b/hf_0123456789/c") == "a *** b/***/c"


@pytest.mark.parametrize("name", ["HOME", "PATH", "LLMOPT_STORE", "HF_HOME", "MAX_TOKENS"])
def test_other_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/some/where")
    assert not is_secret_name(name)
    assert redact("at /some/where") == "at /some/where"


def test_words_too_short_to_be_secrets_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else `TOKEN=1` would blot out every 1."""
    monkeypatch.setenv("MY_TOKEN", "1")
    assert redact("11 of 11") == "11 of 11"


@pytest.mark.parametrize("secret", ["hf_0123456789", 'quo"ted\\secret', "秘密の言葉です"])
def test_a_manifest_never_holds_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", secret)
    seal(tmp_path, "identity", setting=f"it is {secret}!")
    assert read_manifest(tmp_path).step.settings == {"note": "it is ***!"}


def test_a_secret_that_is_a_word_of_ours_spoils_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "evaluation")
    seal(tmp_path, "identity")
    assert read_manifest(tmp_path).kind == "evaluation"


def test_a_secret_that_begins_with_another_goes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "hf_0123")
    monkeypatch.setenv("B_TOKEN", "hf_0123456789")
    assert redact("hf_0123456789 hf_0123") == "*** ***"
