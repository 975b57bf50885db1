"""What a quantised checkpoint means: plain weights by the numpy dequantiser, rounded inputs."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from tests.checkpoint.numpy_dequantizer import dequantize_folder

SIDECARS = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def write_dequantized(
    artifact: Path, folder: Path, factor: float = 1.0, dtype: torch.dtype = torch.bfloat16
) -> Path:
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
        tensors[f"{name}.weight"] = weights.to(dtype).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in SIDECARS:
        if (artifact / name).exists():
            shutil.copyfile(artifact / name, folder / name)
    return folder


def round_linear_inputs(
    model: torch.nn.Module, kind: str, skipped: tuple[str, ...] = ("lm_head",)
) -> None:
    """Makes a model round what its linear layers read, each token on its own.

    The largest value of a token goes to the end of the grid, 127 for "int", 448 for "float".
    Layers whose names end as one of `skipped` read what is given.
    """

    def round_input(
        _: torch.nn.Module, arguments: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        rows = arguments[0].double().numpy()
        scale = np.maximum(np.abs(rows).max(-1, keepdims=True), 1e-12)
        scale /= 127 if kind == "int" else 448
        steps = np.rint(rows / scale) if kind == "int" else round_to_float8(rows / scale)
        return (torch.from_numpy(steps * scale).to(arguments[0].dtype),)

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith(skipped):
            module.register_forward_pre_hook(round_input)


def round_to_float8(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounds to 3 bits of mantissa, ties to even, exponents from -6."""
    exponent = np.floor(np.log2(np.maximum(np.abs(values), 2.0**-6)))
    unit = 2.0 ** (exponent - 3)
    rounded: NDArray[np.float64] = np.clip(np.rint(values / unit) * unit, -448, 448)
    return rounded
