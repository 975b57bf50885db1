"""Where models come from, and what names their contents."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub.constants import HF_HUB_OFFLINE

from llmopt.artifacts.digest import FileHasher
from llmopt.artifacts.hub_snapshot import fetch_snapshot
from llmopt.errors import InputError
from llmopt.recipe.recipe import SourceSpec
from llmopt.recipe.sources import digest_model_folder, hub_model, locate_source
from tests.models import edit_json


@pytest.mark.parametrize(
    ("text", "path", "hf", "revision"),
    [
        ("./folder", "./folder", None, None),
        ("../up/model", "../up/model", None, None),
        ("/abs/model", "/abs/model", None, None),
        ("~/model", "~/model", None, None),
        ("folder", "folder", None, None),
        ("a/b/c", "a/b/c", None, None),
        ("org/model", None, "org/model", None),
        ("org/model@main", None, "org/model", "main"),
        ("org/model@refs/pr/3", None, "org/model", "refs/pr/3"),
        ("meta-llama/Llama-3.1-8B@0e9e39f", None, "meta-llama/Llama-3.1-8B", "0e9e39f"),
    ],
)
def test_short_forms(text: str, path: str | None, hf: str | None, revision: str | None) -> None:
    spec = SourceSpec.model_validate(text)
    assert (spec.path, spec.hf, spec.revision) == (path, hf, revision)
    assert spec.trust_remote_code is False


def test_a_missing_folder_is_named_with_the_way_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model folder .*nowhere does not exist") as caught:
        locate_source(SourceSpec(path="nowhere"), tmp_path)
    assert caught.value.remedy is not None
    assert "org/model" in caught.value.remedy


def test_a_hub_model_that_is_not_cached_is_an_input_error_offline(tmp_path: Path) -> None:
    assert HF_HUB_OFFLINE
    spec = SourceSpec(hf="llmopt-tests/no-such-model")
    assert not locate_source(spec, tmp_path).exists()
    with pytest.raises(InputError, match="no-such-model@main is not in the local cache"):
        fetch_snapshot(hub_model(spec), FileHasher(None))


def test_a_download_that_was_cut_is_taken_up_again(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that lacks a shard is no model yet."""
    commit = "a" * 40
    cache = tmp_path / "models--org--model"
    snapshot = Path(shutil.copytree(random_model, cache / "snapshots" / commit))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = SourceSpec(hf="org/model", revision="main")
    assert locate_source(spec, tmp_path) == snapshot
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not locate_source(spec, tmp_path).exists()
    (snapshot / "model.safetensors.index.json").unlink()
    (snapshot / "config.json").unlink()
    assert not locate_source(spec, tmp_path).exists()


def test_a_folders_digest_follows_contents_not_place(random_model: Path, tmp_path: Path) -> None:
    hasher = FileHasher(None)
    before = digest_model_folder(random_model, hasher)
    copy = Path(shutil.copytree(random_model, tmp_path / "copy"))
    assert digest_model_folder(copy, hasher) == before
    (copy / "notes.md").write_text("no part of the model", encoding="utf-8")
    assert digest_model_folder(copy, hasher) == before
    edit_json(copy / "tokenizer_config.json", model_max_length=77)
    assert digest_model_folder(copy, hasher) != before
