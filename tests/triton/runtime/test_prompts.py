"""Requests' texts as tokens: what the checkpoint's own tokenizer and template make of them."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from llmopt.triton.generate_model import read_chat_template
from llmopt.triton.runtime.generate.prompts import PromptEncoder
from llmopt.triton.runtime.generate.sampling import RequestError

CHAT = [
    {"role": "system", "content": "アパレルの仕様書を書く。"},
    {"role": "user", "content": "袖口の仕様は?"},
    {"role": "assistant", "content": "リブ編み。"},
    {"role": "user", "content": "身幅は?"},
]
TEMPLATE = """{{ bos_token }}{% if tools is not none %}tools{% endif %}{% for message in messages %}
    {%- if message.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}
<|{{ message.role }}|>{% generation %}{{ message.content | trim }}{% endgeneration %}
{{ message | tojson(ensure_ascii=False, sort_keys=True) }}
    {%- if loop.last %}{% break %}{% endif %}
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""


def make_encoder(model: Path, **limits: int) -> PromptEncoder:
    template, values = read_chat_template(model)
    return PromptEncoder(
        model / "tokenizer.json",
        template,
        values,
        limits.get("max_bytes", 4000),
        limits.get("max_tokens", 200),
    )


@pytest.fixture
def with_template(tiny_model: Path, tmp_path: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return tmp_path


def test_a_text_has_the_tokens_of_the_checkpoints_tokenizer(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = "袖口の縫製仕様:綿100%"
    assert make_encoder(tiny_model).encode_text(text.encode()) == tokenizer(text)["input_ids"]


def test_a_chat_has_the_tokens_that_transformers_makes(with_template: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(with_template)
    expected = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    encoder = make_encoder(with_template)
    assert encoder.encode_chat(json.dumps(CHAT).encode()) == expected
    assert encoder.encode_chat(json.dumps(CHAT, ensure_ascii=False).encode()) == expected


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "text_input is empty"),
        ("袖".encode()[:2], "no UTF-8: byte 0xe8 at 0"),
        (b"ab\xff", "byte 0xff at 2"),
        (b"a" * 5000, "has 5000 bytes; at most 4000"),
        ("袖口 ".encode() * 300, "the prompt has [0-9]+ tokens; at most 200"),
    ],
)
def test_a_text_that_can_not_be_answered_is_refused(
    raw: bytes, match: str, tiny_model: Path
) -> None:
    with pytest.raises(RequestError, match=match):
        make_encoder(tiny_model).encode_text(raw)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ("[", "messages is no JSON"),
        ("[" * 1900, "messages is no JSON"),
        (r'[{"role": "user", "content": "袖\udfff口"}]', r"messages hold .udfff, half of a pair"),
        ("[]", 'messages is a list of {"role"'),
        ('{"role": "user"}', "messages is a list"),
        ('[{"role": "user"}]', "messages is a list"),
        ('[{"role": "tool", "content": "x"}]', "template refuses the messages: no tools"),
    ],
)
def test_a_chat_that_can_not_be_answered_is_refused(
    raw: str, match: str, with_template: Path
) -> None:
    with pytest.raises(RequestError, match=match):
        make_encoder(with_template).encode_chat(raw.encode())


def test_a_model_without_template_answers_no_chats(with_template: Path) -> None:
    (with_template / "chat_template.jinja").unlink()
    config = json.loads((with_template / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    (with_template / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RequestError, match="no chat template"):
        make_encoder(with_template).encode_chat(json.dumps(CHAT).encode())
