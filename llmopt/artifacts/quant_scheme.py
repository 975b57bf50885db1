"""The weight-quantisation scheme, free of torch so that recipes and preflight can hold it."""

from dataclasses import dataclass
from typing import Literal, get_args

ScaleSearch = Literal["minmax", "mse"]
Bits = Literal[2, 3, 4, 8]
GroupSize = Literal[-1, 32, 64, 128]  # -1: one group per output channel
SUPPORTED_BITS: tuple[int, ...] = get_args(Bits)
SUPPORTED_GROUP_SIZES: tuple[int, ...] = get_args(GroupSize)


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """How a linear layer's weights are rounded to integers.

    Attributes:
        bits: Width of a weight's integer.
        group_size: Input features that share one scale; -1 is one group per output channel.
        sym: Whether the grid is symmetric about zero (fixed zero point 2^(bits-1)).
        desc_act: Whether columns are rounded, and grouped, by falling Hessian diagonal
            (GPTQ's act-order: a stored `g_idx` that is not monotonic).
        static_groups: Whether grids are fitted to the original weights of the groups as they
            stand; whatever the order of the columns, they then keep those groups, so that
            `g_idx` stays monotonic and any server takes it.
    """

    bits: int
    group_size: int
    sym: bool = True
    desc_act: bool = False
    static_groups: bool = False

    def __post_init__(self) -> None:
        if self.bits not in SUPPORTED_BITS:
            raise ValueError(f"bits is {self.bits}; supported: {_join(SUPPORTED_BITS)}")
        if self.group_size not in SUPPORTED_GROUP_SIZES:
            allowed = _join(SUPPORTED_GROUP_SIZES)
            raise ValueError(f"group_size is {self.group_size}; supported: {allowed}")

    @property
    def max_q(self) -> int:
        """The largest stored integer, 2^bits - 1."""
        return (1 << self.bits) - 1

    @property
    def has_moved_groups(self) -> bool:
        """Whether a column's group depends on act-order, so that readers need `g_idx`."""
        return self.desc_act and self.group_size != -1 and not self.static_groups

    @property
    def midpoint(self) -> int:
        """The stored integer that stands for zero in a symmetric grid, 2^(bits-1)."""
        return 1 << (self.bits - 1)

    def num_groups(self, in_features: int) -> int:
        """Groups along the input of a layer; a last group may be short."""
        if self.group_size == -1:
            return 1
        return -(-in_features // self.group_size)

    def group_bounds(self, in_features: int) -> list[tuple[int, int]]:
        """Returns (first, last) of each group of consecutive columns."""
        size = in_features if self.group_size == -1 else self.group_size
        return [(a, min(a + size, in_features)) for a in range(0, in_features, size)]


def _join(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values)
