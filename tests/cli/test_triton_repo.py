"""`triton-repo` by hand: the kind is seen from the folder, options go into the recipe."""

from pathlib import Path

import pytest

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.triton_description import read_triton_description
from llmopt.recipe.loader import load_recipe
from llmopt.steps.export_run import copy_sidecars
from llmopt.steps.package_triton import PackageTriton
from llmopt.triton.server_distribution import ServerDistribution
from tests.cli.conftest import RunHere
from tests.export.exports import export
from tests.models import TINY_MODEL, VOCAB_SIZE
from tests.quant.pipeline import make_small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 blocks; do not write into it."""
    return make_small_model(tmp_path_factory.mktemp("model") / "small", vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export; do not write into it."""
    folder = tmp_path_factory.mktemp("exported") / "small onnx"
    export(model, folder)
    return folder


def test_the_printed_recipe_writes_the_same_repository(
    run_here: RunHere, tmp_path: Path, model: Path, exported: Path
) -> None:
    options = (
        exported,
        "--tokenizer",
        model,
        "--max-batch-size",
        "4",
        "--gpus",
        "0",
        "--gpus",
        "1",
    )
    printed = run_here("triton-repo", *options, "--print-recipe")
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "r.yaml").write_text(printed.stdout, encoding="utf-8")
    step = load_recipe(tmp_path / "r.yaml").recipe.steps["repository"]
    assert isinstance(step, PackageTriton)
    assert (step.shape, step.max_batch_size, step.gpus) == ("generate", 4, (0, 1))
    by_hand = run_here("triton-repo", *options, "-o", "repo")
    assert by_hand.returncode == 0, by_hand.stderr
    assert "generate repository of small-onnx for Triton 24.10 on cuda" in by_hand.stdout
    assert by_hand.stdout.splitlines()[-1] == "repo"
    assert run_here("run", "r.yaml").returncode == 0
    made = Artifact.open(tmp_path / "out" / "package-triton" / "repository")
    assert made.manifest.files == Artifact.open(tmp_path / "repo").manifest.files
    assert made.manifest.kind == "triton_repository"
    assert made.find_faults() == []


def test_a_checkpoint_becomes_a_repository_of_the_vllm_backend(
    run_here: RunHere, tmp_path: Path, model: Path
) -> None:
    done = run_here("triton-repo", model, "--model-name", "apparel", "-o", "repo")
    assert done.returncode == 0, done.stderr
    description = read_triton_description(tmp_path / "repo")
    assert (description.shape, description.model_name) == ("vllm", "apparel")


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--shape", "vllm"), 7, "shape vllm serves a checkpoint"),
        (("--shape", "ensemble"), 2, "shape ensemble needs task"),
        (("--triton-release", "24.13"), 2, "did you mean 24.12?"),
        (("--shape", "ensemble", "--task", "score"), 7, "task: score can't serve this llama"),
        (("--buckets", "32"), 2, "buckets is for shape ensemble"),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(
    run_here: RunHere,
    tmp_path: Path,
    exported: Path,
    options: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    done = run_here("triton-repo", exported, *options, "-o", "repo")
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "repo").exists()


def test_smoke_by_hand_prints_the_answer_and_how_it_was_got(
    run_here: RunHere, tmp_path: Path, model: Path, server_distribution: ServerDistribution
) -> None:
    folder = tmp_path / "onnx"
    export(model, folder, last_token_logits=True)
    options = ("--tokenizer", TINY_MODEL, "--device", "cuda", "--threads", "1")
    done = run_here("triton-repo", folder, *options, "--smoke", "-o", "repo")
    assert done.returncode == 0, done.stderr
    manifest = Artifact.open(tmp_path / "repo").manifest
    described, degraded, path = done.stdout.splitlines()
    assert described.endswith(f"tritonserver 24.10 answers {manifest.metrics['answer']!r}")
    assert degraded == "degraded: onnx was served on the CPU, not on a GPU"
    assert path == "repo"
    assert manifest.step.settings["smoke"] is True


def test_a_changed_tokenizer_is_another_export(
    run_here: RunHere, tmp_path: Path, model: Path
) -> None:
    folder = tmp_path / "onnx"
    export(model, folder)
    copy_sidecars(model, folder)
    identities = []
    for number in range(2):
        assert run_here("triton-repo", folder, "-o", f"repo{number}").returncode == 0
        identities.append(Artifact.open(tmp_path / f"repo{number}").manifest.identity)
        (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    assert identities[0] != identities[1]
