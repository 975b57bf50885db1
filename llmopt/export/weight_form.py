"""How a linear layer's weight stands in an ONNX graph: plain, or as the integers it is stored in.

A layer y = x Wᵀ whose weight is scale * (q - zero) becomes, with m the middle of the grid,

    x[perm] · Dequantize(q - m)  +  group sums of x[perm] · (-scale * (zero - m))

The second term is left out where every zero is m, the gather where no column left its place. All
of it is exact, and of operators that TensorRT has too (it takes no zero points).

Shapes: I = in_features, O = out_features, G = groups along the input, N = values per group.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir
import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.packed_weight import PackedWeight
from llmopt.errors import IncompatibleError
from llmopt.export.graph_edits import (
    CONTRIB_DOMAIN,
    add_integers,
    add_lazy_initializer,
    insert_node,
    onnx_dtype,
)

NBITS_BLOCKS = (128, 64, 32, 16)  # of MatMulNBits, where one scale holds for a whole row


@dataclass(frozen=True)
class IntegerLayer:
    """A packed linear layer, not yet read.

    Attributes:
        name: In the checkpoint.
        scheme: How it was quantised.
        shape_OI: Of its weight.
        read: Reads it.
    """

    name: str
    scheme: QuantScheme
    shape_OI: tuple[int, int]
    read: Callable[[], PackedWeight]

    @property
    def width(self) -> int:
        """Bits that an integer takes in the graph: 2 and 3 bits are stored as 4."""
        return 8 if self.scheme.bits == 8 else 4

    @property
    def num_groups(self) -> int:
        """Groups along the input."""
        return self.scheme.num_groups(self.shape_OI[1])

    @property
    def group_length(self) -> int:
        """Values in a group.

        Raises:
            IncompatibleError: Groups differ in length.
        """
        length, rest = divmod(self.shape_OI[1], self.num_groups)
        if rest:
            raise IncompatibleError(
                f"{self.name}: {self.shape_OI[1]} input features are no whole number of groups of "
                f"{self.scheme.group_size}",
                remedy="export it with weights: dequantised",
            )
        return length

    @cached_property
    def permutation(self) -> Tensor | None:
        """The order of the input features that puts groups one after another; None if they are.

        Raises:
            IncompatibleError: Groups differ in length.
        """
        if not self.scheme.has_moved_groups:
            return None
        g_idx_I = self.read().g_idx_I.long()
        if not bool((g_idx_I.bincount(minlength=self.num_groups) == self.group_length).all()):
            raise IncompatibleError(
                f"{self.name}: act-order groups differ in length",
                remedy="export it with weights: dequantised",
            )
        return g_idx_I.argsort(stable=True)

    def read_steps(self) -> Tensor:
        """Reads q - m, int8 [I, O], groups one after another."""
        weight = self.read()
        q_IO = weight.q_IO if self.permutation is None else weight.q_IO[self.permutation]
        return (q_IO.to(torch.int16) - self.scheme.midpoint).to(torch.int8)

    def read_zero_steps(self) -> Tensor:
        """Reads zero - m, float32 [G, O]."""
        return self.read().zeros_GO.float() - self.scheme.midpoint

    def read_scales(self) -> Tensor:
        """Reads the scales, float32 [G, O]."""
        return self.read().scales_GO.float()


def gather_groups(graph: ir.Graph, node: ir.Node, layer: IntegerLayer, x: ir.Value) -> ir.Value:
    """Puts the input features of an act-ordered layer into the order of their groups."""
    if layer.permutation is None:
        return x
    perm = add_integers(graph, f"{layer.name}.perm", layer.permutation.tolist())
    return insert_node(graph, node, "Gather", [x, perm], f"{layer.name}/gather", axis=-1)


def write_dequantized_product(
    graph: ir.Graph, node: ir.Node, layer: IntegerLayer, dtype: torch.dtype
) -> ir.Value:
    """Writes a product with `DequantizeLinear` before a MatMul; returns its result.

    Source: ONNX operators, DequantizeLinear-21 (`block_size`).
    """
    name, (num_out, num_in) = layer.name, layer.shape_OI
    x = gather_groups(graph, node, layer, _input_of(node))
    stored = ir.DataType.INT8 if layer.width == 8 else ir.DataType.INT4
    steps = add_lazy_initializer(
        graph, f"{name}.weight_steps", (num_in, num_out), stored, layer.read_steps
    )
    by_channel = layer.num_groups == 1
    scales = add_lazy_initializer(
        graph,
        f"{name}.weight_scale",
        (num_out,) if by_channel else (layer.num_groups, num_out),
        onnx_dtype(dtype),
        lambda: (layer.read_scales()[0] if by_channel else layer.read_scales()).to(dtype),
    )
    blocks = {"axis": 1} if by_channel else {"axis": 0, "block_size": layer.group_length}
    weight = insert_node(
        graph, node, "DequantizeLinear", [steps, scales], f"{name}/dequantize", **blocks
    )
    y = insert_node(graph, node, "MatMul", [x, weight], f"{name}/product")
    return y if layer.scheme.sym else _correct_zeros(graph, node, layer, dtype, x, y)


def _correct_zeros(
    graph: ir.Graph,
    node: ir.Node,
    layer: IntegerLayer,
    dtype: torch.dtype,
    x: ir.Value,
    y: ir.Value,
) -> ir.Value:
    name = layer.name
    groups = add_integers(
        graph, f"{name}.group_shape", [0, 0, layer.num_groups, layer.group_length]
    )
    grouped = insert_node(graph, node, "Reshape", [x, groups], f"{name}/groups")
    last = add_integers(graph, f"{name}.last_axis", [-1])
    sums = insert_node(graph, node, "ReduceSum", [grouped, last], f"{name}/group_sums", keepdims=0)
    offsets = add_lazy_initializer(
        graph,
        f"{name}.weight_offset",
        (layer.num_groups, layer.shape_OI[0]),
        onnx_dtype(dtype),
        lambda: (-layer.read_scales() * layer.read_zero_steps()).to(dtype),
    )
    shift = insert_node(graph, node, "MatMul", [sums, offsets], f"{name}/shift")
    return insert_node(graph, node, "Add", [y, shift], f"{name}/shifted")


def write_nbits_product(
    graph: ir.Graph, node: ir.Node, layer: IntegerLayer, dtype: torch.dtype
) -> ir.Value:
    """Writes a product as onnxruntime's `MatMulNBits`; returns its result.

    Source: onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulNBits.
    """
    name, (num_out, num_in) = layer.name, layer.shape_OI
    length = _nbits_block(layer)
    repeats, num_blocks = layer.group_length // length, num_in // length
    x = gather_groups(graph, node, layer, _input_of(node))
    weight = add_lazy_initializer(
        graph,
        f"{name}.weight_nbits",
        (num_out, num_blocks, length * layer.width // 8),
        ir.DataType.UINT8,
        lambda: _pack_low_first(
            (layer.read_steps().T.to(torch.int16) + _nbits_midpoint(layer)).to(torch.uint8),
            layer.width,
        ).reshape(num_out, num_blocks, -1),
    )
    scales = add_lazy_initializer(
        graph,
        f"{name}.weight_scale",
        (num_out, num_blocks),
        onnx_dtype(dtype),
        lambda: layer.read_scales().repeat_interleave(repeats, 0).T.to(dtype),
    )
    inputs = [x, weight, scales]
    if not layer.scheme.sym:
        inputs.append(_add_nbits_zeros(graph, layer, num_blocks, repeats))
    attributes = {"K": num_in, "N": num_out, "bits": layer.width, "block_size": length}
    graph.opset_imports[CONTRIB_DOMAIN] = 1
    return insert_node(graph, node, "MatMulNBits", inputs, f"{name}/product", **attributes)


def _add_nbits_zeros(
    graph: ir.Graph, layer: IntegerLayer, num_blocks: int, repeats: int
) -> ir.Value:
    def read() -> Tensor:
        zeros_OG = (layer.read_zero_steps().T + _nbits_midpoint(layer)).to(torch.uint8)
        return _pack_low_first(zeros_OG.repeat_interleave(repeats, 1), layer.width)

    num_bytes = -(-num_blocks * layer.width // 8)
    shape = (layer.shape_OI[0], num_bytes)
    return add_lazy_initializer(graph, f"{layer.name}.weight_zero", shape, ir.DataType.UINT8, read)


def _nbits_midpoint(layer: IntegerLayer) -> int:
    return 1 << (layer.width - 1)


def _nbits_block(layer: IntegerLayer) -> int:
    """Returns MatMulNBits' block: a power of two from 16 on that divides a group."""
    length = layer.group_length
    fitting = [size for size in NBITS_BLOCKS if length % size == 0]
    if not fitting:
        raise IncompatibleError(
            f"{layer.name}: groups of {length} are no multiple of 16, which MatMulNBits needs",
            remedy="export it with weights: qdq_int4 or dequantised",
        )
    return fitting[0]


def _pack_low_first(values: Tensor, width: int) -> Tensor:
    """Packs uint8 integers along the last axis, two to a byte at 4 bits, the first one low."""
    if width == 8:
        return values
    if values.shape[-1] % 2:
        values = torch.nn.functional.pad(values, (0, 1))
    return values[..., 0::2] | (values[..., 1::2] << 4)


def _input_of(node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    assert x is not None
    return x
