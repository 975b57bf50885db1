"""Chooses bits per layer within a size budget: the multiple-choice knapsack problem.

Each unit (layers that must be alike) takes one of several options with a size and a cost. The
total cost is minimised under a bound on the total size by walking the units' lower convex hulls
from the smallest option upwards, best cost per byte first, which solves the problem's linear
relaxation (Sinha and Zoltners, "The multiple-choice knapsack problem", Operations Research 27,
1979); what room is left is then filled by single exchanges.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """One way to store a unit.

    Attributes:
        size_bytes: What it takes.
        cost: What it does to the model; smaller is better.
    """

    size_bytes: int
    cost: float


def choose_options(units: Sequence[Sequence[Option]], budget_bytes: int) -> list[int]:
    """Returns the index of each unit's option, their total size within the budget.

    Raises:
        ValueError: Not even the smallest options fit.
    """
    chosen = [_smallest(options) for options in units]
    left = budget_bytes - sum(
        options[index].size_bytes for options, index in zip(units, chosen, strict=True)
    )
    if left < 0:
        raise ValueError(f"the smallest options exceed the budget by {-left} bytes")
    steps = [
        (gain, unit, start, stop)
        for unit, options in enumerate(units)
        for gain, start, stop in _hull_steps(options)
    ]
    for _, unit, start, stop in sorted(steps, key=lambda step: -step[0]):
        growth = units[unit][stop].size_bytes - units[unit][start].size_bytes
        if chosen[unit] == start and growth <= left:
            chosen[unit] = stop
            left -= growth
    _fill_up(units, chosen, left)
    return chosen


def _smallest(options: Sequence[Option]) -> int:
    return min(range(len(options)), key=lambda i: (options[i].size_bytes, options[i].cost))


def _hull_steps(options: Sequence[Option]) -> Iterator[tuple[float, int, int]]:
    """Yields (cost saved per byte, from, to) along the lower hull, with falling gains."""
    current = _smallest(options)
    while True:
        here = options[current]
        gains = [
            ((here.cost - option.cost) / (option.size_bytes - here.size_bytes), index)
            for index, option in enumerate(options)
            if option.size_bytes > here.size_bytes and option.cost < here.cost
        ]
        if not gains:
            return
        gain, following = max(gains, key=lambda pair: (pair[0], options[pair[1]].size_bytes))
        yield gain, current, following
        current = following


def _fill_up(units: Sequence[Sequence[Option]], chosen: list[int], left: int) -> None:
    """Takes the single exchange that saves most and fits, until there is none."""
    while True:
        exchanges = [
            (here.cost - option.cost, -unit, -index, option.size_bytes - here.size_bytes)
            for unit, options in enumerate(units)
            for here in [options[chosen[unit]]]
            for index, option in enumerate(options)
            if option.cost < here.cost and option.size_bytes - here.size_bytes <= left
        ]
        if not exchanges:
            return
        _, unit, index, growth = max(exchanges)
        chosen[-unit] = -index
        left -= growth
