"""One request on its way: prompt, tokens so far, and the one who hears of them."""

import logging
from dataclasses import dataclass, field
from typing import Any, Protocol

from .sampling import SamplingParameters, TokenChooser
from .text_stream import Detokenizer, TextStream

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """The sender of a request, as the scheduler sees it. No call raises because it is gone."""

    def send_text(self, text: str) -> None:
        """Takes a part of the answer; only where the request streams."""

    def send_last(self, text: str, reason: str, num_prompt: int, num_generated: int) -> None:
        """Takes the rest of the answer (all of it, where it does not stream)."""

    def send_error(self, message: str) -> None:
        """Hears that the answer ends here, and why."""

    def is_cancelled(self) -> bool:
        """Tells whether nobody waits any more."""


@dataclass(eq=False)  # two equal requests are two
class Generation:
    """A request while it is answered.

    Attributes:
        prompt: Tokens.
        parameters: Of sampling; `max_tokens` no more than the context leaves.
        streams: Whether parts of the answer are sent as they come.
        eos_tokens: End the answer.
        runs_alone: Whether its prompt failed among others and is run by itself now.
    """

    prompt: list[int]
    parameters: SamplingParameters
    streams: bool
    eos_tokens: frozenset[int]
    vocab_size: int
    tokenizer: Detokenizer
    listener: Listener
    chooser: TokenChooser = field(init=False)
    generated: list[int] = field(init=False, default_factory=list)
    is_done: bool = field(init=False, default=False)
    runs_alone: bool = field(init=False, default=False)
    _stream: TextStream = field(init=False)
    _text: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.chooser = TokenChooser(self.parameters, self.prompt, self.vocab_size)
        self._stream = TextStream(self.tokenizer, self.parameters.stop)

    @property
    def num_cached(self) -> int:
        """Tokens whose keys and values the cache holds between two steps."""
        return len(self.prompt) + len(self.generated) - 1

    def advance(self, logits_V: Any, likeliest: int) -> None:
        """Takes the next token and sends what can be sent.

        Args:
            logits_V: float32 [V].
            likeliest: Their argmax.
        """
        chooser = self.chooser
        token = likeliest if chooser.takes_likeliest else chooser.choose(logits_V)
        self.generated.append(token)
        if token in self.eos_tokens and not self.parameters.ignore_eos:
            self._finish("stop")
            return
        self._emit(self._stream.push(token))
        if self._stream.stopped:
            self._finish("stop")
        elif len(self.generated) >= self.parameters.max_tokens:
            self._finish("length")

    def is_unwanted(self) -> bool:
        """Tells whether nobody waits for the answer any more, or its sender can't even say."""
        try:
            return self.listener.is_cancelled()
        except Exception:
            logger.exception("a request's sender could not be asked")
            return True

    def fail(self, message: str) -> None:
        """Ends the answer with an error; raises nothing, since others wait for the same thread."""
        self.is_done = True
        try:
            self.listener.send_error(message)
        except Exception:
            logger.exception("an error could not be sent: %s", message)

    def _emit(self, text: str) -> None:
        if text and self.streams:
            self.listener.send_text(text)
        elif text:
            self._text.append(text)

    def _finish(self, reason: str) -> None:
        self.is_done = True
        tail = self._stream.finish()
        reason = "stop" if self._stream.stopped else reason
        text = "".join(self._text) + tail
        self.listener.send_last(text, reason, len(self.prompt), len(self.generated))


@dataclass(frozen=True)
class Limits:
    """How much is done at once.

    Attributes:
        max_running: Rows that are decoded together.
        max_waiting: Requests that wait for a row; more are refused.
        max_prefill_rows: Prompts of one pass; None for as many as there are rows.
        max_prefill_tokens: Of one pass, padding included; one prompt alone may have more.
    """

    max_running: int
    max_waiting: int
    max_prefill_rows: int | None = None
    max_prefill_tokens: int = 4096
