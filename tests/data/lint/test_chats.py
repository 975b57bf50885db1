"""Chat templates that keep a chat, and those that drop, alter or double."""

import shutil
from pathlib import Path

import pytest

from llmopt.data.lint.chats import report_chats
from llmopt.data.tokenization import DocumentTokenizer
from tests.data.lint.rows import list_faults, make_chat, make_rows, read_shipped
from tests.models import TINY_MODEL, edit_json

CHAT = make_chat("綿100%ですか", "はい、綿100%です。裏地は?", "裏地はキュプラです", "承知しました")
LOOP = "{{ bos_token }}{%% for m in messages %%}%s{%% endfor %%}"
KEEP = "{{ m.role }}: {{ m.content }}\n"


def make_tokenizer(folder: Path, template: str | None) -> DocumentTokenizer:
    """Gives the tiny model's tokenizer another chat template."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY_MODEL / name, folder / name)
    edit_json(folder / "tokenizer_config.json", chat_template=template)
    return DocumentTokenizer(folder)


@pytest.mark.parametrize("split", ["calibration", "heldout"])
def test_the_shipped_chats_survive_the_tiny_models_template(split: str) -> None:
    (finding, form) = report_chats(read_shipped(split), DocumentTokenizer(TINY_MODEL))
    assert (finding.severity, form.severity) == ("info", "info")
    assert finding.message.startswith("none in ")


@pytest.mark.parametrize(
    ("template", "detail"),
    [
        (LOOP % ("{% if not loop.first %}" + KEEP + "{% endif %}"), "turn 1 is dropped"),
        (LOOP % ("{% if m.role == 'user' %}" + KEEP + "{% endif %}"), "turn 2 is dropped"),
        (LOOP % "{{ m.content | upper | replace('%', 'PCT') }}\n", "turn 1 is dropped, altered"),
        ("{% for m in messages | reverse %}" + KEEP + "{% endfor %}", "turn 2 is dropped"),
        ("{{ bos_token }}" + LOOP % KEEP, "the template writes <s> more than once"),
        (LOOP % ("{{ bos_token }}" + KEEP), "the template writes <s> more than once"),
        ("{{ raise_exception('no') }}", "the chat template refuses it: no"),
        ("{% for %}", "the chat template refuses it"),
    ],
)
def test_a_wrong_template_is_an_error(tmp_path: Path, template: str, detail: str) -> None:
    findings = report_chats([CHAT], make_tokenizer(tmp_path, template))
    assert list_faults(findings) == {"chat-template": ["d.jsonl:1"]}
    assert findings[0].rows[0].detail.startswith(detail)


def test_a_template_that_keeps_all_is_sound(tmp_path: Path) -> None:
    assert list_faults(report_chats([CHAT], make_tokenizer(tmp_path, LOOP % KEEP))) == {}


def test_a_bos_that_a_turn_spells_out_is_not_the_templates(tmp_path: Path) -> None:
    chat = make_chat("<s>とは何ですか", "文頭の記号です")
    assert list_faults(report_chats([chat], make_tokenizer(tmp_path, LOOP % KEEP))) == {}


def test_trimmed_turns_are_a_warning(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path, LOOP % "{{ m.content | trim }}\n")
    assert list_faults(report_chats([CHAT], tokenizer)) == {}
    findings = report_chats([make_chat("  綿ですか", "はい")], tokenizer)
    assert list_faults(findings) == {"chat-form": ["d.jsonl:1"]}
    assert findings[1].rows[0].detail == "turn 1 loses whitespace at its ends"


@pytest.mark.parametrize(
    ("normalizer", "content", "check"),
    [
        ({"type": "NFKC"}, "幅１０ｃｍ", "chat-form"),
        ({"type": "Replace", "pattern": {"String": "縫"}, "content": "x"}, "縫製", "chat-template"),
    ],
)
def test_a_tokenizer_that_gives_back_another_text(
    tmp_path: Path, normalizer: dict[str, object], content: str, check: str
) -> None:
    make_tokenizer(tmp_path, LOOP % KEEP)
    edit_json(tmp_path / "tokenizer.json", normalizer=normalizer)
    findings = report_chats([make_chat(content, "はい")], DocumentTokenizer(tmp_path))
    assert list_faults(findings) == {check: ["d.jsonl:1"]}
    (place,) = next(finding.rows for finding in findings if finding.check == check)
    assert place.detail.startswith("the tokenizer gives back another text: ")


def test_without_a_template_chats_can_only_be_joined(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path, None)
    (finding,) = report_chats([CHAT], tokenizer)
    assert finding.severity == "warning"
    assert finding.message.startswith("the tokenizer has none: 1 chats can't be rendered")
    (finding,) = report_chats(make_rows("前身頃"), tokenizer)
    assert (finding.severity, finding.message) == ("info", "not checked: no chats")
