"""How the linear layers of a quantised checkpoint are stored, layer by layer; no torch.

Shapes: O = out_features, I = in_features, G = groups along the input.
"""

import re
from dataclasses import dataclass
from typing import Literal

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.bitsandbytes_format import (
    BitsAndBytesScheme,
    QuantType,
    plan_bitsandbytes_tensors,
)
from llmopt.checkpoint.packed_words import WORD_BITS, count_words
from llmopt.checkpoint.w8a8_format import ScaleGrid, W8A8Format, plan_w8a8_tensors
from llmopt.errors import InputError

QuantFormat = Literal["gptq", "compressed-tensors"]  # what a recipe asks for
LayerFormat = Literal["gptq", "gptq_v2", "pack-quantized"]
TensorShapes = dict[str, tuple[str, tuple[int, ...] | None]]  # None: known from the file alone


@dataclass(frozen=True)
class StoredLayer:
    """A linear layer of integers packed into words: its layout, and what they mean.

    Attributes:
        format: The layout.
        scheme: What the integers mean.
        has_g_idx: Whether GPTQ's `g_idx` is stored; AutoRound leaves it out.
    """

    format: LayerFormat
    scheme: QuantScheme
    has_g_idx: bool = True

    @property
    def description(self) -> str:
        """A few words: width and group size."""
        return f"{self.scheme.bits} bits group {self.scheme.group_size}"


@dataclass(frozen=True)
class ChannelLayer:
    """A linear layer of 8-bit values; llmopt's own have one scale per output channel.

    Attributes:
        format: Integers or float8.
        rounds_inputs: Whether servers round its inputs to the same kind of number (W8A8), or
            leave them as they are (W8A16).
        scales: What shares one scale of the weight.
        block_shape: With scales per block, its rows and columns.
        input_group_size: How many features of a token share a scale; None: all of them.
        has_input_scale: Whether one stored scale holds for all inputs, instead of each token's.
    """

    format: W8A8Format
    rounds_inputs: bool
    scales: ScaleGrid = "channel"
    block_shape: tuple[int, int] | None = None
    input_group_size: int | None = None
    has_input_scale: bool = False

    @property
    def description(self) -> str:
        """A few words: kind of number, and whether activations are rounded too."""
        kind = "int8" if self.format == "int-quantized" else "float8"
        grid = "" if self.scales == "channel" else f" per {self.scales}"
        return f"{kind} {'W8A8' if self.rounds_inputs else 'W8A16'}{grid}"


@dataclass(frozen=True)
class NibbleLayer:
    """A linear layer in bitsandbytes' 4-bit format."""

    quant_type: QuantType
    double_quant: bool

    @property
    def description(self) -> str:
        """A few words: what 4 bits stand for."""
        return f"4 bits {self.quant_type}"


LayerStorage = StoredLayer | ChannelLayer | NibbleLayer


@dataclass(frozen=True)
class LayerRule:
    """What holds for the layers whose full name begins as `pattern` says; None: not quantised."""

    pattern: re.Pattern[str]
    layer: LayerStorage | None


@dataclass(frozen=True)
class StoredQuantization:
    """What a quantised checkpoint says of itself.

    Attributes:
        method: The `quant_method` in config.json.
        base: How a layer is stored that no rule speaks of; None: not quantised.
        rules: The first one that matches decides.
    """

    method: str
    base: LayerStorage | None
    rules: tuple[LayerRule, ...] = ()

    def find_layer(self, name: str) -> LayerStorage | None:
        """Returns how a linear layer, given by its full name, is stored; None: as plain weights."""
        for rule in self.rules:
            if rule.pattern.match(name):
                return rule.layer
        return self.base

    @property
    def description(self) -> str:
        """A few words: the method and every way in which layers are stored."""
        layers = [self.base, *(rule.layer for rule in self.rules)]
        kinds = dict.fromkeys(layer.description for layer in layers if layer is not None)
        return f"{self.method} {', '.join(kinds)}".rstrip()


def match_exactly(name: str) -> re.Pattern[str]:
    """Returns a pattern that only this layer's name matches."""
    return re.compile(re.escape(name) + r"\Z")


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compiles a checkpoint's own regular expression.

    Raises:
        InputError: It is none.
    """
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(
            f"quantization_config: {text!r} is no regular expression: {error}"
        ) from None


def expected_tensors(
    stored: LayerStorage, shape_OI: tuple[int, int], scale_dtype: str
) -> TensorShapes:
    """Returns the tensors of one quantised layer: suffix → (safetensors dtype, shape)."""
    if isinstance(stored, ChannelLayer):
        return _channel_shapes(stored, shape_OI, scale_dtype)
    if isinstance(stored, NibbleLayer):
        return _bitsandbytes_shapes(stored, shape_OI)
    if stored.format == "pack-quantized":
        return _pack_quantized_shapes(stored.scheme, *shape_OI, scale_dtype)
    shapes = _gptq_shapes(stored.scheme, *shape_OI)
    return shapes if stored.has_g_idx else {k: v for k, v in shapes.items() if k != "g_idx"}


def _channel_shapes(
    stored: ChannelLayer, shape_OI: tuple[int, int], scale_dtype: str
) -> TensorShapes:
    plans = plan_w8a8_tensors(stored.format, shape_OI, scale_dtype)
    shapes: TensorShapes = {name: (plan.dtype, plan.shape) for name, plan in plans.items()}
    if stored.block_shape is not None:
        blocks = zip(shape_OI, stored.block_shape, strict=True)
        shapes["weight_scale"] = (scale_dtype, tuple(-(-size // step) for size, step in blocks))
    elif stored.scales == "tensor":
        shapes["weight_scale"] = (scale_dtype, (1,))
    if stored.has_input_scale:
        shapes["input_scale"] = (scale_dtype, (1,))
    return shapes


def _bitsandbytes_shapes(layer: NibbleLayer, shape_OI: tuple[int, int]) -> TensorShapes:
    """The block size stands in each layer's state, so scales are of any length here."""
    scheme = BitsAndBytesScheme(layer.quant_type, layer.double_quant, block_size=1)
    plans = plan_bitsandbytes_tensors(scheme, shape_OI)
    free = ("weight.absmax", "weight.nested_absmax")
    return {name: (p.dtype, None if name in free else p.shape) for name, p in plans.items()}


def _gptq_shapes(scheme: QuantScheme, out_features: int, in_features: int) -> TensorShapes:
    groups = scheme.num_groups(in_features)
    return {
        "qweight": ("I32", (in_features * scheme.bits // WORD_BITS, out_features)),
        "qzeros": ("I32", (groups, out_features * scheme.bits // WORD_BITS)),
        "scales": ("F16", (groups, out_features)),
        "g_idx": ("I32", (in_features,)),
    }


def _pack_quantized_shapes(
    scheme: QuantScheme, out_features: int, in_features: int, scale_dtype: str
) -> TensorShapes:
    groups = scheme.num_groups(in_features)
    shapes: TensorShapes = {
        "weight_packed": ("I32", (out_features, count_words(in_features, scheme.bits))),
        "weight_scale": (scale_dtype, (out_features, groups)),
        "weight_shape": ("I64", (2,)),
    }
    if not scheme.sym:
        words = count_words(out_features, scheme.bits)
        shapes["weight_zero_point"] = ("I32", (words, groups))
    if scheme.has_moved_groups:
        shapes["weight_g_idx"] = ("I32", (in_features,))
    return shapes
