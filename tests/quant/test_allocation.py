"""The choice of options within a budget, held against the best of all combinations."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmopt.quant.allocation import Option, choose_options

OPTIONS = st.lists(
    st.builds(Option, st.integers(1, 20), st.floats(0, 10).map(lambda cost: round(cost, 2))),
    min_size=1,
    max_size=4,
)
UNITS = st.lists(OPTIONS, min_size=1, max_size=5)


def total(units: list[list[Option]], chosen: tuple[int, ...] | list[int]) -> tuple[int, float]:
    """Returns size and cost of a choice."""
    options = [options[index] for options, index in zip(units, chosen, strict=True)]
    return sum(option.size_bytes for option in options), sum(option.cost for option in options)


def best_cost(units: list[list[Option]], budget: int) -> float:
    """Tries every combination."""
    every = itertools.product(*(range(len(options)) for options in units))
    return min(cost for size, cost in (total(units, chosen) for chosen in every) if size <= budget)


@given(UNITS, st.integers(0, 60))
def test_the_budget_is_kept_and_no_single_exchange_is_better(
    units: list[list[Option]], extra: int
) -> None:
    smallest = sum(min(option.size_bytes for option in options) for options in units)
    budget = smallest + extra
    chosen = choose_options(units, budget)
    size, cost = total(units, chosen)
    assert size <= budget
    for unit, options in enumerate(units):
        for index in range(len(options)):
            other = [*chosen[:unit], index, *chosen[unit + 1 :]]
            other_size, other_cost = total(units, other)
            assert other_size > budget or other_cost >= cost


@given(UNITS, st.integers(0, 60))
def test_the_cost_lies_within_one_step_of_the_best(units: list[list[Option]], extra: int) -> None:
    """Greedy on the hulls loses at most what one step of a hull saves (Sinha and Zoltners)."""
    smallest = sum(min(option.size_bytes for option in options) for options in units)
    budget = smallest + extra
    _, cost = total(units, choose_options(units, budget))
    dearest = max(option.cost for options in units for option in options)
    assert cost <= best_cost(units, budget) + dearest + 1e-9


def test_the_best_gain_per_byte_comes_first() -> None:
    flat = [Option(10, 5.0), Option(20, 4.9)]
    steep = [Option(10, 5.0), Option(20, 1.0)]
    assert choose_options([flat, steep], 30) == [0, 1]
    assert choose_options([flat, steep], 40) == [1, 1]
    assert choose_options([flat, steep], 29) == [0, 0]


def test_a_dear_middle_is_skipped() -> None:
    """The middle option lies above the hull: it is taken only where the largest does not fit."""
    options = [Option(10, 10.0), Option(20, 9.0), Option(30, 0.0)]
    assert choose_options([options], 30) == [2]
    assert choose_options([options], 29) == [1]


def test_too_small_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="exceed the budget by 3 bytes"):
        choose_options([[Option(10, 1.0), Option(20, 0.5)], [Option(5, 1.0)]], 12)
