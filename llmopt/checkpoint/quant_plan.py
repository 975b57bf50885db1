"""Which linear layer is rounded how: one base scheme and the layers that differ; no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llmopt.artifacts.quant_scheme import QuantScheme

OUTPUT_LAYER = "lm_head"
OUTPUT_WEIGHT = f"{OUTPUT_LAYER}.weight"


@dataclass(frozen=True)
class QuantPlan:
    """A decision for every linear layer of a model.

    Attributes:
        base: The scheme of every layer that nothing else is said of.
        schemes: Each decoder block's layers by full name, in the model's order, and `lm_head`
            where it is rounded too; None leaves a layer as it is.
        routers: The routers of mixtures by full name: they are never rounded, and servers must
            be told so.
    """

    base: QuantScheme
    schemes: Mapping[str, QuantScheme | None]
    routers: tuple[str, ...] = ()

    @property
    def rounds_output_layer(self) -> bool:
        """Whether `lm_head` is rounded."""
        return self.schemes.get(OUTPUT_LAYER) is not None

    def rounded(self) -> Iterator[tuple[str, QuantScheme]]:
        """Yields the layers that are rounded, in the model's order."""
        for name, scheme in self.schemes.items():
            if scheme is not None:
                yield name, scheme

    def exceptions(self) -> Iterator[tuple[str, QuantScheme | None]]:
        """Yields the layers whose scheme is not the base, in the model's order, then routers."""
        for name, scheme in self.schemes.items():
            if scheme != self.base:
                yield name, scheme
        for name in self.routers:
            yield name, None
