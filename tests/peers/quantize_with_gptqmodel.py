"""Makes GPTQ checkpoints with GPTQModel. Runs inside .venvs/gptqmodel, never imports llmopt.

    python quantize_with_gptqmodel.py MODELS_DIR OUT_DIR [NAME ...]

`tests/peers/make_checkpoints.py` calls it and says what the folders hold.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(
    GPTQMODEL_CPU_WORKERS="2",  # its loader asks for 2 and fails with the 1 it gives 2 cores
    GPTQMODEL_TORCH_EXTENSIONS_DIR=str(Path(sys.prefix) / "torch_extensions"),
    HF_HUB_OFFLINE="1",
    CUDA_VISIBLE_DEVICES="",
)

import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from gptqmodel.nn_modules.qlinear import BaseQuantLinear
from peer_reference import load_rows, make_cases, save_expected

DESC_ACT = {"desc_act": True, "act_group_aware": False}
OVERRIDES = {
    r"+:model\.layers\.0\.self_attn\.(q|k)_proj": {"bits": 8, "group_size": 64},
    r"+:.*\.gate_proj": {"sym": False, "group_size": 32},
    r"-:.*layers\.1\.mlp\.down_proj": {},
}
# name -> (model, settings of QuantizeConfig)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gptqmodel-v1-w4": ("tied", {"bits": 4, "group_size": 128}),
    "gptqmodel-v1-w4-desc-act": ("tied", {"bits": 4, "group_size": 32, **DESC_ACT}),
    "gptqmodel-v1-w4-channel": ("tied", {"bits": 4, "group_size": -1, "act_group_aware": False}),
    "gptqmodel-v1-w4-asym": ("tied", {"bits": 4, "group_size": 64, "sym": False}),
    "gptqmodel-v1-w8": ("short", {"bits": 8, "group_size": 32}),
    "gptqmodel-v1-w2": ("tied", {"bits": 2, "group_size": 32}),
    "gptqmodel-v1-w3": ("tied", {"bits": 3, "group_size": 32}),
    "gptqmodel-v2-w4": ("tied", {"bits": 4, "group_size": 128, "format": "gptq_v2"}),
    "gptqmodel-v2-w4-asym": (
        "tied", {"bits": 4, "group_size": 32, "sym": False, "format": "gptq_v2", **DESC_ACT},
    ),
    "gptqmodel-v2-w3-asym": (
        "tied", {"bits": 3, "group_size": 64, "sym": False, "format": "gptq_v2"},
    ),
    "gptqmodel-dynamic": ("tied", {"bits": 4, "group_size": 128, "dynamic": OVERRIDES}),
    "gptqmodel-lm-head": ("untied", {"bits": 4, "group_size": 64, "lm_head": True}),
}  # fmt: skip


def dequantize_layers(folder: Path) -> dict[str, torch.Tensor]:
    """Returns every packed layer's weight [O, I] in float32, unpacked by GPTQModel."""
    model = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
    weights = {}
    for name, module in model.model.named_modules():
        if isinstance(module, BaseQuantLinear):
            module.scales = module.scales.float()  # else it multiplies, and rounds, in float16
            weight_IO = type(module).dequantize_weight(module)
            weights[name] = weight_IO.T.contiguous()
    return weights


def make_case(models: Path, name: str, output: Path) -> None:
    """Quantises one model and saves what GPTQModel then reads."""
    model_name, settings = CASES[name]
    # It writes this folder's name into config.json: by default one of the machine it ran on.
    config = QuantizeConfig(**settings, offload_to_disk_path="offload")
    model = GPTQModel.load(str(models / model_name), config, device="cpu")
    model.quantize(load_rows(models), batch_size=1, calibration_data_min_length=0)
    model.save(str(output))
    save_expected(models, model_name, dequantize_layers(output), output)


if __name__ == "__main__":
    make_cases(CASES, make_case)
