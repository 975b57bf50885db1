"""What a recipe or the command line writes of a profile, read into sizes and shapes.

All that can be said without knowing the model is checked here, so that a recipe's slip is found
before its first step runs; `engine.profiles` holds the rest against the model.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TypeGuard

from pydantic import JsonValue

from llmopt.artifacts.optimization_profile import POINTS, Shape
from llmopt.artifacts.tensor_spec import PAST

BUCKETS = "buckets"
PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")
RANGE_MARK = re.compile(r"\.\.|:")
NUMBER = re.compile(r"[0-9]+\Z")
AXIS_FORMS = "write batch: 8, batch: [1, 8, 16] or batch: 1..8..16 (min, opt, max)"
EXAMPLE = "decode:batch=1:8:16,sequence=1,past_sequence=1:512:2047"
Sizes = tuple[int, int, int]  # at min, opt and max
Shapes = tuple[Shape, Shape, Shape]
Entry = Sizes | Shapes
ProfileEntries = Mapping[str, Entry]  # axis → sizes; input → shapes
WrittenProfile = Mapping[str, JsonValue]


def read_entries(profiles: Mapping[str, WrittenProfile]) -> dict[str, ProfileEntries]:
    """Reads profiles as a recipe writes them; one with buckets becomes one per bucket.

    Args:
        profiles: Name → axis or input → what stands there.

    Returns:
        Name → axis or input → sizes or shapes at min, opt and max. The profile of bucket 512 of
        `prefill` is `prefill_512`.

    Raises:
        ValueError: Names profile, axis, value and the way out.
    """
    entries: dict[str, ProfileEntries] = {}
    for name, written in profiles.items():
        if not PROFILE_NAME.match(name):
            raise ValueError(f"profile name {name!r} may hold letters, digits, - and _ alone")
        if not written:
            raise ValueError(f"profile {name} is empty; name its axes, such as batch: [1, 8, 16]")
        for part, part_written in _split_buckets(name, written):
            if part in entries:
                raise ValueError(f"there are two profiles {part}; rename one of them")
            entries[part] = {
                key: _read_entry(f"profile {part}: {key}", key, value)
                for key, value in part_written.items()
            }
    return entries


def read_shorthand(text: str) -> tuple[str, dict[str, JsonValue]]:
    """Reads `decode:batch=1:8:16,sequence=1`; buckets are written `sequence=128|512`.

    Returns:
        The profile's name and its entries, as a recipe writes them.

    Raises:
        ValueError: It is not of that form.
    """
    name, colon, rest = text.partition(":")
    written: dict[str, JsonValue] = {}
    for part in rest.split(","):
        axis, equals, value = (piece.strip() for piece in part.partition("="))
        value = value.replace("..", ":")  # as recipes write it
        numbers = re.split(r"[:|]", value)
        is_mixed = ":" in value and "|" in value
        if not (name and colon and equals and axis) or is_mixed or not _all_numbers(numbers):
            raise ValueError(
                f"{text!r} is not of the form NAME:AXIS=MIN:OPT:MAX,AXIS=SIZE, as in {EXAMPLE}"
            )
        if axis in written:
            raise ValueError(f"{text!r} gives {axis} twice")
        sizes: list[JsonValue] = [int(number) for number in numbers]
        if "|" in value:
            written[axis] = {BUCKETS: sizes}
        else:
            written[axis] = sizes if len(sizes) > 1 else sizes[0]
    return name, written


def _all_numbers(texts: list[str]) -> bool:
    return all(NUMBER.match(text) for text in texts)


def _split_buckets(name: str, written: WrittenProfile) -> Iterator[tuple[str, WrittenProfile]]:
    """Yields the profile itself, or one per bucket: from the bucket before it, best at its end."""
    bucketed = [key for key, value in written.items() if isinstance(value, dict)]
    if not bucketed:
        yield name, written
        return
    axis = bucketed[0]
    if len(bucketed) > 1:
        raise ValueError(f"profile {name} has buckets on {' and '.join(bucketed)}; one axis can")
    before = 0
    for size in _read_buckets(f"profile {name}: {axis}", written[axis]):
        sizes: list[JsonValue] = [before + 1, size, size]
        yield f"{name}_{size}", {**written, axis: sizes}
        before = size


def _read_buckets(place: str, value: JsonValue) -> list[int]:
    sizes = value.get(BUCKETS) if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(sizes, list) or not sizes:
        raise ValueError(f"{place} is {value!r}; buckets are written {{buckets: [128, 512]}}")
    counts = [size for size in sizes if _is_count(size)]
    is_rising = all(low < high for low, high in pairwise(counts))
    if len(counts) < len(sizes) or counts[0] < 1 or not is_rising:
        raise ValueError(f"{place} has buckets {sizes!r}; give whole numbers from 1 up, rising")
    return counts


def _read_entry(place: str, key: str, value: JsonValue) -> Entry:
    if isinstance(value, list) and value and all(isinstance(shape, list) for shape in value):
        return _read_shapes(place, value)
    sizes = _read_sizes(place, value)
    check_order(place, sizes, 0 if key == PAST else 1)
    return sizes


def _read_sizes(place: str, value: JsonValue) -> Sizes:
    numbers: list[JsonValue]
    if isinstance(value, str):
        texts = RANGE_MARK.split(value)
        is_range = len(texts) == len(POINTS) and _all_numbers(texts)
        numbers = [int(text) for text in texts] if is_range else []
    else:
        numbers = value if isinstance(value, list) else [value] * len(POINTS)
    counts = [number for number in numbers if _is_count(number)]
    if len(counts) != len(POINTS) or len(numbers) != len(POINTS):
        raise ValueError(f"{place} is {value!r}, not a whole number or three; {AXIS_FORMS}")
    return counts[0], counts[1], counts[2]


def _read_shapes(place: str, value: list[JsonValue]) -> Shapes:
    shapes = [tuple(s for s in shape if _is_count(s)) for shape in value if isinstance(shape, list)]
    if len(shapes) != len(POINTS):
        raise ValueError(f"{place} has {len(shapes)} shapes; an input takes three: min, opt, max")
    for point, shape, written in zip(POINTS, shapes, value, strict=True):
        if not isinstance(written, list) or len(shape) < len(written) or min(shape, default=0) < 0:
            raise ValueError(f"{place} at {point} is {written!r}; give whole numbers from 0 up")
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(f"{place}: its shapes have different numbers of axes: {value!r}")
    return shapes[0], shapes[1], shapes[2]


def check_order(place: str, sizes: Sizes, least: int) -> None:
    """Checks least ≤ min ≤ opt ≤ max.

    Raises:
        ValueError: Names the place, the sizes and what is allowed.
    """
    if sizes[0] < least:
        raise ValueError(f"{place} has min {sizes[0]}; the least is {least}")
    for (low_name, low), (high_name, high) in pairwise(zip(POINTS, sizes, strict=True)):
        if low > high:
            raise ValueError(
                f"{place} has {low_name} {low} above {high_name} {high}; order them min ≤ opt ≤ max"
            )


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
