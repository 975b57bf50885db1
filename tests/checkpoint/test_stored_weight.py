"""Layers of bitsandbytes and W8A8 checkpoints, read back, and damaged."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.resident_model import load_resident_model
from llmopt.checkpoint.rounded_inputs import RoundedInputLinear
from llmopt.checkpoint.stored_weight import read_stored_weight
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.checkpoint.verification import verify_checkpoint
from llmopt.errors import InputError
from llmopt.steps.quantize_fp8 import QuantizeFp8
from llmopt.steps.quantize_int8 import QuantizeInt8
from llmopt.steps.quantize_nf4 import QuantizeNf4
from tests.checkpoint.numpy_dequantizer import dequantize_folder
from tests.models import edit_json, make_model
from tests.steps.stream_steps import run_step

CPU = torch.device("cpu")
LAYER = "model.layers.1.mlp.down_proj"
STATE = f"{LAYER}.weight.quant_state.bitsandbytes__nf4"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untied Llama in each format; do not write into it."""
    root = tmp_path_factory.mktemp("stored")
    source = make_model(root / "source", tie_word_embeddings=False, vocab_size=320)
    steps = {
        "nf4": QuantizeNf4(uses="quantize.nf4", model="base"),
        "int8": QuantizeInt8(uses="quantize.int8", model="base"),
        "fp8": QuantizeFp8(uses="quantize.fp8", model="base"),
        "nf4-head": QuantizeNf4(uses="quantize.nf4", model="base", skip=()),
        "int8-head": QuantizeInt8(uses="quantize.int8", model="base", skip=()),
    }
    made = {name: run_step(step, source, root / name)[0] for name, step in steps.items()}
    return {**made, "source": source}


@pytest.fixture
def damaged(models: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Copies one of them with its tensors changed."""

    def make(name: str, change: Callable[[dict[str, Tensor]], None]) -> Path:
        folder = tmp_path / "damaged"
        folder.mkdir()
        for path in models[name].iterdir():
            if path.suffix != ".safetensors":
                (folder / path.name).write_bytes(path.read_bytes())
        tensors = load_file(models[name] / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        return folder

    return make


@pytest.mark.parametrize("name", ["int8", "fp8", "int8-head"])
def test_channel_weights_are_what_numpy_reads(models: dict[str, Path], name: str) -> None:
    checkpoint = Checkpoint.open(models[name])
    layers = dequantize_folder(models[name])
    assert ("lm_head" in layers) == name.endswith("head")
    for layer, expected in layers.items():
        found = read_stored_weight(checkpoint, layer, CPU, torch.float32)
        assert torch.equal(found, torch.from_numpy(expected.weights))


@pytest.mark.parametrize("name", ["nf4", "nf4-head"])
def test_nf4_weights_are_what_transformers_dequantises(models: dict[str, Path], name: str) -> None:
    checkpoint = Checkpoint.open(models[name])
    loaded = AutoModelForCausalLM.from_pretrained(models[name]).dequantize()
    found = dict(loaded.named_parameters())
    streamed = StreamedModel(checkpoint, CPU, torch.bfloat16)
    for layer in (LAYER, "model.layers.0.self_attn.k_proj", "lm_head"):
        weight = streamed.read_weight(f"{layer}.weight")
        assert torch.equal(weight, found[f"{layer}.weight"])


@pytest.mark.parametrize(("name", "rounds"), [("int8", True), ("fp8", True), ("nf4", False)])
def test_models_round_inputs_as_their_server_does(
    models: dict[str, Path], name: str, rounds: bool
) -> None:
    model = load_resident_model(Checkpoint.open(models[name]), CPU, torch.float32)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    rounded = {n for n, m in linears.items() if isinstance(m, RoundedInputLinear)}
    assert len(linears) == 3 * 7 + 1
    assert rounded == (set(linears) - {"lm_head"} if rounds else set())


def test_w8a16_checkpoints_leave_inputs_as_they_are(
    models: dict[str, Path], damaged: Callable[..., Path]
) -> None:
    folder = damaged("fp8", lambda _: None)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    config["config_groups"]["group_0"]["input_activations"] = None
    edit_json(folder / "config.json", quantization_config=config)
    checkpoint = Checkpoint.open(folder)
    model = load_resident_model(checkpoint, CPU, torch.float32)
    assert not any(isinstance(module, RoundedInputLinear) for module in model.modules())
    assert "W8A16" in verify_checkpoint(folder).description


@pytest.mark.parametrize("name", ["nf4", "int8", "fp8", "nf4-head", "int8-head"])
def test_whole_checkpoints_are_sound(models: dict[str, Path], name: str) -> None:
    assert verify_checkpoint(models[name]).faults == []


def set_state(text: bytes) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[STATE] = torch.tensor(list(text), dtype=torch.uint8)

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (set_state(b"{"), "its quant_state is damaged"),
        (set_state(b"[]"), "its quant_state is damaged"),
        (
            set_state(b'{"shape": [128, 0], "dtype": "bfloat16", "blocksize": 64}'),
            "its quant_state is damaged",
        ),
        (
            set_state(b'{"shape": [128, 256], "dtype": "bfloat16", "blocksize": 64}'),
            "its quant_state and its tensors disagree",
        ),
        (
            set_state(
                b'{"shape": [128, 256], "dtype": "bfloat16", "blocksize": 32, '
                b'"nested_blocksize": 256, "nested_offset": 0.1}'
            ),
            "its quant_state and its tensors disagree",
        ),
        (
            set_state(
                b'{"shape": [256, 128], "dtype": "bfloat16", "blocksize": 64, '
                b'"nested_blocksize": 256, "nested_offset": 0.1}'
            ),
            r"decodes to \[256, 128\], config.json says \[128, 256\]",
        ),
    ],
    ids=["torn", "a-list", "no-columns", "not-nested", "other-blocks", "transposed"],
)
def test_damaged_states_are_told(
    damaged: Callable[..., Path], change: Callable[[dict[str, Tensor]], None], fault: str
) -> None:
    (found,) = verify_checkpoint(damaged("nf4", change)).faults
    assert found.startswith(LAYER)
    assert re.search(fault, found)


def test_damaged_scales_are_told(damaged: Callable[..., Path]) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"{LAYER}.weight_scale"][3] = -1
        values = tensors["model.layers.0.mlp.up_proj.weight"].view(torch.uint8)
        values[0, 0] = 0x7F  # NaN of float8

    folder = damaged("fp8", change)
    assert set(verify_checkpoint(folder).faults) == {
        f"{folder}: layer model.layers.0.mlp.up_proj holds NaN or infinity",
        f"{LAYER}: a scale is not positive",
        "model.layers.0.mlp.up_proj.weight holds NaN or infinity",
    }
    with pytest.raises(InputError, match="up_proj holds NaN"):
        StreamedModel(Checkpoint.open(folder), CPU).load_block(0)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("int8", f"{LAYER}.weight_scale", "weight_scale .* is missing"),
        ("nf4", f"{LAYER}.weight.nested_absmax", "nested_absmax .* is missing"),
    ],
)
def test_missing_tensors_are_named(
    damaged: Callable[..., Path], name: str, tensor: str, message: str
) -> None:
    folder = damaged(name, lambda tensors: tensors.pop(tensor))
    with pytest.raises(InputError, match=message):
        Checkpoint.open(folder)
