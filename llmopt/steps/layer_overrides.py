"""Which layers a quantisation rounds otherwise than its own fields say, or not at all."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llmopt.artifacts.quant_scheme import Bits, GroupSize, QuantScheme
from llmopt.checkpoint.checkpoint import linear_names, router_names
from llmopt.checkpoint.layer_patterns import compile_layers
from llmopt.checkpoint.model_config import ModelConfig
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, QuantPlan
from llmopt.errors import IncompatibleError, RecipeError


class LayerOverride(BaseModel):
    """Another scheme for the layers that a pattern names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: str = Field(
        min_length=1,
        description="Full layer names: a glob such as *.mlp.down_proj, or re: and a regular "
        "expression, either of which must match the whole name.",
    )
    skip: bool = Field(False, description="Leave these layers as they are.")
    bits: Bits | None = Field(None, description="Bits per weight.")
    group_size: GroupSize | None = Field(
        None, description="Input features that share a scale; -1 is one per output channel."
    )
    sym: bool | None = Field(None, description="Symmetric grid, fixed zero point.")

    @field_validator("layers")
    @classmethod
    def _check_pattern(cls, layers: str) -> str:
        compile_layers(layers)
        return layers

    @model_validator(mode="after")
    def _check_changes(self) -> "LayerOverride":
        changes = self.changes()
        if self.skip and changes:
            raise ValueError(f"skip leaves the layers as they are, but {', '.join(changes)} is set")
        if not self.skip and not changes:
            raise ValueError("says nothing: set skip, bits, group_size or sym")
        return self

    def apply(self, base: QuantScheme) -> QuantScheme | None:
        """Returns the scheme of the layers it names, None where they are left as they are."""
        if self.skip:
            return None
        return replace(
            base,
            bits=base.bits if self.bits is None else self.bits,
            group_size=base.group_size if self.group_size is None else self.group_size,
            sym=base.sym if self.sym is None else self.sym,
        )

    def changes(self) -> dict[str, int | bool]:
        """Returns the fields of the scheme that it sets."""
        fields = {"bits": self.bits, "group_size": self.group_size, "sym": self.sym}
        return {name: value for name, value in fields.items() if value is not None}


def build_plan(
    config: ModelConfig,
    base: QuantScheme,
    overrides: Sequence[LayerOverride] = (),
    *,
    lm_head: bool = False,
) -> QuantPlan:
    """Decides for every layer: the first override whose pattern matches holds, else `base`.

    Raises:
        RecipeError: A pattern matches no layer, or none that entries before it leave, or
            every layer is skipped.
        IncompatibleError: `lm_head` is asked for, but its weights are the embeddings'.
    """
    if lm_head and config.tie_word_embeddings:
        raise IncompatibleError(
            f"{config.folder}: lm_head shares its weights with the embeddings "
            "(tie_word_embeddings), which are not rounded",
            remedy="set lm_head: false",
        )
    names = _layer_names(config, lm_head=lm_head)
    patterns = [(compile_layers(override.layers), override) for override in overrides]
    for pattern, override in patterns:
        if not any(pattern.fullmatch(name) for name in names):
            raise RecipeError(
                f"overrides: {override.layers!r} matches no layer that is quantised",
                remedy="set lm_head: true"
                if pattern.fullmatch(OUTPUT_LAYER) and not config.tie_word_embeddings
                else f"layers are named {', '.join(_examples(names))}, ...",
            )
    schemes: dict[str, QuantScheme | None] = dict.fromkeys(names, base)
    used = set()
    for name in names:
        for index, (pattern, override) in enumerate(patterns):
            if pattern.fullmatch(name):
                schemes[name] = override.apply(base)
                used.add(index)
                break
    _check_effect(overrides, used, schemes)
    return QuantPlan(base, schemes, tuple(router_names(config)))


def _check_effect(
    overrides: Sequence[LayerOverride],
    used: Collection[int],
    schemes: Mapping[str, QuantScheme | None],
) -> None:
    for index, override in enumerate(overrides):
        if index not in used:
            raise RecipeError(
                f"overrides: every layer that {override.layers!r} matches is matched by an entry "
                "before it, so that it has no say",
                remedy="the first entry that matches a layer holds: put the narrower one first",
            )
    if not any(schemes.values()):
        raise RecipeError("overrides: no layer is left to quantise", remedy="skip fewer layers")


def free_layers(
    config: ModelConfig, overrides: Sequence[LayerOverride], *, lm_head: bool
) -> frozenset[str]:
    """Returns the layers that no override speaks of."""
    patterns = [compile_layers(override.layers) for override in overrides]
    return frozenset(
        name
        for name in _layer_names(config, lm_head=lm_head)
        if not any(pattern.fullmatch(name) for pattern in patterns)
    )


def _layer_names(config: ModelConfig, *, lm_head: bool) -> list[str]:
    names = [name for name, _ in linear_names(config)]
    return [*names, OUTPUT_LAYER] if lm_head else names


def _examples(names: list[str]) -> Iterator[str]:
    yield from dict.fromkeys((names[0], names[len(names) // 2 - 1], names[-1]))
