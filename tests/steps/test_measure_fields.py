"""The window that models are scored in, and which models can be compared."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.errors import IncompatibleError
from llmopt.steps.base import ResolvedInput
from llmopt.steps.eval_perplexity import EvalPerplexity
from llmopt.steps.measure_fields import check_same_vocabulary, choose_window


@pytest.fixture(scope="module")
def checkpoint(random_model: Path) -> Checkpoint:
    return Checkpoint.open(random_model)


def choose(checkpoint: Checkpoint, seq_len: int | None = None, **fields: Any) -> tuple[int, int]:
    step = EvalPerplexity(uses="eval.perplexity", model="m", data="d", **fields)
    spec = DatasetSpec(path="d.jsonl", seq_len=seq_len)
    data = ResolvedInput("d", "dataset", "", Path(), dataset=spec)
    return choose_window(step, {"data": data}, checkpoint)


@pytest.mark.parametrize(
    ("seq_len", "fields", "window"),
    [
        (None, {}, (256, 128)),  # all that the model allows
        (64, {}, (64, 32)),
        (64, {"max_length": 100}, (100, 50)),
        (None, {"max_length": 100, "stride": 7}, (100, 7)),
        (256, {"stride": 255}, (256, 255)),
    ],
)
def test_the_window(
    checkpoint: Checkpoint, seq_len: int | None, fields: dict[str, int], window: tuple[int, int]
) -> None:
    assert choose(checkpoint, seq_len, **fields) == window


@pytest.mark.parametrize(
    ("seq_len", "fields", "message"),
    [
        (257, {}, "max_length 257 exceeds max_position_embeddings 256"),
        (None, {"max_length": 300}, "max_length 300 exceeds max_position_embeddings 256"),
        (None, {"stride": 256}, "stride 256 must be below max_length 256"),
        (64, {"stride": 64}, "stride 64 must be below max_length 64"),
    ],
)
def test_a_window_that_does_not_fit_is_refused(
    checkpoint: Checkpoint, seq_len: int | None, fields: dict[str, int], message: str
) -> None:
    with pytest.raises(IncompatibleError, match=message):
        choose(checkpoint, seq_len, **fields)


def test_models_of_different_vocabularies_are_not_compared(checkpoint: Checkpoint) -> None:
    config = dataclasses.replace(checkpoint.config, vocab_size=99)
    other = dataclasses.replace(checkpoint, config=config)
    with pytest.raises(IncompatibleError, match=r"\(6144\) and .* \(99\)"):
        check_same_vocabulary([checkpoint, other])
    check_same_vocabulary([checkpoint, checkpoint])
