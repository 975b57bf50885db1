"""Holds profiles against the model, before a builder sees them.

TensorRT builds many a wrong profile without a word (unknown inputs, sequences beyond the model's
positions, totals that are no sum), or fails with no more than None.
"""

import difflib
from collections.abc import Iterator, Mapping
from math import prod

from llmopt.artifacts.engine_settings import EngineSettings
from llmopt.artifacts.files import format_bytes
from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.optimization_profile import (
    POINTS,
    AxisRange,
    OptimizationProfile,
    dynamic_axes,
)
from llmopt.artifacts.tensor_spec import ITEM_BYTES, PAST, SEQUENCE, TOTAL, TensorSpec
from llmopt.engine.profile_entries import Entry, ProfileEntries, Sizes, check_order
from llmopt.errors import IncompatibleError

MAX_ELEMENTS = 2**31 - 1  # of a tensor, TensorRT's limit


def read_profile(
    name: str, entries: ProfileEntries, description: OnnxDescription
) -> OptimizationProfile:
    """Makes a profile of what a recipe says, and checks it.

    Args:
        name: Of the profile, such as `decode`.
        entries: By axis its sizes, or by input its shapes, at min, opt and max.
        description: The model's inputs and limits.

    Returns:
        The profile, with `total_sequence` as the sum of past and new tokens.

    Raises:
        IncompatibleError: Names profile, input, axis, value, limit and the way out.
    """
    axes = dict(_merge(name, _read_axes(name, entries, description)))
    for axis, (sizes, place) in axes.items():
        try:
            check_order(f"profile {name}: {place}", sizes, 0 if axis == PAST else 1)
        except ValueError as error:
            raise IncompatibleError(str(error)) from None
    given = {axis: AxisRange(min=s[0], opt=s[1], max=s[2]) for axis, (s, _) in axes.items()}
    given = _add_total(name, given, description)
    _check_complete(name, given, description)
    profile = OptimizationProfile(
        name=name, axes={axis: given[axis] for axis in dynamic_axes(description.inputs)}
    )
    _check_positions(profile, description)
    _check_elements(profile, description)
    return profile


def check_workspace(
    profile: OptimizationProfile, description: OnnxDescription, settings: EngineSettings
) -> None:
    """Refuses a scratch memory that the model's largest output alone would fill.

    Raises:
        IncompatibleError: Names the output, its bytes at max, and the limit.
    """
    limit = settings.workspace_bytes
    for spec in description.outputs if limit is not None else ():
        shape = profile.shapes(spec)[-1]
        needed = prod(shape) * ITEM_BYTES[spec.dtype]
        if limit is not None and needed > limit:
            raise IncompatibleError(
                f"profile {profile.name}: {spec.name} takes {format_bytes(needed)} at max "
                f"{_write_shape(spec, shape)} in {spec.dtype}; workspace_gb allows "
                f"{format_bytes(limit)}",
                remedy=f"raise workspace_gb, or {_how_to_shrink(spec)}",
            )


def _read_axes(
    name: str, entries: ProfileEntries, description: OnnxDescription
) -> Iterator[tuple[str, Sizes, str]]:
    """Yields (axis, its three sizes, where that stands)."""
    inputs = {spec.name: spec for spec in description.inputs}
    axes = dynamic_axes(description.inputs)
    for key, entry in entries.items():
        place = f"profile {name}: {key}"
        if key in inputs:
            yield from _read_shapes(place, inputs[key], entry)
        elif key in axes:
            yield key, _require_sizes(place, entry), key
        else:
            near = difflib.get_close_matches(key, [*axes, *inputs], 1)
            known = f"the model's axes are {', '.join(axes)}"
            raise IncompatibleError(
                f"{place} is no dynamic axis or input of the model",
                remedy=f"did you mean {near[0]}? {known}"
                if near
                else f"{known}; its inputs {', '.join(inputs)}",
            )


def _require_sizes(place: str, entry: Entry) -> Sizes:
    low, best, high = entry
    if isinstance(low, tuple) or isinstance(best, tuple) or isinstance(high, tuple):
        raise IncompatibleError(
            f"{place} is an axis, but has shapes: {[list(s) for s in entry]}",  # type: ignore[arg-type]
            remedy="give it a size or [min, opt, max]",
        )
    return low, best, high


def _read_shapes(place: str, spec: TensorSpec, entry: Entry) -> Iterator[tuple[str, Sizes, str]]:
    names = ", ".join(axis.name for axis in spec.axes)
    for point, shape in zip(POINTS, entry, strict=True):
        if not isinstance(shape, tuple):
            raise IncompatibleError(
                f"{place} is an input, but has sizes: {list(entry)}",
                remedy=f"give it three shapes of {len(spec.axes)} sizes ({names})",
            )
        if len(shape) != len(spec.axes):
            raise IncompatibleError(
                f"{place} at {point} is {list(shape)}; the input has {len(spec.axes)} axes "
                f"({names})",
                remedy=f"give {len(spec.axes)} sizes",
            )
    for index, axis in enumerate(spec.axes):
        low, best, high = (shape[index] for shape in entry if isinstance(shape, tuple))
        if axis.is_dynamic:
            yield axis.name, (low, best, high), f"{spec.name}, axis {axis.name}"
        elif {low, best, high} != {axis.size}:
            raise IncompatibleError(
                f"{place}: axis {axis.name} is {low}:{best}:{high}, but the model has it "
                f"fixed at {axis.size}",
                remedy=f"write {axis.size} at min, opt and max",
            )


def _merge(
    name: str, entries: Iterator[tuple[str, Sizes, str]]
) -> Iterator[tuple[str, tuple[Sizes, str]]]:
    seen: dict[str, tuple[Sizes, str]] = {}
    for axis, sizes, place in entries:
        before = seen.setdefault(axis, (sizes, place))
        if before[0] != sizes:
            raise IncompatibleError(
                f"profile {name}: {place} is {':'.join(map(str, sizes))}, but {before[1]} has "
                f"{axis} at {':'.join(map(str, before[0]))}",
                remedy=f"axes of one name have one size: give {axis} once",
            )
    yield from seen.items()


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
    if TOTAL in missing and len(missing) > 1:
        missing.remove(TOTAL)  # it follows from the others
    if missing:
        axis = missing[0]
        names = [s.name for s in description.inputs if axis in {a.name for a in s.axes}]
        raise IncompatibleError(
            f"profile {name} lacks the axis {axis} (of input {names[0]})",
            remedy=f"add {axis}: [min, opt, max]",
        )


def _check_positions(profile: OptimizationProfile, description: OnnxDescription) -> None:
    limit = description.max_position_embeddings
    length = TOTAL if TOTAL in profile.axes else SEQUENCE
    longest = profile.axes[length].max if length in profile.axes else 0
    if longest > limit:
        parts = f" ({PAST} + {SEQUENCE})" if length == TOTAL else ""
        raise IncompatibleError(
            f"profile {profile.name}: {length}{parts} has max {longest}, beyond the model's "
            f"max_position_embeddings {limit}",
            remedy=f"lower it to {limit} or less",
        )


def _check_elements(profile: OptimizationProfile, description: OnnxDescription) -> None:
    for spec in (*description.inputs, *description.outputs):
        shape = profile.shapes(spec)[-1]
        if prod(shape) > MAX_ELEMENTS:
            raise IncompatibleError(
                f"profile {profile.name}: {spec.name} has {prod(shape):,} elements at max "
                f"{_write_shape(spec, shape)}; TensorRT takes {MAX_ELEMENTS:,}",
                remedy=_how_to_shrink(spec),
            )


def _write_shape(spec: TensorSpec, shape: tuple[int, ...]) -> str:
    return " × ".join(f"{a.name} {n}" for a, n in zip(spec.axes, shape, strict=True))


def _how_to_shrink(spec: TensorSpec) -> str:
    lower = "lower the batch or the sequence"
    return f"{lower}, or export with last_token_logits: true" if spec.name == "logits" else lower
