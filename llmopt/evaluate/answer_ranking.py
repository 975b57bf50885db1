"""Ranks a right answer against planted wrong ones by their likelihood."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmopt.evaluate.scoring import TokenScores
from llmopt.evaluate.windows import Window


@dataclass(frozen=True)
class EncodedTask:
    """A prompt with the answers that are compared, as token ids; `answers[0]` is the right one."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Ranking:
    """What a model thinks of one task's answers.

    Attributes:
        logprobs: Mean log-probability per token of each answer, in nats, the right one first.
    """

    logprobs: tuple[float, ...]

    @property
    def margin(self) -> float:
        """How far the right answer lies above the best wrong one, in nats per token."""
        return self.logprobs[0] - max(self.logprobs[1:])

    @property
    def pair_share(self) -> float:
        """Which share of the wrong answers is strictly less likely than the right one."""
        wrong = self.logprobs[1:]
        return sum(self.logprobs[0] > other for other in wrong) / len(wrong)

    @property
    def is_right(self) -> bool:
        """Whether the right answer is strictly the most likely."""
        return self.margin > 0


def cut_answers(tasks: Sequence[EncodedTask]) -> list[Window]:
    """Makes one window per answer, the prompt before it, only the answer's tokens scored."""
    sequences = [(task.prompt, answer) for task in tasks for answer in task.answers]
    return [
        Window(number, (*prompt, *answer), len(answer))
        for number, (prompt, answer) in enumerate(sequences)
    ]


def rank_answers(tasks: Sequence[EncodedTask], scores: TokenScores) -> list[Ranking]:
    """Puts the scores of `cut_answers`' windows together, one ranking per task."""
    counts = np.bincount(scores.document)
    means = -np.bincount(scores.document, weights=scores.nll) / counts
    return list(_group(tasks, means.tolist()))


def _group(tasks: Sequence[EncodedTask], means: list[float]) -> Iterator[Ranking]:
    start = 0
    for task in tasks:
        end = start + len(task.answers)
        yield Ranking(tuple(means[start:end]))
        start = end
