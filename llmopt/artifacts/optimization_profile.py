"""The sizes that an engine is built for: one profile names minimum, optimum and maximum."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from llmopt.artifacts.tensor_spec import TensorSpec

POINTS = ("min", "opt", "max")
Shape = tuple[int, ...]


class AxisRange(BaseModel):
    """Sizes of one axis."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    min: int
    opt: int
    max: int

    @property
    def points(self) -> tuple[int, int, int]:
        """Minimum, optimum and maximum."""
        return self.min, self.opt, self.max

    def __str__(self) -> str:
        return ":".join(map(str, self.points))


class OptimizationProfile(BaseModel):
    """Ranges of the dynamic axes by name; axes of one name have one size, whatever the input."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    axes: dict[str, AxisRange]

    def shapes(self, spec: TensorSpec) -> tuple[Shape, Shape, Shape]:
        """Returns a tensor's shape at minimum, optimum and maximum."""
        low, best, high = (self.sizes_at(point) for point in POINTS)
        return (spec.shape_of(low), spec.shape_of(best), spec.shape_of(high))

    def sizes_at(self, point: str) -> dict[str, int]:
        """Returns the size of each dynamic axis at `min`, `opt` or `max`."""
        return {name: int(getattr(sizes, point)) for name, sizes in self.axes.items()}

    def contains(self, sizes: Mapping[str, int]) -> bool:
        """Tells whether a request of these sizes, axis by axis, is inside the profile."""
        return all(
            axis.min <= sizes[name] <= axis.max for name, axis in self.axes.items() if name in sizes
        )


def dynamic_axes(specs: Sequence[TensorSpec]) -> list[str]:
    """Lists the names of the dynamic axes, each once, in order."""
    return list(dict.fromkeys(a.name for spec in specs for a in spec.axes if a.is_dynamic))
