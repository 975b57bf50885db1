"""A tensor at a model's border: one type for ONNX files, engine profiles and server configs."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

DYNAMIC = -1
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


def make_spec(name: str, dtype: TensorDtype, **axes: int) -> TensorSpec:
    """Writes a spec by its axes in order: `make_spec("input_ids", "int64", batch=-1)`."""
    return TensorSpec(
        name=name, dtype=dtype, axes=tuple(Axis(name=key, size=size) for key, size in axes.items())
    )
