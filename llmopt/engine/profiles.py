"""Reads a recipe's profiles and holds them against the model, before a builder sees them.

TensorRT builds many a wrong profile without a word (unknown inputs, sequences beyond the model's
positions, totals that are no sum), or fails with no more than None.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod

from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.optimization_profile import (
    POINTS,
    AxisRange,
    OptimizationProfile,
    dynamic_axes,
)
from llmopt.artifacts.tensor_spec import TensorSpec
from llmopt.errors import IncompatibleError

PAST, SEQUENCE, TOTAL = "past_sequence", "sequence", "total_sequence"
MAX_ELEMENTS = 2**31 - 1  # of a tensor, TensorRT's limit
Shape = tuple[int, ...]
Entry = int | Shape | tuple[Shape, Shape, Shape]
ProfileEntries = Mapping[str, Entry]  # axis → size or (min, opt, max); input → three shapes


def read_profile(
    name: str, entries: ProfileEntries, description: OnnxDescription
) -> OptimizationProfile:
    """Makes a profile of what a recipe says, and checks it.

    Args:
        name: Of the profile, such as `decode`.
        entries: By axis a size or `(min, opt, max)`, or by input three shapes.
        description: The model's inputs and limits.

    Returns:
        The profile, with `total_sequence` as the sum of past and new tokens.

    Raises:
        IncompatibleError: Names profile, input, axis, value, limit and the way out.
    """
    axes = dict(_merge(name, _read_entries(name, entries, description)))
    given = {axis: AxisRange(min=r[0], opt=r[1], max=r[2]) for axis, (r, _) in axes.items()}
    for axis, axis_range in given.items():
        _check_order(f"profile {name}: {axes[axis][1]}", axis, axis_range)
    given = _add_total(name, given, description)
    _check_complete(name, given, description)
    profile = OptimizationProfile(
        name=name, axes={axis: given[axis] for axis in dynamic_axes(description.inputs)}
    )
    _check_limits(profile, description)
    return profile


def read_shorthand(text: str) -> tuple[str, dict[str, Entry]]:
    """Reads `decode:batch=1:8:16,sequence=1`; returns the profile's name and its entries.

    Raises:
        IncompatibleError: It is not written so.
    """
    name, colon, rest = text.partition(":")
    entries: dict[str, Entry] = {}
    for part in rest.split(","):
        axis, equals, sizes = part.partition("=")
        numbers = sizes.split(":")
        if not (name and colon and equals) or not all(n.strip().isdigit() for n in numbers):
            raise IncompatibleError(
                f"profile {text!r} is not of the form NAME:AXIS=MIN:OPT:MAX,AXIS=SIZE",
                remedy="for example decode:batch=1:8:16,sequence=1,past_sequence=1:512:2047",
            )
        entries[axis.strip()] = tuple(map(int, numbers)) if len(numbers) > 1 else int(numbers[0])
    return name, entries


def _read_entries(
    name: str, entries: ProfileEntries, description: OnnxDescription
) -> Iterator[tuple[str, Shape, str]]:
    """Yields (axis, its three sizes, where that stands)."""
    inputs = {spec.name: spec for spec in description.inputs}
    axes = dynamic_axes(description.inputs)
    for key, entry in entries.items():
        place = f"profile {name}: {key}"
        if key in inputs:
            yield from _read_shapes(place, inputs[key], entry)
        elif key in axes:
            yield key, _read_sizes(place, entry), key
        else:
            known = [*axes, *inputs]
            near = difflib.get_close_matches(key, known, 1)
            raise IncompatibleError(
                f"{place} is no dynamic axis or input of the model",
                remedy=f"did you mean {near[0]}?" if near else f"allowed: {', '.join(axes)}",
            )


def _read_sizes(place: str, entry: Entry) -> Shape:
    sizes = (entry,) * 3 if isinstance(entry, int) else entry
    if len(sizes) != len(POINTS) or not all(_is_count(size) for size in sizes):
        raise IncompatibleError(
            f"{place} is {entry!r}, not a whole number or three, [min, opt, max]",
            remedy="write batch: 8 or batch: [1, 8, 16]",
        )
    return tuple(int(size) for size in sizes)  # type: ignore[arg-type]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_shapes(place: str, spec: TensorSpec, entry: Entry) -> Iterator[tuple[str, Shape, str]]:
    rank = len(spec.axes)
    shapes: Sequence[object] = entry if isinstance(entry, tuple) else ()
    if len(shapes) != len(POINTS) or not all(isinstance(shape, tuple) for shape in shapes):
        raise IncompatibleError(
            f"{place} is {entry!r}, not three shapes, [min, opt, max]",
            remedy=f"give three lists of {rank} sizes each",
        )
    for point, shape in zip(POINTS, shapes, strict=True):
        assert isinstance(shape, tuple)
        if len(shape) != rank or not all(_is_count(size) for size in shape):
            raise IncompatibleError(
                f"{place} at {point} is {list(shape)}; the input has {rank} axes "
                f"({', '.join(axis.name for axis in spec.axes)})",
                remedy=f"give {rank} whole numbers",
            )
    for index, axis in enumerate(spec.axes):
        sizes = tuple(int(shape[index]) for shape in shapes)  # type: ignore[index]
        if axis.is_dynamic:
            yield axis.name, sizes, f"{spec.name}, axis {axis.name}"
        elif set(sizes) != {axis.size}:
            raise IncompatibleError(
                f"{place}: axis {axis.name} is {':'.join(map(str, sizes))}, but the model has it "
                f"fixed at {axis.size}",
                remedy=f"write {axis.size} at min, opt and max",
            )


def _merge(
    name: str, entries: Iterator[tuple[str, Shape, str]]
) -> Iterator[tuple[str, tuple[Shape, str]]]:
    seen: dict[str, tuple[Shape, str]] = {}
    for axis, sizes, place in entries:
        before = seen.setdefault(axis, (sizes, place))
        if before[0] != sizes:
            raise IncompatibleError(
                f"profile {name}: {place} is {':'.join(map(str, sizes))}, but {before[1]} has "
                f"{axis} at {':'.join(map(str, before[0]))}",
                remedy=f"axes of one name have one size: give {axis} once",
            )
    yield from seen.items()


def _check_order(place: str, axis: str, given: AxisRange) -> None:
    lowest = 0 if axis == PAST else 1
    if given.min < lowest:
        raise IncompatibleError(
            f"{place} has min {given.min}; the least is {lowest}", remedy=f"set min to {lowest}"
        )
    for (low_name, low), (high_name, high) in pairwise(zip(POINTS, given.points, strict=True)):
        if low > high:
            raise IncompatibleError(
                f"{place} has {low_name} {low} above {high_name} {high}",
                remedy="order them min ≤ opt ≤ max",
            )


def _add_total(
    name: str, given: dict[str, AxisRange], description: OnnxDescription
) -> dict[str, AxisRange]:
    if TOTAL not in dynamic_axes(description.inputs) or not {PAST, SEQUENCE} <= given.keys():
        return given
    past, new = given[PAST].points, given[SEQUENCE].points
    sums = dict(zip(POINTS, (a + b for a, b in zip(past, new, strict=True)), strict=True))
    total = AxisRange(**sums)
    if given.get(TOTAL, total) != total:
        raise IncompatibleError(
            f"profile {name}: {TOTAL} is {given[TOTAL]}, but {PAST} + {SEQUENCE} is {total}",
            remedy=f"leave {TOTAL} out: it is the sum",
        )
    return {**given, TOTAL: total}


def _check_complete(
    name: str, given: Mapping[str, AxisRange], description: OnnxDescription
) -> None:
    missing = [axis for axis in dynamic_axes(description.inputs) if axis not in given]
    if missing:
        axis = missing[0]
        spec = next(s for s in description.inputs if axis in {a.name for a in s.axes})
        raise IncompatibleError(
            f"profile {name} lacks the axis {axis} (of input {spec.name})",
            remedy=f"add {axis}: [min, opt, max]",
        )


def _check_limits(profile: OptimizationProfile, description: OnnxDescription) -> None:
    limit = description.max_position_embeddings
    length = TOTAL if TOTAL in profile.axes else SEQUENCE
    longest = profile.axes[length].max
    if longest > limit:
        parts = f" ({PAST} + {SEQUENCE})" if length == TOTAL else ""
        raise IncompatibleError(
            f"profile {profile.name}: {length}{parts} has max {longest}, beyond the model's "
            f"max_position_embeddings {limit}",
            remedy=f"lower it to {limit} or less",
        )
    for spec in (*description.inputs, *description.outputs):
        shape = profile.shapes(spec)[-1]
        if prod(shape) > MAX_ELEMENTS:
            raise IncompatibleError(
                f"profile {profile.name}: {spec.name} has {prod(shape):,} elements at max "
                f"{list(shape)}; TensorRT takes {MAX_ELEMENTS:,}",
                remedy="lower the batch or the sequence, or export with last_token_logits: true"
                if spec.name == "logits"
                else "lower the batch or the sequence",
            )
