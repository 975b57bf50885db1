"""What a generating model is told of its checkpoint, and which damaged files are refused."""

import json
from pathlib import Path

import pytest

from llmopt.errors import InputError
from llmopt.triton.generate_model import read_chat_template, read_eos_tokens


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def test_answers_end_with_the_generation_config_s_tokens_before_the_config_s(
    tmp_path: Path,
) -> None:
    write_json(tmp_path / "config.json", {"eos_token_id": 2})
    assert read_eos_tokens(tmp_path) == [2]
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [5, 7]})
    assert read_eos_tokens(tmp_path) == [5, 7]
    write_json(tmp_path / "generation_config.json", {})
    write_json(tmp_path / "config.json", {})
    assert read_eos_tokens(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"generation_config\.json is no JSON"),
        ("[1]", r"generation_config\.json holds list, not a JSON object"),
        ('{"eos_token_id": "</s>"}', r"generation_config\.json has eos_token_id '</s>'"),
        ('{"eos_token_id": [1, true]}', r"has eos_token_id \[1, True\]"),
    ],
)
def test_a_damaged_generation_config_is_told(tmp_path: Path, text: str, message: str) -> None:
    write_json(tmp_path / "config.json", {})
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_eos_tokens(tmp_path)


def test_a_damaged_tokenizer_config_is_told(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", ["no object"])
    with pytest.raises(InputError, match=r"tokenizer_config\.json holds list"):
        read_chat_template(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("chat_template", {"a": 1}), ("bos_token", 5)])
def test_a_template_or_token_that_is_no_text_is_told(
    name: str, value: object, tmp_path: Path
) -> None:
    write_json(tmp_path / "tokenizer_config.json", {name: value})
    with pytest.raises(InputError, match=rf"tokenizer_config\.json has {name} .*; a text is"):
        read_chat_template(tmp_path)
