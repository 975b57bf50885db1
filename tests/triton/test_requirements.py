"""requirements.txt of written repositories: what pip resolves for each release's Python."""

import subprocess
import sys
from pathlib import Path

import pytest

from llmopt.triton.generate_model import GenerateSettings
from llmopt.triton.generate_repository import GenerateParts, list_requirements
from llmopt.triton.releases import NUMPY_REQUIREMENT, TritonRelease, list_releases
from llmopt.triton.repository import ServingOptions
from tests.triton.good_generate import describe_decoder

# By Python, the last release with it: earlier ones ask for the same packages.
RELEASES = {release.python: release for release in list_releases()}
# A MeCab tokenizer's; its dictionary unidic-lite is pure Python without a wheel, for any version.
MECAB = (NUMPY_REQUIREMENT, "transformers>=4.46", "fugashi")


def resolve(requirements: tuple[str, ...], python: str, folder: Path) -> str:
    """Lets pip choose versions for another Python, and returns what it says."""
    command = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
        "--only-binary", ":all:", "--python-version", python, "--implementation", "cp",
        "--target", str(folder), "--report", "-", *requirements,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.full
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)
def test_packages_of_generate_exist_for_the_releases_python(
    tmp_path: Path, release: TritonRelease, device: str
) -> None:
    settings = GenerateSettings(
        model=describe_decoder(), model_file="model.onnx", decoder="onnxruntime",
        max_running=1, max_waiting=1, default_max_tokens=1,
    )  # fmt: skip
    parts = GenerateParts(tmp_path, settings, None, tmp_path, None)
    requirements = list_requirements(parts, ServingOptions("m", 1, "latest", device), release)
    report = resolve(requirements, release.python, tmp_path / "target")
    for name in ("onnxruntime", "numpy", "tokenizers"):
        assert f'"name": "{name}' in report


@pytest.mark.full
@pytest.mark.parametrize("python", RELEASES)
def test_packages_of_a_mecab_tokenizer_exist_for_the_releases_python(
    tmp_path: Path, python: str
) -> None:
    report = resolve(MECAB, python, tmp_path / "target")
    assert '"name": "fugashi"' in report
