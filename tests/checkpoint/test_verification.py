from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.checkpoint.verification import verify_checkpoint
from llmopt.errors import InputError
from tests.quant.layers import make_options
from tests.quant.pipeline import Quantized, quantize

pytestmark = pytest.mark.usefixtures("one_thread")

LAYER = "model.layers.1.mlp.down_proj"


def spoil(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Changes the weights of a checkpoint with another tool."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def gptq(model: Path, tmp_path: Path) -> Quantized:
    """A quantised model that a test may damage."""
    return quantize(model, tmp_path)


def test_plain_checkpoint_is_sound(small_model: Path) -> None:
    report = verify_checkpoint(small_model)
    assert report.faults == []
    assert report.description == "llama, 2 blocks, bfloat16"
    assert report.num_tensors == 2 * 9 + 3


@pytest.mark.parametrize("order", ["natural", "desc_act", "act_group_aware"])
@pytest.mark.parametrize("quant_format", ["gptq", "compressed-tensors"])
def test_quantised_checkpoint_is_sound(
    small_model: Path, tmp_path: Path, quant_format: QuantFormat, order: str
) -> None:
    options = make_options(order=order, sym=False)
    result = quantize(small_model, tmp_path, options=options, quant_format=quant_format)
    report = verify_checkpoint(result.folder)
    assert report.faults == []
    assert report.description == f"llama, 2 blocks, bfloat16, {quant_format} 4 bits group 32"


def test_damage_that_headers_do_not_show(gptq: Quantized) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.norm.weight"][3] = float("nan")
        tensors[f"{LAYER}.scales"][1, 2] = -1  # no fault: AutoRound writes such
        tensors[f"{LAYER}.scales"][2, 0] = float("inf")

    spoil(gptq.folder, change)
    assert sorted(verify_checkpoint(gptq.folder).faults) == [
        f"{LAYER}.scales holds NaN or infinity",
        "model.norm.weight holds NaN or infinity",
    ]


@pytest.mark.parametrize(
    ("column", "group", "fault"),
    [
        (0, 3, "g_idx runs 0..3, but there are 3 groups"),
        (0, -1, "g_idx runs -1..2, but there are 3 groups"),
        (0, 1, "g_idx is not in order, but desc_act is false"),
    ],
)
def test_group_index_is_checked(gptq: Quantized, column: int, group: int, fault: str) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"{LAYER}.g_idx"][column] = group

    spoil(gptq.folder, change)
    assert verify_checkpoint(gptq.folder).faults == [f"{LAYER}: {fault}"]


@pytest.mark.parametrize("shape", [[64, 60], [-1, 64], [128, 64]])
def test_stored_shape_is_checked(model: Path, tmp_path: Path, shape: list[int]) -> None:
    folder = quantize(model, tmp_path, quant_format="compressed-tensors").folder
    name = "model.layers.1.self_attn.o_proj"

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"{name}.weight_shape"] = torch.tensor(shape)

    spoil(folder, change)
    (fault,) = verify_checkpoint(folder).faults
    assert fault.startswith(f"{name}: weight_shape is {shape}, config.json says [")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "quantize_config.json is not valid JSON"),
        ('{"bits": 8}', "quantize_config.json and config.json's quantization_config differ in"),
    ],
)
def test_second_config_is_checked(gptq: Quantized, text: str, fault: str) -> None:
    (gptq.folder / "quantize_config.json").write_text(text)
    faults = verify_checkpoint(gptq.folder).faults
    assert faults
    assert all(found.startswith(fault) for found in faults)


def test_group_that_holds_too_many_columns(model: Path, tmp_path: Path) -> None:
    result = quantize(model, tmp_path, options=make_options(order="desc_act"))

    def change(tensors: dict[str, Tensor]) -> None:
        g_idx = tensors[f"{LAYER}.g_idx"]
        g_idx[torch.nonzero(g_idx == 1)[0]] = 0

    spoil(result.folder, change)
    assert verify_checkpoint(result.folder).faults == [f"{LAYER}: a group holds 33 columns"]


def test_folder_without_a_tokenizer(model: Path) -> None:
    for path in model.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="holds no tokenizer"):
        verify_checkpoint(model)
