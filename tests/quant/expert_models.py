"""Small mixtures of experts, and what transformers computes in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from llmopt.quant.expert_policy import ExpertPolicy, StarvedPolicy
from tests.checkpoint.numpy_dequantizer import Layer, dequantize_folder, read_folder
from tests.quant.layers import make_options
from tests.quant.pipeline import Quantized, make_windows

FAMILIES = ("mixtral", "qwen3_moe")
NAMES = {
    "mixtral": ("block_sparse_moe.experts.{}.", ("w1", "w3", "w2")),
    "qwen3_moe": ("mlp.experts.{}.", ("gate_proj", "up_proj", "down_proj")),
}
FLOAT32 = {"dtype": torch.float32}
EXACT = make_options(scale_dtype=torch.float32)  # so that the reference below has no noise


def expert_layers(family: str, block: int, expert: int) -> list[str]:
    """Returns the full names of an expert's gate, up and down."""
    prefix, layers = NAMES[family]
    return [f"model.layers.{block}.{prefix.format(expert)}{layer}" for layer in layers]


@dataclass(frozen=True)
class Reference:
    """What transformers computes in the first block, whose layers are rounded up to the MLP.

    `inputs` are the mixture's, [N, D]; `chosen` the experts that each token goes through.
    """

    inputs: Tensor
    chosen: list[set[int]]

    def inputs_of(self, expert: int) -> Tensor:
        """Returns the rows that go through an expert."""
        return self.inputs[[expert in chosen for chosen in self.chosen]]


def load_rounded(model: Path, layers: dict[str, Layer], family: str, num_blocks: int) -> Any:
    """Loads the original into transformers, with the rounded weights of the first blocks."""
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    for name, layer in layers.items():
        if int(name.split(".")[2]) >= num_blocks:
            continue
        weights = torch.from_numpy(layer.weights)
        if ".experts." not in name:
            reference.get_submodule(name).weight.data.copy_(weights)
            continue
        expert, kind = int(name.split(".")[-2]), NAMES[family][1].index(name.rpartition(".")[2])
        fused = reference.model.layers[int(name.split(".")[2])].mlp.experts
        if kind == 2:
            fused.down_proj.data[expert] = weights
        else:
            size = len(weights)
            fused.gate_up_proj.data[expert, kind * size : (kind + 1) * size] = weights
    return reference


def watch_inputs(reference: Any, ids_NT: Tensor, module: str) -> Tensor:
    """Returns what a module reads when the model runs, [N, D]."""
    seen: list[Tensor] = []
    hook = reference.get_submodule(module).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].flatten(0, -2))
    )
    with torch.inference_mode():
        reference(ids_NT)
    hook.remove()
    return seen[0]


def run_reference(model: Path, result: Quantized, family: str) -> Reference:
    """Runs transformers on the calibration windows, and routes by hand."""
    rounded = dequantize_folder(result.folder)
    attention = {name: layer for name, layer in rounded.items() if ".self_attn." in name}
    reference = load_rounded(model, attention, family, 1)
    inputs = watch_inputs(reference, torch.from_numpy(make_windows().ids_NT), "model.layers.0.mlp")
    router = read_folder(model)[f"model.layers.0.{NAMES[family][0].partition('.')[0]}.gate.weight"]
    logits = inputs.double().numpy() @ router.to_numpy().astype(np.float64).T
    chosen = [set(row.argsort()[-2:].tolist()) for row in logits]
    return Reference(inputs, chosen)


def mean_square(X_ND: Tensor) -> Tensor:
    """Returns the Hessian, X^T X over tokens."""
    return X_ND.T @ X_ND / len(X_ND)


def make_policy(starved: StarvedPolicy, min_tokens: int | None) -> ExpertPolicy:
    """Returns a policy for models in float32."""
    return ExpertPolicy(min_tokens, starved, torch.float32)
