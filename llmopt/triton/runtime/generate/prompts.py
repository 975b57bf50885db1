"""Requests' texts as tokens: plain prompts, and chats through the checkpoint's chat template."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from .sampling import RequestError

# What a template may raise on messages that it does not expect.
TEMPLATE_ERRORS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError,
    RecursionError,
)  # fmt: skip


class PromptEncoder:
    """Encodes prompts with a `tokenizer.json`.

    Args:
        tokenizer_path: The file.
        chat_template: A Jinja template as checkpoints carry it; None where the model has none.
        template_values: What templates may name besides the messages, such as `bos_token`.
        max_prompt_bytes: Most UTF-8 bytes of a prompt; longer ones are refused unread.
        max_prompt_tokens: Most tokens that can be run at once, with room for one to follow.

    Raises:
        jinja2.TemplateError: The template can't be compiled.
    """

    def __init__(
        self,
        tokenizer_path: Path,
        chat_template: str | None,
        template_values: Mapping[str, Any],
        max_prompt_bytes: int,
        max_prompt_tokens: int,
    ) -> None:
        self.tokenizer = Tokenizer.from_file(str(tokenizer_path))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self._template_values = template_values
        self._max_bytes, self._max_tokens = max_prompt_bytes, max_prompt_tokens
        self._template = None if chat_template is None else _compile(chat_template)

    def encode_text(self, raw: bytes) -> list[int]:
        """Encodes a plain prompt, with the special tokens that the tokenizer adds.

        Raises:
            RequestError: It is no UTF-8, empty or too long.
        """
        text = self._decode("text_input", raw)
        if not text:
            raise RequestError("text_input is empty")
        return self._check(self.tokenizer.encode(text).ids)

    def encode_chat(self, raw: bytes) -> list[int]:
        """Encodes a chat: JSON, a list of {"role": ..., "content": ...}.

        Raises:
            RequestError: It is no such list, the template refuses it, or it is too long.
        """
        if self._template is None:
            raise RequestError("messages are given, but the model has no chat template")
        try:
            messages = json.loads(self._decode("messages", raw))
        except (ValueError, RecursionError) as error:
            raise RequestError(f"messages is no JSON: {error}") from None
        if not messages or not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise RequestError('messages is a list of {"role": "user", "content": "..."}')
        try:
            text = self._template.render(
                messages=messages,
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._template_values,
            )
        except TEMPLATE_ERRORS as error:
            raise RequestError(f"the chat template refuses the messages: {error}") from None
        _refuse_surrogates(text)
        return self._check(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _decode(self, name: str, raw: bytes) -> str:
        if len(raw) > self._max_bytes:
            raise RequestError(f"{name} has {len(raw)} bytes; at most {self._max_bytes}")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RequestError(
                f"{name} is no UTF-8: byte 0x{raw[error.start]:02x} at {error.start}"
            ) from None

    def _check(self, ids: list[int]) -> list[int]:
        if not ids:
            raise RequestError("the prompt has no tokens")
        if len(ids) > self._max_tokens:
            raise RequestError(
                f"the prompt has {len(ids)} tokens; at most {self._max_tokens}, which the model "
                "runs at once, with room for an answer"
            )
        return ids


def _refuse_surrogates(text: str) -> None:
    """JSON may escape half of a pair of UTF-16, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"messages hold \\u{ord(text[error.start]):04x}, half of a pair of UTF-16"
        ) from None


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(
        isinstance(message.get(key), str) for key in ("role", "content")
    )


def _compile(chat_template: str) -> Any:
    """Compiles a template with what Hugging Face's templates may use."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationTag]
    )
    environment.filters["tojson"] = _dump_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _format_now
    return environment.from_string(chat_template)


class GenerationTag(Extension):
    """`{% generation %}`, by which transformers finds the assistant's part; marks nothing here."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Returns what stands between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _dump_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - as templates call it
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _format_now(pattern: str) -> str:
    return datetime.datetime.now().astimezone().strftime(pattern)
