"""A tokenizer that is named beside an export: the model's own, or refused."""

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from llmopt.errors import IncompatibleError, InputError
from llmopt.steps.package_vocabulary import check_vocabulary
from tests.models import TINY_MODEL
from tests.steps.packages import describe_export, given, make_step, run

WORDS = ("綿", "麻", "絹", "袖", "口", "襟", "身", "幅")


def write_tokenizer(folder: Path, words: tuple[str, ...], kind: str = "WordLevel") -> Path:
    """Writes a tokenizer.json; returns the folder."""
    folder.mkdir()
    numbered = {word: number for number, word in enumerate(words)}
    model = {
        "WordLevel": lambda: models.WordLevel(numbered, unk_token=words[0]),
        "Unigram": lambda: models.Unigram([(word, -1.0) for word in words], unk_id=0),
    }[kind]()
    Tokenizer(model).save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("kind", ["WordLevel", "Unigram"])
def test_more_tokens_and_some_others_are_the_same_tokenizer(tmp_path: Path, kind: str) -> None:
    own = write_tokenizer(tmp_path / "own", WORDS, kind)
    changed = write_tokenizer(tmp_path / "changed", ("毛", *WORDS[1:], "丈"), kind)
    check_vocabulary(changed, own)
    with pytest.raises(IncompatibleError, match=r"of the 8 tokens .* 0 have the same number"):
        check_vocabulary(write_tokenizer(tmp_path / "moved", ("丈", *WORDS), kind), own)


def test_an_export_without_tokenizer_takes_any(tmp_path: Path) -> None:
    named = write_tokenizer(tmp_path / "named", WORDS)
    export = write_tokenizer(tmp_path / "export", ("丈", *WORDS))
    with pytest.raises(IncompatibleError):
        check_vocabulary(named, export)
    (export / "tokenizer.json").unlink()
    check_vocabulary(named, export)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": {"vocab": [1]}}'])
def test_a_damaged_tokenizer_is_told(tmp_path: Path, text: str) -> None:
    own = write_tokenizer(tmp_path / "own", WORDS)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"damaged/tokenizer\.json is no tokenizer"):
        check_vocabulary(tmp_path / "damaged", own)


def test_the_step_refuses_another_models_tokenizer(tmp_path: Path) -> None:
    export = describe_export(tmp_path / "export", vocab_size=6144)
    shutil.copyfile(TINY_MODEL / "tokenizer.json", export / "tokenizer.json")
    named = write_tokenizer(tmp_path / "named", WORDS)
    with pytest.raises(IncompatibleError, match="is the tokenizer of another model") as caught:
        run(make_step(), given("onnx_model", export, named), tmp_path / "repository")
    assert "leave tokenizer out" in str(caught.value.remedy)
