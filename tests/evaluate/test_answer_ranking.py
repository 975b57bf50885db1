"""Likelihoods of answers against a plain loop over transformers' logits."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmopt.artifacts.progress import SilentProgress
from llmopt.checkpoint.activation_store import ActivationStore
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.evaluate.answer_ranking import EncodedTask, Ranking, cut_answers, rank_answers
from llmopt.evaluate.scoring import score_windows
from tests.models import TINY_MODEL

TASKS = [
    EncodedTask((1, 50, 60), ((300, 301, 302), (300, 301), (400,))),
    EncodedTask((1, *range(70, 90)), ((500, 12, 13), (500, 12, 14))),
]


@pytest.mark.usefixtures("one_thread")
def test_each_answer_has_its_mean_log_probability(tmp_path: Path) -> None:
    model = StreamedModel(Checkpoint.open(TINY_MODEL), torch.device("cpu"), torch.float32)
    streams = ActivationStore(tmp_path, 10**9, torch.device("cpu"))
    (scores,) = score_windows(cut_answers(TASKS), [model], None, streams, SilentProgress())
    reference = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32).eval()
    for task, ranking in zip(TASKS, rank_answers(TASKS, scores), strict=True):
        assert len(ranking.logprobs) == len(task.answers)
        for answer, got in zip(task.answers, ranking.logprobs, strict=True):
            ids = [*task.prompt, *answer]
            with torch.inference_mode():
                logprobs_TV = reference(torch.tensor([ids])).logits[0].log_softmax(-1)
            first = len(task.prompt)
            each = [float(logprobs_TV[first + i - 1, token]) for i, token in enumerate(answer)]
            assert got == pytest.approx(sum(each) / len(each), abs=1e-5)


@pytest.mark.parametrize(
    ("logprobs", "margin", "share", "right"),
    [
        ((-1.0, -2.0, -1.5), 0.5, 1.0, True),
        ((-1.0, -2.0, -0.5), -0.5, 0.5, False),
        ((-1.0, -1.0, -3.0), 0.0, 0.5, False),  # a tie is no preference
        ((-4.0, -1.0), -3.0, 0.0, False),
    ],
)
def test_the_right_answer_must_be_strictly_the_best(
    logprobs: tuple[float, ...], margin: float, share: float, right: bool
) -> None:
    ranking = Ranking(logprobs)
    assert (ranking.margin, ranking.pair_share, ranking.is_right) == (margin, share, right)
