"""Tokens of an answer as text, while they come: no broken characters, no part of a stop text."""

import re
from typing import Protocol

REPLACEMENT = "\ufffd"
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


class Detokenizer(Protocol):
    """What is needed of a `tokenizers.Tokenizer`."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Returns the text of tokens."""

    def id_to_token(self, id: int) -> str | None:  # noqa: A002 - the library's name
        """Returns a token as the vocabulary writes it."""


class TextStream:
    """The text of one answer.

    A character whose bytes lie in several tokens comes whole, so text that ends in U+FFFD waits,
    and so do tokens of single bytes, which decoders with byte fallback judge as a run; text that
    may be the beginning of a stop text waits too. All that came out, together, is what decoding
    all tokens at once gives, up to the first stop text.
    """

    def __init__(self, tokenizer: Detokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._tokens: list[int] = []
        self._context = 0  # tokens before the window: their text is out, and needed by no later one
        self._read = 0  # tokens whose text came out or waits in _held
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Takes the next token; returns the text that can go out."""
        self._tokens.append(token)
        before = self._decode(self._context, self._read)
        text = self._decode(self._context, None)
        if text.endswith(REPLACEMENT) or len(text) <= len(before) or self._may_go_on(token):
            return ""
        self._context, self._read = self._read, len(self._tokens)
        return self._take(text[len(before) :])

    def finish(self) -> str:
        """Returns the text that waited, where no further token will come."""
        if self.stopped:
            return ""
        before = self._decode(self._context, self._read)
        tail = self._decode(self._context, None)[len(before) :]
        self._read = len(self._tokens)
        text = self._take(tail)
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _may_go_on(self, token: int) -> bool:
        """Tells whether the next token may change this one's text: a byte's, or a skipped one's."""
        if BYTE_TOKEN.fullmatch(self._tokenizer.id_to_token(token) or ""):
            return True
        return not self._tokenizer.decode([token], skip_special_tokens=True)

    def _decode(self, start: int, end: int | None) -> str:
        return self._tokenizer.decode(self._tokens[start:end], skip_special_tokens=True)

    def _take(self, text: str) -> str:
        """Adds to the text that waits; returns what of it is surely not part of a stop text."""
        text = self._held + text
        found = [at for at in (text.find(each) for each in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, each) for each in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest end of the text that begins a stop text."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
