"""BOS exactly once per document, whatever tokenizer and chat template do of their own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmopt.data.documents import Document
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import InputError
from tests.models import TINY_MODEL, edit_json

BOS = 1
CHAT = Document(
    "d:1",
    "c",
    messages=(
        {"role": "user", "content": "綿100%ですか"},
        {"role": "assistant", "content": "はい、綿100%です"},
    ),
)
TEXT = Document("d:2", "c", text="前身頃に芯を貼る")
TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"


def make_tokenizer(
    folder: Path, *, adds_bos: bool, template: str | None, bos: str | None = "<s>"
) -> DocumentTokenizer:
    """Changes what the tiny model's tokenizer does of its own."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY_MODEL / name, folder / name)
    edit_json(folder / "tokenizer_config.json", chat_template=template, bos_token=bos)
    if not adds_bos:
        edit_json(folder / "tokenizer.json", post_processor=None)
    return DocumentTokenizer(folder)


@pytest.fixture(scope="module")
def tiny_tokenizer() -> DocumentTokenizer:
    return DocumentTokenizer(TINY_MODEL)


def test_a_text_begins_with_one_bos(tiny_tokenizer: DocumentTokenizer) -> None:
    ids = tiny_tokenizer.encode(TEXT)
    assert ids[0] == BOS
    assert ids.count(BOS) == 1
    assert tiny_tokenizer.decode(ids[1:]) == TEXT.text
    assert tiny_tokenizer.adds_bos
    assert len(tiny_tokenizer) == 6144


def test_a_bos_that_the_text_spells_out_is_left_out(tiny_tokenizer: DocumentTokenizer) -> None:
    ids = tiny_tokenizer.encode(Document("d", "c", text="<s>前身頃<s>後身頃"))
    assert ids[0] == BOS
    assert ids.count(BOS) == 1
    assert tiny_tokenizer.decode(ids[1:]) == "前身頃後身頃"


def test_a_templates_own_bos_is_not_doubled(tiny_tokenizer: DocumentTokenizer) -> None:
    ids = tiny_tokenizer.encode(CHAT, "chat")
    assert ids[0] == BOS
    assert ids.count(BOS) == 1
    text = tiny_tokenizer.decode(ids)
    assert text.startswith("<s><|system|>")
    assert "<|user|>\n綿100%ですか<|end|>" in text


def test_a_chat_without_a_template_is_its_contents(tiny_tokenizer: DocumentTokenizer) -> None:
    ids = tiny_tokenizer.encode(CHAT, "none")
    assert (ids[0], ids.count(BOS)) == (BOS, 1)
    assert tiny_tokenizer.decode(ids[1:]) == "綿100%ですか\n\nはい、綿100%です"


def test_a_text_is_not_rendered_as_a_chat(tiny_tokenizer: DocumentTokenizer) -> None:
    assert tiny_tokenizer.encode(TEXT, "chat") == tiny_tokenizer.encode(TEXT, "none")


@pytest.mark.parametrize("text", ["<s>前身頃", "<s><s><s>前身頃"])
def test_a_bos_written_out_in_front_is_not_doubled(
    tiny_tokenizer: DocumentTokenizer, text: str
) -> None:
    assert tiny_tokenizer.encode(Document("d", "c", text=text)) == tiny_tokenizer.encode(
        Document("d", "c", text="前身頃")
    )


def test_an_empty_text_is_bos_alone(tiny_tokenizer: DocumentTokenizer) -> None:
    assert tiny_tokenizer.encode(Document("d", "c", text="")) == [BOS]


@pytest.mark.parametrize(
    ("adds_bos", "template", "num_bos"),
    [
        (True, TEMPLATE, 1),
        (True, "{{ bos_token }}" + TEMPLATE, 1),
        (True, "{{ bos_token + bos_token }}" + TEMPLATE, 1),
        (False, TEMPLATE, 0),
        (False, "{{ bos_token }}" + TEMPLATE, 1),
        (False, "{{ bos_token + bos_token }}" + TEMPLATE, 1),
    ],
)
def test_a_chat_has_the_bos_that_tokenizer_or_template_wants(
    tmp_path: Path, adds_bos: bool, template: str, num_bos: int
) -> None:
    tokenizer = make_tokenizer(tmp_path / "t", adds_bos=adds_bos, template=template)
    ids = tokenizer.encode(CHAT, "chat")
    assert ids.count(BOS) == num_bos
    assert (ids[0] == BOS) is (num_bos == 1)
    assert tokenizer.decode(ids[num_bos:]).startswith("user: 綿100%ですか\n")
    assert tokenizer.encode(TEXT).count(BOS) == (1 if adds_bos else 0)
    assert tokenizer.adds_bos is adds_bos


def test_a_tokenizer_without_a_bos_token_gets_none(tmp_path: Path) -> None:
    """As in the Qwen families."""
    tokenizer = make_tokenizer(tmp_path / "t", adds_bos=False, template=TEMPLATE, bos=None)
    assert tokenizer.bos_id is None
    assert not tokenizer.adds_bos
    assert BOS not in tokenizer.encode(TEXT)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT.text


def test_a_chat_needs_a_template(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path / "t", adds_bos=True, template=None)
    with pytest.raises(InputError, match="has no chat template") as caught:
        tokenizer.encode(CHAT, "chat")
    assert caught.value.remedy is not None
    assert "template: none" in caught.value.remedy


def test_a_chat_that_the_template_refuses_is_named(tiny_tokenizer: DocumentTokenizer) -> None:
    odd = Document("d.jsonl:7", "c", messages=({"role": "tool", "content": "x"},))
    with pytest.raises(InputError, match=r"d\.jsonl:7: the chat template refuses it: .*tool"):
        tiny_tokenizer.encode(odd, "chat")


def test_a_template_that_is_no_jinja_is_an_input_error(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path / "t", adds_bos=True, template="{% for %}")
    with pytest.raises(InputError, match="the chat template refuses it"):
        tokenizer.encode(CHAT, "chat")


def test_documents_longer_than_the_model_are_encoded_whole(
    tiny_tokenizer: DocumentTokenizer,
) -> None:
    long = Document("d", "c", text="袖を縫う。" * 2000)
    assert len(tiny_tokenizer.encode(long)) > 2000


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer.json", {"pre_tokenizer": {"type": "FromTheFuture"}}),
        ("config.json", {"rms_norm_eps": "bfloat16"}),
    ],
    ids=["newer than the library", "config"],
)
def test_files_that_the_libraries_refuse_are_input_errors(
    random_model: Path, tmp_path: Path, file: str, changes: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(random_model, tmp_path / "model"))
    edit_json(folder / file, **changes)
    with pytest.raises(InputError, match=r"the tokenizer of .*model can't be loaded: "):
        DocumentTokenizer(folder)


def test_a_folder_without_a_tokenizer_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    with pytest.raises(InputError, match=r"the tokenizer of .* can't be loaded"):
        DocumentTokenizer(tmp_path)


QUESTION = Document("d:3", "c", messages=({"role": "user", "content": "綿100%ですか"},))


def test_a_prompt_ends_where_the_answer_begins(tiny_tokenizer: DocumentTokenizer) -> None:
    ids = tiny_tokenizer.encode_prompt(QUESTION)
    assert ids.count(BOS) == 1
    assert tiny_tokenizer.decode(ids).endswith("綿100%ですか<|end|>\n<|assistant|>\n")
    answer = tiny_tokenizer.encode_as_is("はい、綿100%です")
    assert BOS not in answer
    whole = tiny_tokenizer.encode(CHAT, "chat")
    assert whole[: len(ids) + len(answer)] == ids + answer
    assert tiny_tokenizer.decode_answer([*answer, 6, 2]) == "はい、綿100%です"


def test_a_prompt_without_a_template_ends_in_a_blank_line(
    tiny_tokenizer: DocumentTokenizer,
) -> None:
    ids = tiny_tokenizer.encode_prompt(QUESTION, "none")
    assert ids[0] == BOS
    assert tiny_tokenizer.decode(ids[1:]) == "綿100%ですか\n\n"
