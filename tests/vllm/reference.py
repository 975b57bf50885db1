"""A plain bf16 checkpoint of what a quantised one's integers mean, by the numpy dequantiser."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.checkpoint.numpy_dequantizer import dequantize_folder

SIDECARS = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def write_dequantized(artifact: Path, folder: Path, factor: float = 1.0) -> Path:
    """Writes the dequantised model, its weights times `factor`; returns its folder."""
    folder.mkdir()
    layers = dequantize_folder(artifact)
    stored = load_file(artifact / "model.safetensors")
    tensors = {
        name: tensor
        for name, tensor in stored.items()
        if name.endswith(".bias") or name.rpartition(".")[0] not in layers
    }
    for name, layer in layers.items():
        weights = torch.from_numpy(layer.weights.copy()) * factor
        tensors[f"{name}.weight"] = weights.to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in SIDECARS:
        if (artifact / name).exists():
            shutil.copyfile(artifact / name, folder / name)
    return folder
