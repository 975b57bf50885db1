"""Tokens of an answer as text, while they come: no broken characters, no part of a stop text."""

from typing import Protocol

REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """What is needed of a `tokenizers.Tokenizer`."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Returns the text of tokens."""


class TextStream:
    """The text of one answer.

    A character whose bytes lie in several tokens comes whole, so text that ends in U+FFFD waits;
    text that may be the beginning of a stop text waits too. All that came out, together, is what
    decoding all tokens at once gives, up to the first stop text; only of bytes that make no
    character the number of U+FFFD may differ, since some decoders judge them by what follows.
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
        if text.endswith(REPLACEMENT) or len(text) <= len(before):
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
