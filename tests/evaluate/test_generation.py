"""Greedy decoding against transformers' own, one by one and in padded batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmopt.artifacts.progress import SilentProgress
from llmopt.errors import NumericalError
from llmopt.evaluate.generation import DecodeLimits, decode_greedily
from tests.models import TINY_MODEL
from tests.quant.pipeline import SMALL_VOCAB, make_small_model

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [[1, 40, 41, 42], [1, 9], [1, *range(60, 90)], [1, 200, 17, 33, 8, 250, 11]]
NEVER = frozenset[int]()


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def decode(
    model: Any, prompts: list[list[int]], stop_ids: frozenset[int] = NEVER, **limits: int
) -> list[list[int]]:
    settings = {"max_new_tokens": 24, "batch_size": 1, **limits}
    return decode_greedily(model, prompts, DecodeLimits(stop_ids, **settings), SilentProgress())


def generate(model: Any, prompt: list[int], stop_ids: list[int]) -> list[int]:
    """Decodes as transformers does it; what comes back may end with the stop token."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=stop_ids or None,
            pad_token_id=0,
        )
    answer: list[int] = found[0, len(prompt) :].tolist()
    return [token for token in answer if token not in stop_ids]


@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize(
    ("family", "config"),
    [("llama", {}), ("mistral", {"sliding_window": 7}), ("qwen2", {}), ("qwen3", {})],
)
def test_tokens_are_those_of_transformers(
    tmp_path: Path, family: str, config: dict[str, Any], batch_size: int
) -> None:
    model = load(make_small_model(tmp_path / "model", family, **config))
    stop = generate(model, PROMPTS[0], [])[5]  # a token that does come up
    for stop_ids in (NEVER, frozenset({stop})):
        expected = [generate(model, prompt, list(stop_ids)) for prompt in PROMPTS]
        assert decode(model, PROMPTS, stop_ids, batch_size=batch_size) == expected
    assert any(len(answer) < 24 for answer in expected)


def test_the_trained_model_in_one_batch_and_one_by_one() -> None:
    model = load(TINY_MODEL)
    one_by_one = decode(model, PROMPTS)
    assert decode(model, PROMPTS, batch_size=4) == one_by_one
    assert decode(model, PROMPTS) == one_by_one
    assert len({tuple(answer) for answer in one_by_one}) > 1


def test_answers_end_at_max_new_tokens(tmp_path: Path) -> None:
    model = load(make_small_model(tmp_path / "model"))
    long = decode(model, PROMPTS)
    assert decode(model, PROMPTS, max_new_tokens=3) == [answer[:3] for answer in long]
    assert decode(model, [PROMPTS[0]], frozenset(range(SMALL_VOCAB))) == [[]]


def test_a_model_that_is_broken_is_no_answer(tmp_path: Path) -> None:
    model = load(make_small_model(tmp_path / "model"))
    model.model.norm.weight.data[3] = torch.nan
    with pytest.raises(NumericalError, match="logits hold NaN"):
        decode(model, PROMPTS)
