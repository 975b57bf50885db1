"""A tensor at a model's border: one type for ONNX files, engine profiles and server configs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

DYNAMIC = -1
# Axes that a request decides: rows, new tokens, tokens in the cache, and both together.
BATCH, SEQUENCE = "batch", "sequence"
PAST, TOTAL = "past_sequence", "total_sequence"
TensorDtype = Literal[
    "float32", "float16", "bfloat16", "int64", "int32", "uint32", "bool", "string"
]
# Strings have no fixed size.
ITEM_BYTES: Mapping[TensorDtype, int] = {
    "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "uint32": 4, "bool": 1,
}  # fmt: skip


class Axis(BaseModel):
    """One axis of a tensor: its name, and its size or -1 where a request decides it.

    Axes of one name have one size in a request, whatever tensor they belong to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    size: int = DYNAMIC

    @property
    def is_dynamic(self) -> bool:
        """Whether a request decides the size."""
        return self.size == DYNAMIC


class TensorSpec(BaseModel):
    """A named input or output."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    dtype: TensorDtype
    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes, -1 for dynamic ones."""
        return tuple(axis.size for axis in self.axes)

    def shape_of(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Returns the shape where a request decides the dynamic axes so."""
        return tuple(sizes[axis.name] if axis.is_dynamic else axis.size for axis in self.axes)


@dataclass(frozen=True)
class FoundTensor:
    """A tensor as a file or a library has it.

    Attributes:
        name: Of the tensor.
        dtype: In our terms, or in its own where we have none.
        shape: -1 for a size that a request decides; None where it is not known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None

    def fits(self, spec: TensorSpec, *, is_inferred: bool) -> bool:
        """Tells whether it is what a description says; an inferred size may be left open."""
        if self.dtype != spec.dtype or self.shape is None:
            return self.dtype == spec.dtype
        return len(self.shape) == len(spec.shape) and all(
            found == said or (is_inferred and found == DYNAMIC)
            for found, said in zip(self.shape, spec.shape, strict=True)
        )


def describe_differences(
    side: Literal["input", "output"],
    expected: Sequence[TensorSpec],
    found: Sequence[FoundTensor],
    *,
    is_inferred: bool = False,
) -> Iterator[str]:
    """Yields in what tensors differ from their description, one sentence each.

    Args:
        side: What they are.
        expected: What the description says.
        found: What is there, in any order.
        is_inferred: Whether -1 may stand for a fixed size that could not be inferred.
    """
    left = {tensor.name: tensor for tensor in found}
    for spec in expected:
        tensor = left.pop(spec.name, None)
        if tensor is None:
            yield f"{side} {spec.name} is missing"
        elif not tensor.fits(spec, is_inferred=is_inferred):
            there = tensor.dtype if tensor.shape is None else f"{tensor.dtype} {[*tensor.shape]}"
            yield f"{side} {spec.name} is {there}, not {spec.dtype} {[*spec.shape]}"
    yield from (f"{side} {name} is one too many" for name in left)


def make_spec(name: str, dtype: TensorDtype, **axes: int) -> TensorSpec:
    """Writes a spec by its axes in order: `make_spec("input_ids", "int64", batch=-1)`."""
    return TensorSpec(
        name=name, dtype=dtype, axes=tuple(Axis(name=key, size=size) for key, size in axes.items())
    )
