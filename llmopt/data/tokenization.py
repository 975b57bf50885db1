"""Turns documents into token ids, the beginning-of-sequence token exactly once in each."""

import sys
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from transformers import AutoTokenizer

from llmopt.data.dataset_spec import Template
from llmopt.data.documents import Document
from llmopt.errors import InputError

# What transformers raises on tokenizer files, or a config.json, that it can make nothing of.
TOKENIZER_ERRORS = (
    AttributeError, ImportError, IndexError, KeyError, OSError, StrictDataclassError, TypeError,
    ValueError,
)  # fmt: skip


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Loads a model's tokenizer of transformers.

    Raises:
        InputError: It can't be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        # The tokenizers library raises Exception itself, for a file that is newer than it.
        if type(error) is not Exception and not isinstance(error, TOKENIZER_ERRORS):
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"the tokenizer of {folder} can't be loaded: {said}",
            remedy="copy its files (tokenizer.json, tokenizer_config.json and what they name) "
            "from the model's source again",
        ) from None


class DocumentTokenizer:
    """A model's tokenizer, as data sets use it.

    Args:
        folder: The model's folder.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        InputError: The folder's tokenizer can't be loaded.
    """

    def __init__(self, folder: Path, *, trust_remote_code: bool = False) -> None:
        self._folder = folder
        self._tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        # Documents may be longer than the model: windows are cut afterwards, so no warning.
        self._tokenizer.model_max_length = sys.maxsize
        self.bos_id: int | None = self._tokenizer.bos_token_id
        self.eos_id: int | None = self._tokenizer.eos_token_id
        self.unknown_id: int | None = self._tokenizer.unk_token_id
        self.bos_text: str | None = self._tokenizer.bos_token
        # What the tokenizer does by default decides whether this family uses BOS at all.
        self.adds_bos = self.bos_id is not None and self.bos_id in self._tokenizer("").input_ids

    def __len__(self) -> int:
        return len(self._tokenizer)

    def encode(self, document: Document, template: Template = "none") -> list[int]:
        """Encodes one document; its own template, if it has one, goes before the one given.

        BOS stands once, in front, if the tokenizer adds one by default or the chat template
        writes one; the template's own is not doubled.

        Raises:
            InputError: A chat is to be rendered and the tokenizer has no template, or the
                template refuses the chat.
        """
        return self._encode(self.render(document, document.template or template))

    def encode_prompt(self, document: Document, template: Template = "chat") -> list[int]:
        """Encodes a chat up to where its answer begins, BOS as in `encode`.

        Under `none` the answer begins after a blank line.

        Raises:
            InputError: As `encode`.
        """
        if template == "none":
            return self._encode(self.render(document, template) + "\n\n")
        return self._encode(self.render(document, template, prompts=True))

    def decode_answer(self, ids: list[int]) -> str:
        """Turns an answer's ids into text, special tokens left out."""
        text = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text).strip()

    def _encode(self, text: str) -> list[int]:
        ids = self.encode_as_is(text)
        if self.bos_id is None or (self.bos_id == self.eos_id and not self.adds_bos):
            return ids  # a model without BOS, or whose "BOS" only ever ends a text
        rest = [token for token in ids if token != self.bos_id]  # nor one that a text spells out
        return [self.bos_id, *rest] if self.adds_bos or ids[:1] == [self.bos_id] else rest

    def decode(self, ids: list[int]) -> str:
        """Turns ids back into text, special tokens included."""
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def encode_as_is(self, text: str) -> list[int]:
        """Encodes a text that was rendered already, or follows a prompt; nothing is added."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def name_token(self, token: int) -> str:
        """Returns a token as the vocabulary writes it."""
        return str(self._tokenizer.convert_ids_to_tokens(token))

    @property
    def has_chat_template(self) -> bool:
        """Whether chats can be rendered."""
        return bool(self._tokenizer.chat_template)

    def render(self, document: Document, template: Template, *, prompts: bool = False) -> str:
        """Writes a document as the text that is encoded.

        Args:
            document: A text or a chat.
            template: How a chat is written.
            prompts: Whether what begins an answer stands behind it.

        Raises:
            InputError: As `encode`.
        """
        if document.messages is None:
            return document.text or ""
        if template == "none":
            return "\n\n".join(turn["content"] for turn in document.messages)
        if not self.has_chat_template:
            raise InputError(
                f"the tokenizer of {self._folder} has no chat template",
                remedy="set `template: none` in the data set",
            )
        try:
            rendered = self._tokenizer.apply_chat_template(
                list(document.messages), tokenize=False, add_generation_prompt=prompts
            )
        except (TemplateError, TypeError) as error:
            raise InputError(f"{document.origin}: the chat template refuses it: {error}") from None
        return str(rendered)
