from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llmopt.checkpoint.checkpoint import Checkpoint, linear_names
from llmopt.checkpoint.safetensors_header import read_header
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.checkpoint.tensor_files import read_tensor, write_tensors
from llmopt.errors import InputError
from tests.models import edit_json
from tests.quant.pipeline import Quantized, make_small_model

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Rewrites model.safetensors after `change` had its way with the tensors."""
    path = folder / "model.safetensors"
    tensors = {name: read_tensor(entry) for name, entry in read_header(path).items()}
    change(tensors)
    write_tensors(path, tensors)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_opens_every_family_and_dtype(tmp_path: Path, family: str, dtype: str) -> None:
    make_small_model(tmp_path, family, dtype=getattr(torch, dtype))
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.dtype == dtype
    assert checkpoint.quantization is None
    checkpoint.require_unquantized()
    names = {name for name, _ in linear_names(checkpoint.config)}
    assert len(names) == 2 * 7
    assert {f"{name}.weight" for name in names} <= checkpoint.tensors.keys()
    assert checkpoint.weight_bytes() == sum(e.num_bytes for e in checkpoint.tensors.values())


def test_lists_a_blocks_tensors(small_model: Path) -> None:
    names = Checkpoint.open(small_model).block_tensor_names(1)
    assert Q_PROJ in names
    assert len(names) == 7 + 2
    assert all(name.startswith("model.layers.1.") for name in names)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_size", 96, r"embed_tokens\.weight has shape \[320, 64\], expected \[320, 96\]"),
        ("vocab_size", 321, r"embed_tokens\.weight has shape \[320, 64\], expected \[321, 64\]"),
        ("intermediate_size", 128, r"gate_proj\.weight has shape \[96, 64\], expected \[128, 64\]"),
        ("num_attention_heads", 8, r"q_proj\.weight has shape \[64, 64\], expected \[128, 64\]"),
        ("num_key_value_heads", 4, r"k_proj\.weight has shape \[32, 64\], expected \[64, 64\]"),
        ("head_dim", 32, r"q_proj\.weight has shape \[64, 64\], expected \[128, 64\]"),
        ("num_hidden_layers", 3, r"layers\.2\.input_layernorm\.weight \[64\] is missing"),
        ("num_hidden_layers", 1, r"layers\.1\.\S+ belongs to no part of the model"),
        ("tie_word_embeddings", None, None),
        ("attention_bias", True, r"proj\.bias \[\d+\] is missing"),
        ("mlp_bias", True, r"proj\.bias \[\d+\] is missing"),
    ],
)
def test_config_that_disagrees_with_the_weights(
    model: Path, key: str, value: object, message: str | None
) -> None:
    edit_json(model / "config.json", **{key: value})
    if message is None:  # untied is what a missing key means
        assert "lm_head.weight" in Checkpoint.open(model).tensors
        return
    with pytest.raises(InputError, match=f"config.json and the weights disagree.*{message}"):
        Checkpoint.open(model)


def test_missing_tensor(model: Path) -> None:
    edit_weights(model, lambda tensors: tensors.pop(Q_PROJ))
    with pytest.raises(InputError, match=rf"disagree: tensor {Q_PROJ} \[64, 64\] is missing"):
        Checkpoint.open(model)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.bias", "visual.patch_embed"])
def test_extra_tensor(model: Path, name: str) -> None:
    edit_weights(model, lambda tensors: tensors.update({name: torch.ones(64)}))
    with pytest.raises(InputError, match=f"tensor {name} belongs to no part of the model"):
        Checkpoint.open(model)


def test_buffers_of_old_exports_are_no_extra(model: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(model, lambda tensors: tensors.update({name: torch.ones(8)}))
    assert Checkpoint.open(model).dtype == "bfloat16"


def test_tied_copy_of_the_embeddings_is_no_extra(model: Path) -> None:
    edit_json(model / "config.json", tie_word_embeddings=True)
    assert Checkpoint.open(model).config.tie_word_embeddings


def test_wrong_shape(model: Path) -> None:
    edit_weights(model, lambda tensors: tensors.update({Q_PROJ: torch.ones(64, 32)}))
    message = rf"tensor {Q_PROJ} has shape \[64, 32\], expected \[64, 64\]"
    with pytest.raises(InputError, match=message):
        Checkpoint.open(model)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.int32])
def test_weights_of_another_dtype(model: Path, dtype: torch.dtype) -> None:
    edit_weights(model, lambda tensors: tensors.update({Q_PROJ: torch.ones(64, 64).to(dtype)}))
    with pytest.raises(InputError, match=rf"tensor {Q_PROJ} is \w+; supported: BF16, F16, F32"):
        Checkpoint.open(model)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_dtype_that_is_not_supported(model: Path, key: str) -> None:
    edit_json(model / "config.json", dtype=None, torch_dtype=None)
    edit_json(model / "config.json", **{key: "float8_e4m3fn"})
    with pytest.raises(InputError, match="dtype 'float8_e4m3fn' is not supported; supported: b"):
        Checkpoint.open(model)


def test_dtype_comes_from_the_weights_where_the_config_is_silent(model: Path) -> None:
    edit_json(model / "config.json", dtype=None, torch_dtype=None)
    assert Checkpoint.open(model).dtype == "bfloat16"


def test_quantised_already(small_gptq: Quantized) -> None:
    checkpoint = Checkpoint.open(small_gptq.folder)
    assert checkpoint.quantization is not None
    assert checkpoint.quantization.base.scheme == small_gptq.solver.options.scheme
    pattern = r"is quantised already \(gptq 4 bits group 32\)"
    with pytest.raises(InputError, match=pattern) as caught:
        checkpoint.require_unquantized()
    assert "original checkpoint" in str(caught.value.remedy)


@pytest.mark.parametrize("method", ["awq", "fp8"])
def test_quantised_by_another_method(model: Path, method: str) -> None:
    edit_json(model / "config.json", quantization_config={"quant_method": method})
    with pytest.raises(InputError, match=f"the checkpoint is quantised by '{method}'"):
        Checkpoint.open(model)


@pytest.mark.parametrize(
    "suffix",
    [
        "qweight",
        "weight_packed",
        "weight_scale",
        "weight.absmax",
        "weight.quant_state.bitsandbytes__nf4",
        "weight.quant_state.bitsandbytes__fp4",
    ],
)
def test_packed_weights_without_a_config_for_them(model: Path, suffix: str) -> None:
    layer = Q_PROJ.removesuffix(".weight")

    def pack(tensors: dict[str, Tensor]) -> None:
        tensors[f"{layer}.{suffix}"] = tensors.pop(Q_PROJ).to(torch.int32)

    edit_weights(model, pack)
    with pytest.raises(InputError, match=r"is quantised already.*has no quantization_config"):
        Checkpoint.open(model)


@pytest.mark.parametrize("suffix", ["qweight", "qzeros", "scales", "g_idx"])
def test_quantised_layer_that_lacks_a_tensor(
    small_gptq: Quantized, tmp_path: Path, suffix: str
) -> None:
    name = f"model.layers.1.mlp.up_proj.{suffix}"
    copy_folder(small_gptq.folder, tmp_path)
    edit_weights(tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(InputError, match=rf"tensor {name} \[.*\] is missing"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [("qweight", torch.int64), ("g_idx", torch.float32), ("scales", torch.int32)],
)
def test_quantised_layer_with_a_tensor_of_another_dtype(
    small_gptq: Quantized, tmp_path: Path, suffix: str, dtype: torch.dtype
) -> None:
    name = f"model.layers.1.mlp.up_proj.{suffix}"
    copy_folder(small_gptq.folder, tmp_path)
    edit_weights(tmp_path, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    with pytest.raises(InputError, match=rf"tensor {name} is \w+; supported: "):
        Checkpoint.open(tmp_path)


def test_quantised_layer_of_other_group_size_than_the_config(
    small_gptq: Quantized, tmp_path: Path
) -> None:
    copy_folder(small_gptq.folder, tmp_path)
    config = {"quant_method": "gptq", "bits": 4, "group_size": 64}
    edit_json(tmp_path / "config.json", quantization_config=config)
    with pytest.raises(InputError, match=r"qzeros has shape \[2, 8\], expected \[1, 8\]"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", [Q_PROJ, "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"]
)
def test_weights_that_are_not_finite_fail_where_they_are_read(
    model: Path, name: str, value: float
) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[5] = value

    edit_weights(model, spoil)
    streamed = StreamedModel(Checkpoint.open(model), torch.device("cpu"))
    with pytest.raises(InputError, match=rf"tensor {name} holds NaN or infinity"):
        read_everything(streamed)


def test_tokenizer_is_asked_for(model: Path) -> None:
    for path in model.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match=r"holds no tokenizer \(tokenizer\.json or"):
        Checkpoint.open(model).require_tokenizer()
    (model / "tokenizer.model").write_bytes(b"sentencepiece")
    Checkpoint.open(model).require_tokenizer()


def read_everything(model: StreamedModel) -> None:
    """Reads every weight of a model."""
    list(model.embed([torch.zeros(1, 2, dtype=torch.int64)]))
    for block in range(model.num_blocks):
        model.load_block(block)
    model.read_head()


def copy_folder(source: Path, target: Path) -> None:
    """Copies a checkpoint's files into an existing folder."""
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
