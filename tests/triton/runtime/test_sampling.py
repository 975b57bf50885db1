"""Sampling parameters of a request, and the tokens that they choose, against a literal oracle."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmopt.triton.runtime.generate.sampling import (
    RequestError,
    SamplingParameters,
    TokenChooser,
    read_parameters,
)

VOCAB = 12


def oracle(logits: list[float], given: SamplingParameters) -> dict[int, float]:
    """Returns the probability of each token that may be drawn, by the definitions, one by one."""
    scaled = [value / given.temperature for value in logits]
    weights = [math.exp(value - max(scaled)) for value in scaled]
    order = sorted(range(len(weights)), key=lambda token: -weights[token])
    if given.top_k > 0:
        order = order[: given.top_k]
    order = [token for token in order if weights[token] >= given.min_p]
    total, kept, mass = sum(weights[token] for token in order), [], 0.0
    for token in order:
        if mass < given.top_p * total:
            kept.append(token)
            mass += weights[token]
    return {token: weights[token] / mass for token in kept}


@given(
    st.lists(
        st.floats(-5, 5, allow_nan=False),
        min_size=VOCAB,
        max_size=VOCAB,
        unique_by=lambda x: round(x, 3),
    ),
    st.floats(0.2, 2),
    st.integers(0, VOCAB),
    st.floats(0.05, 1),
    st.floats(0, 0.5),
)
def test_only_tokens_of_the_definition_are_drawn(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    parameters = SamplingParameters(
        8, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=1
    )
    chooser = TokenChooser(parameters, [1], VOCAB)
    allowed = oracle(np.float32(logits).tolist(), parameters)
    drawn = {chooser.choose(np.array(logits, np.float32)) for _ in range(40)}
    assert drawn <= set(allowed)


def test_tokens_come_as_often_as_their_probability_says() -> None:
    logits_V = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    parameters = SamplingParameters(8, temperature=1.0, seed=5)
    chooser = TokenChooser(parameters, [0], 4)
    drawn = np.bincount([chooser.choose(logits_V) for _ in range(20_000)], minlength=4) / 20_000
    assert np.abs(drawn - [0.5, 0.3, 0.15, 0.05]).max() < 0.015


def test_a_seed_repeats_the_draw_and_another_does_not() -> None:
    logits_V = np.zeros(1000, np.float32)

    def draw(seed: int) -> list[int]:
        chooser = TokenChooser(SamplingParameters(8, temperature=1.0, seed=seed), [0], 1000)
        return [chooser.choose(logits_V) for _ in range(5)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"repetition_penalty": 2.0}, 2),  # token 0 of the prompt: 4 / 2 < 3
        ({"frequency_penalty": 1.5}, 0),  # none was generated yet
        ({}, 0),
    ],
)
def test_penalties_count_what_they_are_for(settings: dict[str, float], expected: int) -> None:
    chooser = TokenChooser(SamplingParameters(8, **settings), [0, 1], 4)
    assert chooser.choose(np.array([4, 1, 3, -2], np.float32)) == expected


def test_a_repeated_token_falls_below_zero_too() -> None:
    """A negative logit is multiplied: divided, it would rise."""
    chooser = TokenChooser(SamplingParameters(8, repetition_penalty=2.0), [0], 3)
    assert chooser.choose(np.array([-1.0, -1.5, -9.0], np.float32)) == 1  # -2 < -1.5


def test_penalties_follow_the_tokens_that_were_generated() -> None:
    logits_V = np.array([4.0, 3.0, 2.0, -1.0], np.float32)
    frequent = TokenChooser(SamplingParameters(8, frequency_penalty=0.8), [3], 4)
    # 4, 3.2, (2.4 < 3), then 1 falls to 2.2 while 0 stands at 2.4.
    assert [frequent.choose(logits_V) for _ in range(4)] == [0, 0, 1, 0]
    present = TokenChooser(SamplingParameters(8, presence_penalty=1.5), [3], 4)
    assert [present.choose(logits_V) for _ in range(3)] == [0, 1, 0]
    assert logits_V.tolist() == [4.0, 3.0, 2.0, -1.0]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"max_token": 5}, "unknown sampling parameter 'max_token'; known are max_tokens"),
        ({"max_tokens": -1}, "max_tokens is -1; it is 1 or more"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 2.5}, "max_tokens is 2.5; it is a whole number"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"temperature": 10**400}, "at most 100"),
        ({"temperature": -0.1}, "temperature is -0.1; it is 0 or more, at most 100"),
        ({"temperature": float("nan")}, "temperature is nan; it is a number"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_p": 0}, "top_p is 0; it is more than 0, at most 1"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_k": -2}, "top_k is -2; it is -1 or more"),
        ({"repetition_penalty": 5e-324}, "repetition_penalty is 5e-324; it is 0.01 or more"),
        ({"seed": 10**300}, "seed is 10+…; it is"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"presence_penalty": 3}, "presence_penalty is 3"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": ["a", ""]}, "stop is .*none empty"),
        ({"stop": 3}, "stop is 3"),
        ({"stop": ["a"] * 17}, "stop has 17 texts; at most 16"),
        ({"ignore_eos": 1}, "ignore_eos is 1; it is true or false"),
    ],
)
def test_what_can_not_be_done_is_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        read_parameters(given, 16)


def test_what_is_not_given_has_a_default() -> None:
    assert read_parameters({"temperature": None}, 16) == SamplingParameters(16)
    assert read_parameters({"stop": "。", "max_tokens": 3}, 16).stop == ("。",)
