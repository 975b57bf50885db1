"""Slices give the bytes that bitsandbytes gives for the whole tensor."""

from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import QuantState, quantize_4bit
from torch import Tensor

from llmopt.checkpoint.bitsandbytes_format import BitsAndBytesScheme
from llmopt.checkpoint.safetensors_header import read_header
from llmopt.checkpoint.tensor_files import write_tensors
from llmopt.errors import InputError
from llmopt.quant import nf4
from llmopt.quant.nf4 import Nf4Codec

CPU = torch.device("cpu")
NAME = "model.layers.0.mlp.up_proj.weight"

pytestmark = pytest.mark.usefixtures("one_thread")


def decode(words: Tensor, state: QuantState) -> Tensor:
    """Decodes a layer by arithmetic: value of the code times the block's scale."""
    num_weights = state.shape.numel()
    codes = torch.stack([words >> 4, words & 15], -1).reshape(-1)[:num_weights]
    absmax = state.absmax
    if state.nested:
        nested = state.state2
        outer = nested.absmax.repeat_interleave(nested.blocksize)[: len(absmax)]
        absmax = nested.code[absmax.long()] * outer + state.offset
    scales = absmax.repeat_interleave(state.blocksize)[:num_weights]
    return (state.code[codes.long()] * scales).reshape(state.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(128, 64), (96, 200), (33, 37), (1, 5), (257, 520)])
@pytest.mark.parametrize(
    "scheme",
    [
        BitsAndBytesScheme("nf4", double_quant=True, block_size=64),
        BitsAndBytesScheme("nf4", double_quant=False, block_size=32),
        BitsAndBytesScheme("fp4", double_quant=True, block_size=1024),
        BitsAndBytesScheme("fp4", double_quant=False, block_size=64),
    ],
    ids=str,
)
def test_slices_give_the_bytes_of_the_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: BitsAndBytesScheme,
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(nf4, "SLICE_ELEMENTS", 4096)
    torch.manual_seed(1)
    weight = torch.randn(shape).to(dtype)
    weight[0, :2] = 0
    write_tensors(tmp_path / "w.safetensors", {NAME: weight})
    entry = read_header(tmp_path / "w.safetensors")[NAME]
    codec = Nf4Codec(scheme, dtype, CPU)
    encoded = codec.encode(NAME, entry)

    words, state = quantize_4bit(
        weight,
        blocksize=scheme.block_size,
        compress_statistics=scheme.double_quant,
        quant_type=scheme.quant_type,
    )
    expected = {"weight": words}
    expected |= {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    assert encoded.tensors.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(encoded.tensors[key], tensor), key
    for key, plan in codec.plan(shape).items():
        made = encoded.tensors[key]
        assert plan.shape in (None, tuple(made.shape))
        assert {"U8": torch.uint8, "F32": torch.float32}[plan.dtype] == made.dtype
    error = decode(words, state) - weight.float()
    assert encoded.weight_mse == pytest.approx(float(error.square().mean()), rel=1e-5)


def test_the_weight_is_cast_to_the_models_dtype_first(tmp_path: Path) -> None:
    weight = torch.randn(64, 64)
    write_tensors(tmp_path / "w.safetensors", {NAME: weight})
    scheme = BitsAndBytesScheme("nf4", double_quant=False, block_size=64)
    entry = read_header(tmp_path / "w.safetensors")[NAME]
    encoded = Nf4Codec(scheme, torch.bfloat16, CPU).encode(NAME, entry)
    words, state = quantize_4bit(weight.bfloat16(), quant_type="nf4")
    assert torch.equal(encoded.tensors["weight"], words)
    assert torch.equal(encoded.tensors["weight.absmax"], state.absmax)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    weight = torch.randn(64, 64)
    weight[5, 5] = value
    write_tensors(tmp_path / "w.safetensors", {NAME: weight})
    scheme = BitsAndBytesScheme("nf4", double_quant=True, block_size=64)
    entry = read_header(tmp_path / "w.safetensors")[NAME]
    with pytest.raises(InputError, match=f"tensor {NAME} holds NaN or infinity"):
        Nf4Codec(scheme, torch.float32, CPU).encode(NAME, entry)
