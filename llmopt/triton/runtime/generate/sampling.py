"""How the next token is chosen: what a request may ask for, and its arithmetic.

Names, defaults of penalties and their order are those of vLLM's SamplingParams; the temperature
is 0, greedy, where a request gives none. V = vocabulary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_STOP_STRINGS = 16
GREEDY_BELOW = 1e-5


class RequestError(Exception):
    """A request asks for what can't be done; the message goes to its sender."""


@dataclass(frozen=True)
class SamplingParameters:
    """What a request asks for.

    Attributes:
        max_tokens: Most tokens that are generated.
        temperature: 0 takes the likeliest token.
        top_p: Smallest set of tokens with this probability together.
        top_k: The likeliest tokens; 0 or -1 for all.
        min_p: Least probability, as a share of the likeliest token's.
        repetition_penalty: Divides (or multiplies, below 0) logits of tokens seen so far.
        frequency_penalty: Subtracted from a logit for each time the token was generated.
        presence_penalty: Subtracted once it was.
        stop: Texts that end the answer, and are not part of it.
        seed: Makes the draw repeatable.
        ignore_eos: Goes on after the end-of-text token.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False

    @property
    def penalises(self) -> bool:
        """Whether logits depend on the tokens so far."""
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1, 0, 0)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < GREEDY_BELOW


# Name: least, most, whether the least itself is allowed.
RANGES: dict[str, tuple[float, float, bool]] = {
    "max_tokens": (1, math.inf, True),
    "temperature": (0, 100, True),
    "top_p": (0, 1, False),
    "top_k": (-1, math.inf, True),
    "min_p": (0, 1, True),
    "repetition_penalty": (0.01, 100, True),  # its inverse stays a float
    "frequency_penalty": (-2, 2, True),
    "presence_penalty": (-2, 2, True),
    "seed": (0, 2**63 - 1, True),
}
MAX_SHOWN = 80  # characters of a value that is refused
INTEGERS = ("max_tokens", "top_k", "seed")


def read_parameters(given: Mapping[str, Any], default_max_tokens: int) -> SamplingParameters:
    """Checks the parameters of a request.

    Args:
        given: As they came; a value of None counts as not given.
        default_max_tokens: Where `max_tokens` is not given.

    Raises:
        RequestError: One is unknown, of another type or out of its range.
    """
    known = [each.name for each in fields(SamplingParameters)]
    values: dict[str, Any] = {"max_tokens": default_max_tokens}
    for name, value in given.items():
        if name not in known:
            raise RequestError(
                f"unknown sampling parameter {_show(name)}; known are {', '.join(known)}"
            )
        if value is not None:
            values[name] = _read_value(name, value)
    return SamplingParameters(**values)


def _read_value(name: str, value: Any) -> Any:
    if name == "stop":
        return _read_stop(value)
    if name == "ignore_eos":
        if not isinstance(value, bool):
            raise RequestError(f"ignore_eos is {_show(value)}; it is true or false")
        return value
    least, most, inclusive = RANGES[name]
    kinds = (int,) if name in INTEGERS else (int, float)
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not math.isfinite(value)):
        kind = "a whole number" if name in INTEGERS else "a number"
        raise RequestError(f"{name} is {_show(value)}; it is {kind}")
    if value > most or value < least or (value == least and not inclusive):
        lower = f"{least:g} or more" if inclusive else f"more than {least:g}"
        upper = "" if most == math.inf else f", at most {most:g}"
        raise RequestError(f"{name} is {_show(value)}; it is {lower}{upper}")
    return value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _read_stop(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(t, str) and t for t in texts):
        raise RequestError(f"stop is {_show(value)}; it is a text or a list of texts, none empty")
    if len(texts) > MAX_STOP_STRINGS:
        raise RequestError(f"stop has {len(texts)} texts; at most {MAX_STOP_STRINGS}")
    return tuple(texts)


@dataclass
class TokenChooser:
    """Chooses the tokens of one request, one after another."""

    parameters: SamplingParameters
    prompt: list[int]
    vocab_size: int
    _random: np.random.Generator = field(init=False)
    _generated_V: NDArray[Any] | None = field(init=False, default=None)
    _seen_V: NDArray[Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.parameters.seed)
        if self.parameters.penalises:
            self._generated_V = np.zeros(self.vocab_size, np.int32)
            self._seen_V = np.zeros(self.vocab_size, bool)
            self._seen_V[self.prompt] = True

    @property
    def takes_likeliest(self) -> bool:
        """Whether the plain argmax is what it chooses."""
        return self.parameters.is_greedy and not self.parameters.penalises

    def choose(self, logits_V: NDArray[Any]) -> int:
        """Chooses the next token from its logits, float32 [V], which are left as they are."""
        logits_V = self._penalise(logits_V)
        token = int(logits_V.argmax()) if self.parameters.is_greedy else self._draw(logits_V)
        if self._generated_V is not None and self._seen_V is not None:
            self._generated_V[token] += 1
            self._seen_V[token] = True
        return token

    def _penalise(self, logits_V: NDArray[Any]) -> NDArray[Any]:
        if self._generated_V is None or self._seen_V is None:
            return logits_V
        given = self.parameters
        factor = np.where(logits_V > 0, 1 / given.repetition_penalty, given.repetition_penalty)
        logits_V = np.where(self._seen_V, logits_V * factor, logits_V)
        logits_V = logits_V - given.frequency_penalty * self._generated_V
        return np.asarray(logits_V - given.presence_penalty * (self._generated_V > 0))

    def _draw(self, logits_V: NDArray[Any]) -> int:
        given = self.parameters
        scaled_V = logits_V.astype(np.float64) / given.temperature
        tokens = np.argsort(-scaled_V, kind="stable")
        weights = np.exp(scaled_V[tokens] - scaled_V[tokens[0]])
        if given.top_k > 0:
            tokens, weights = tokens[: given.top_k], weights[: given.top_k]
        weights = np.where(weights >= given.min_p, weights, 0)  # of the likeliest, which is 1
        below = np.cumsum(weights) - weights
        weights = np.where(below < given.top_p * weights.sum(), weights, 0)
        cumulated = np.cumsum(weights)
        drawn = self._random.random() * cumulated[-1]
        return int(tokens[np.searchsorted(cumulated, drawn, side="right")])
