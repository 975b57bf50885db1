"""Reads a quantised checkpoint with numpy alone: bytes, JSON and arithmetic.

It shares no code with llmopt and knows only the formats' public descriptions: AutoGPTQ's
version 1 with GPTQModel's `dynamic`, and compressed-tensors' pack-quantized with any config
groups. What it makes of a checkpoint is what any other loader would.
"""

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
NUMPY_DTYPES = {
    "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "<u1",
    "I8": "<i1", "F8_E4M3": "<u1",
}  # fmt: skip


def list_float8_values() -> NDArray[np.float32]:
    """The value of each of the 256 bytes: sign, 4 bits of exponent (bias 7), 3 of mantissa."""
    bits = np.arange(128)
    exponent, mantissa = bits >> 3, (bits & 7) / 8
    normal = (1 + mantissa) * 2.0 ** (exponent - 7.0)
    values = np.where(exponent == 0, mantissa * 2.0**-6, normal)
    values[127] = np.nan
    return np.concatenate([values, -values]).astype(np.float32)


FLOAT8_VALUES = list_float8_values()


@dataclass(frozen=True)
class RawTensor:
    """A tensor's bytes as a file holds them, and what its header calls them."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def to_numpy(self) -> Array:
        """Returns the values; bfloat16 and float8, which numpy lacks, as float32."""
        values = np.frombuffer(self.data, NUMPY_DTYPES[self.dtype])
        if self.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        if self.dtype == "F8_E4M3":
            values = FLOAT8_VALUES[values]
        return values.reshape(self.shape)


@dataclass(frozen=True)
class Layer:
    """One linear layer: stored integers [O, I] in 0..2^bits-1, and their weights [O, I]."""

    integers: NDArray[np.int64]
    weights: NDArray[np.float32]


def read_safetensors(path: Path) -> dict[str, RawTensor]:
    """Reads every tensor of one file."""
    blob = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + header_bytes])
    header.pop("__metadata__", None)
    data = blob[8 + header_bytes :]
    tensors = {}
    for name, record in header.items():
        begin, end = record["data_offsets"]
        tensors[name] = RawTensor(record["dtype"], tuple(record["shape"]), data[begin:end])
    return tensors


def read_folder(folder: Path) -> dict[str, RawTensor]:
    """Reads every tensor of a checkpoint, sharded or not."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(folder / "model.safetensors")
    weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    shards = {name: read_safetensors(folder / name) for name in set(weight_map.values())}
    return {name: shards[shard][name] for name, shard in weight_map.items()}


def dequantize_folder(folder: Path) -> dict[str, Layer]:
    """Returns every quantised linear layer of a checkpoint by its name."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    quantization = config["quantization_config"]
    arrays = {name: tensor.to_numpy() for name, tensor in read_folder(folder).items()}
    if quantization["quant_method"] == "gptq":
        suffix, dequantize = ".qweight", dequantize_gptq
    elif quantization["format"] in ("int-quantized", "float-quantized"):
        suffix, dequantize = ".weight_scale", dequantize_w8a8
    else:
        suffix, dequantize = ".weight_packed", dequantize_pack_quantized
    layers = [name.removesuffix(suffix) for name in arrays if name.endswith(suffix)]
    return {layer: dequantize(arrays, layer, quantization) for layer in sorted(layers)}


def dequantize_gptq(arrays: dict[str, Array], layer: str, config: dict[str, Any]) -> Layer:
    """weight[o, i] = scales[g, o] * (q[i, o] - (qzeros[g, o] + 1)), g = g_idx[i]."""
    bits = find_gptq_settings(layer, config)["bits"]
    q_IO = unpack_stream(arrays[f"{layer}.qweight"].T, bits).T
    zeros_GO = (unpack_stream(arrays[f"{layer}.qzeros"], bits) + 1) % 2**bits
    scales_GO = arrays[f"{layer}.scales"].astype(np.float32)
    group_I = arrays[f"{layer}.g_idx"]
    weights_IO = scales_GO[group_I] * (q_IO - zeros_GO[group_I]).astype(np.float32)
    return Layer(q_IO.T, weights_IO.T)


def dequantize_pack_quantized(
    arrays: dict[str, Array], layer: str, config: dict[str, Any]
) -> Layer:
    """weight[o, i] = scale[o, g] * (q[o, i] - zero_point[o, g]), both signed, g = g_idx[i]."""
    scheme = find_compressed_scheme(layer, config)
    bits, offset = scheme["num_bits"], 2 ** (scheme["num_bits"] - 1)
    num_rows, num_columns = arrays[f"{layer}.weight_shape"]
    q_OI = unpack_stream(arrays[f"{layer}.weight_packed"], bits)[:, :num_columns] - offset
    scales_OG = arrays[f"{layer}.weight_scale"].astype(np.float32)
    zeros_OG = np.zeros(scales_OG.shape, np.int64)
    if not scheme["symmetric"]:
        packed = arrays[f"{layer}.weight_zero_point"]
        zeros_OG = unpack_stream(packed.T, bits).T[:num_rows] - offset
    if scheme["strategy"] == "channel":
        group_I = np.zeros(num_columns, np.int64)
    elif scheme["actorder"] == "group":
        group_I = arrays[f"{layer}.weight_g_idx"]
    else:
        group_I = np.arange(num_columns) // scheme["group_size"]
    weights_OI = scales_OG[:, group_I] * (q_OI - zeros_OG[:, group_I]).astype(np.float32)
    return Layer(q_OI + offset, weights_OI)


def dequantize_w8a8(arrays: dict[str, Array], layer: str, config: dict[str, Any]) -> Layer:
    """weight[o, i] = stored[o, i] * scale[o, 0]; `integers` are what is stored, plus 128."""
    scheme = find_compressed_scheme(layer, config)
    assert (scheme["num_bits"], scheme["strategy"], scheme["symmetric"]) == (8, "channel", True)
    stored = arrays[f"{layer}.weight"]
    weights = stored.astype(np.float32) * arrays[f"{layer}.weight_scale"].astype(np.float32)
    return Layer(stored.astype(np.int64) + 128, weights)


def find_gptq_settings(layer: str, config: dict[str, Any]) -> dict[str, Any]:
    """The first `dynamic` pattern that the layer's name begins with changes the settings."""
    for pattern, changes in config.get("dynamic", {}).items():
        assert pattern[:2] in ("+:", "-:")
        if re.match(pattern[2:], layer):
            assert pattern[0] == "+", f"{layer} is quantised, but {pattern} leaves it out"
            return {**config, **changes}
    return config


def find_compressed_scheme(layer: str, config: dict[str, Any]) -> dict[str, Any]:
    """A group that names the layer comes before the one for the whole class."""
    assert layer not in config["ignore"]
    groups = config["config_groups"].values()
    for target in (layer, "Linear"):
        for group in groups:
            if target in group["targets"]:
                weights: dict[str, Any] = group["weights"]
                return weights
    raise AssertionError(f"no group for {layer}")


def unpack_stream(words: Array, bits: int) -> NDArray[np.int64]:
    """Unpacks int32 words [R, W] that hold integers end to end along their last axis."""
    as_bytes = np.ascontiguousarray(words.astype("<i4")).view(np.uint8)
    rows = as_bytes.reshape(words.shape[0], -1)
    count = 32 * words.shape[1] // bits * bits
    flags = np.unpackbits(rows, axis=1, bitorder="little", count=count)
    stream = flags.reshape(words.shape[0], -1, bits)
    return (stream.astype(np.int64) << np.arange(bits)).sum(axis=-1)
